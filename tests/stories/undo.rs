//! What cannot succeed is undone, exactly, and says why.

use crate::READ_MODELS;
use commands::{fraud::Rules, shipping::Behaviour};
use futures::future::try_join_all;
use waybill::{
    api::{Api, Cart},
    system::Service,
};
use waybill_tests::World;

const STOCK: u32 = 100;
const MONEY: i64 = 100_000;

struct Shop {
    world: World,
    cart: Cart,
    position: String,
}

async fn open() -> Shop {
    let world = World::start(READ_MODELS).await.unwrap();
    let stocked = world.api.stock_product("p", ("TEA", "Tea", 450), STOCK).await.unwrap();
    let user_id = world.api.register("u").await.unwrap();
    let (account_id, _) = world.api.open_account("a", user_id, MONEY).await.unwrap();
    let cart = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 2)], country: "DE".to_owned() };
    Shop { world, cart, position: stocked.position().unwrap().to_owned() }
}

/// Stock and money as the queries have them: (available, balance).
async fn left(api: &Api, cart: &Cart) -> (u64, i64) {
    let item = api.get(Service::Inventory, "/inventory/TEA").await.unwrap().body;
    let account = api.get(Service::Payments, &format!("/accounts/{}", cart.account_id)).await.unwrap().body;
    (item["available"].as_u64().unwrap(), account["balance"]["amount"].as_i64().unwrap())
}

impl Shop {
    /// Places an order that must fail, and gives the reason.
    async fn fails(&self, key: &str, cart: &Cart) -> String {
        let placed = self.world.api.place(key, cart, &[&self.position]).await.unwrap();
        let order = placed.expect(202, "an order").unwrap().id().unwrap();
        self.world.settled().await.unwrap();
        let order = self.world.api.order(order).await.unwrap().body;
        assert_eq!((&order["status"], &order["stage"]), (&"failed".into(), &"undone".into()), "{order}");
        order["reason"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_gives_everything_back_and_names_its_reason() {
    let mut shop = open().await;
    let outside = shop.world.config.outside.clone();

    let many = Cart { items: vec![("TEA".to_owned(), STOCK + 1)], ..shop.cart.clone() };
    assert_eq!(shop.fails("stock", &many).await, "out_of_stock");

    let nobody = Cart { account_id: shop.world.config.clock.uuid(), ..shop.cart.clone() };
    let unknown = shop.world.api.place("nobody", &nobody, &[&shop.position]).await.unwrap();
    // Refused at once where the service knows accounts, failed later where it does not: never paid.
    assert!(unknown.status == 202 || (400..500).contains(&unknown.status), "{unknown:?}");

    outside.fraud.set_rules(Rules { amount_limit: Some(1), ..Rules::default() });
    assert_eq!(shop.fails("fraud", &shop.cart).await, "fraud_declined");
    outside.fraud.set_rules(Rules { fail_closed_above: 0, ..Rules::default() });
    outside.fraud.set_behaviour(commands::fraud::Behaviour::Down);
    assert_eq!(shop.fails("closed", &shop.cart).await, "fraud_unavailable");
    outside.fraud.set_behaviour(commands::fraud::Behaviour::Up);
    outside.fraud.set_rules(Rules::default());

    outside.carrier.set_behaviour(Behaviour::Refuse);
    assert_eq!(shop.fails("carrier", &shop.cart).await, "carrier_refused");
    outside.carrier.set_behaviour(Behaviour::Accept);

    assert_eq!(left(&shop.world.api, &shop.cart).await, (STOCK.into(), MONEY));
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_at_any_moment_ends_in_completed_or_undone() {
    const ORDERS: usize = 60;
    let mut shop = open().await;
    let (api, cart, position) = (&shop.world.api, &shop.cart, &shop.position);
    let one = |number: usize| async move {
        let placed = api.place(&format!("o-{number}"), cart, &[position]).await?.expect(202, "an order")?;
        let order = placed.id()?;
        // A moment later each time: from before the reservation to after the completion.
        for _ in 0..number / 3 {
            api.order(order).await?;
        }
        let cancelled = api.cancel(&format!("c-{number}"), order).await?;
        assert!(matches!(cancelled.status, 202 | 409), "{cancelled:?}");
        Ok::<_, waybill::failure::Failure>(cancelled.status == 202)
    };
    let mut cancelled = 0;
    for group in (0..ORDERS).collect::<Vec<_>>().chunks(10) {
        let group = try_join_all(group.iter().map(|number| one(*number))).await.unwrap();
        cancelled += group.into_iter().filter(|yes| *yes).count();
    }
    let audit = shop.world.settled().await.unwrap();
    let ends = audit.ends();
    let count = |end| ends.get(end).copied().unwrap_or_default();
    assert_eq!(
        (count("cancelled"), count("completed") + count("cancelled")),
        (cancelled, ORDERS),
        "{ends:?}"
    );
    assert!(cancelled > 0, "the first ones are cancelled at once");
    let paid = i64::try_from(count("completed")).unwrap() * 900;
    let held = u64::try_from(count("completed")).unwrap() * 2;
    assert_eq!(left(&shop.world.api, &shop.cart).await, (u64::from(STOCK) - held, MONEY - paid));
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_carrier_that_is_down_delays_and_a_slow_one_too() {
    let mut shop = open().await;
    let outside = shop.world.config.outside.clone();
    outside.carrier.set_behaviour(Behaviour::Down);
    let placed = shop.world.api.place("o", &shop.cart, &[&shop.position]).await.unwrap();
    let order = placed.expect(202, "an order").unwrap().id().unwrap();
    waybill_tests::eventually("the order is paid", std::time::Duration::from_secs(20), async || {
        let answer = shop.world.api.order(order).await.ok()?;
        (answer.body["stage"] == "charged").then_some(())
    })
    .await;
    outside.carrier.set_behaviour(Behaviour::Slow(std::time::Duration::from_millis(50)));
    assert_eq!(shop.world.settled().await.unwrap().ends(), [("completed", 1)].into());
    assert!(shop.world.stop().await);
}
