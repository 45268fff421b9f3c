//! The orders of the demo: some succeed, and one of each kind cannot.

use super::board::{Board, Line};
use crate::{
    api::{Api, Cart},
    failure::Failure,
};
use service::Clock;
use std::{fmt, sync::Arc, time::Duration};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep},
};
use uuid::Uuid;

/// Orders under way at the same time.
const AT_ONCE: usize = 16;
/// An order that takes longer is reported as stuck.
const ENDS_WITHIN: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

/// How an order ended.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) order: Uuid,
    status: String,
    reason: Option<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "{}: {reason}", self.status),
            None => f.write_str(&self.status),
        }
    }
}

/// One order of the demo.
struct Scene {
    label: &'static str,
    cart: Cart,
    cancel: bool,
}

/// Plays every scene, many at once, and says how each order ended.
pub(super) async fn play(api: &Api, clock: &Clock, orders: usize) -> Result<Vec<Outcome>, Failure> {
    // New for every run: what it does to stock and money is then nobody else's.
    let run = clock.uuid().simple().to_string();
    let (scenes, positions) = prepare(api, &run, orders).await?;
    let (board, room) = (Board::new(scenes.len()), Arc::new(Semaphore::new(AT_ONCE)));
    let positions: Arc<[String]> = positions.into();
    let mut actors = JoinSet::new();
    for (number, scene) in scenes.into_iter().enumerate() {
        let (line, room, positions) =
            (board.line(number + 1, scene.label), Arc::clone(&room), Arc::clone(&positions));
        let (api, key) = (api.clone(), format!("{run}-{number}"));
        actors.spawn(async move {
            let _turn = room.acquire().await?;
            act(&api, &key, &scene, &positions, &line).await
        });
    }
    let mut outcomes = Vec::new();
    while let Some(acted) = actors.join_next().await {
        outcomes.push(acted??);
    }
    Ok(outcomes)
}

/// Goods and customers, the orders they are for, and the positions that the orders service must have seen.
async fn prepare(api: &Api, run: &str, orders: usize) -> Result<(Vec<Scene>, Vec<String>), Failure> {
    let sku = |name: &str| format!("DEMO-{run}-{name}");
    let (tea, cup, lamp) = (sku("TEA"), sku("CUP"), sku("LAMP"));
    let plenty = u32::try_from(orders * 2 + 10)?;
    let rich_balance = i64::from(plenty) * 10_000;
    let mut positions = Vec::new();
    for (product, quantity) in [
        ((tea.as_str(), "Darjeeling, 100 g", 450), plenty),
        ((&cup, "Cup", 1200), plenty),
        ((&lamp, "The last lamp", 4900), 1),
    ] {
        let answer = api.stock_product(&format!("{run}-{}", product.0), product, quantity).await?;
        positions.extend(answer.position().map(str::to_owned));
    }
    let user_id = api.register(&format!("{run}-rich")).await?;
    let poor_user = api.register(&format!("{run}-poor")).await?;
    let (account_id, rich) = api.open_account(&format!("{run}-rich"), user_id, rich_balance).await?;
    let (poor_account, poor) = api.open_account(&format!("{run}-poor"), poor_user, 100).await?;
    positions.extend([rich, poor].iter().filter_map(|answer| answer.position().map(str::to_owned)));

    let cart = |items: &[(&String, u32)]| Cart {
        user_id,
        account_id,
        items: items.iter().map(|(sku, quantity)| ((*sku).clone(), *quantity)).collect(),
        country: "DE".to_owned(),
    };
    let usual = cart(&[(&tea, 2), (&cup, 1)]);
    let scene = |label, cart: &Cart, cancel| Scene { label, cart: cart.clone(), cancel };
    let mut scenes: Vec<_> = (0..orders).map(|_| scene("two teas and a cup", &usual, false)).collect();
    scenes.extend((0..3).map(|_| scene("the last lamp, wanted by three", &cart(&[(&lamp, 1)]), false)));
    let poor = Cart { user_id: poor_user, account_id: poor_account, ..usual.clone() };
    scenes.push(scene("a customer with too little money", &poor, false));
    let antarctica = Cart { country: "AQ".to_owned(), ..usual.clone() };
    scenes.push(scene("a country that the carrier does not serve", &antarctica, false));
    scenes.push(scene("cancelled at once by the customer", &usual, true));
    Ok((scenes, positions))
}

/// Places the order, cancels it where the scene says so, and follows it to its end.
async fn act(
    api: &Api,
    key: &str,
    scene: &Scene,
    positions: &[String],
    line: &Line,
) -> Result<Outcome, Failure> {
    let after: Vec<_> = positions.iter().map(String::as_str).collect();
    let placed = api.place(key, &scene.cart, &after).await?.expect(202, "an order")?;
    let order = placed.id()?;
    if scene.cancel {
        let cancelled = api.cancel(&format!("{key}-cancel"), order).await?;
        // Later than the completion it is refused, which is as good an end.
        if cancelled.status != 409 {
            cancelled.expect(202, "a cancellation")?;
        }
    }
    let deadline = Instant::now() + ENDS_WITHIN;
    loop {
        let answer = api.order(order).await?;
        let text = |field: &str| answer.body[field].as_str().map(str::to_owned);
        let stage = text("stage").unwrap_or_else(|| "accepted".to_owned());
        match text("status") {
            Some(status) if status != "pending" => {
                let outcome = Outcome { order, status, reason: text("reason") };
                line.ended(&outcome.to_string());
                return Ok(outcome);
            }
            _ => line.moved(&stage),
        }
        if Instant::now() > deadline {
            return Err(format!("order {order} is still {stage} after {ENDS_WITHIN:?}").into());
        }
        sleep(POLL).await;
    }
}
