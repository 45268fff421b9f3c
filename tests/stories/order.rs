//! An order on its way.

use crate::READ_MODELS;
use events::envelope::header;
use std::time::Duration;
use waybill::api::Cart;
use waybill_tests::{Subscriber, World, eventually};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn one_order_is_reserved_charged_scheduled_and_completed() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    let subscriber = Subscriber::listen(&world.nats.url(), "evt.>").await.unwrap();
    let api = &world.api;
    let stocked = api.stock_product("p", ("TEA", "Tea", 450), 3).await.unwrap();
    let user_id = world.api.register("u").await.unwrap();
    let (account_id, _) = api.open_account("a", user_id, 1000).await.unwrap();
    let cart = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 2)], country: "DE".to_owned() };
    let placed = api.place("o", &cart, &[stocked.position().unwrap()]).await.unwrap();
    let placed = placed.expect(202, "an order").unwrap();
    assert_eq!(placed.body["status"], "pending");
    assert_eq!(placed.body["totalAmount"]["amount"], 900);

    let audit = world.settled().await.unwrap();
    assert_eq!(audit.ends(), [("completed", 1)].into());
    let order = placed.id().unwrap();
    let answer = api.order(order).await.unwrap();
    assert_eq!(answer.body["stage"], "scheduled");

    let flow =
        ["order.created", "inventory.reserved", "payment.charged", "shipping.scheduled", "order.completed"];
    let seen = eventually("the whole flow on the wire", SOON, async || {
        let seen = subscriber.received();
        let of_flow: Vec<_> =
            seen.into_iter().filter(|message| flow.contains(&message.header(header::TYPE))).collect();
        (of_flow.len() >= flow.len()).then_some(of_flow)
    })
    .await;
    assert_eq!(seen.iter().map(|message| message.header(header::TYPE)).collect::<Vec<_>>(), flow);
    let correlation = placed.headers["x-correlation-id"].to_str().unwrap();
    for message in &seen {
        assert_eq!(message.header(header::CORRELATION), correlation);
        assert_eq!(message.header(header::SPEC_VERSION), "1.0");
        assert_eq!(message.header(header::MSG_ID), message.header(header::ID));
        assert_eq!(message.body["orderId"], order.to_string());
    }
    assert!(world.stop().await, "everything is finished in time");
}
