//! Inventory: the catalogue, the stock, and what orders hold of it.
//!
//! A reservation of several SKUs is one decision: all of them or none, together with the order's own reservation,
//! which is what makes a repeated or late fact harmless.

mod http;
mod item;
mod product;
mod react;
mod reservation;

pub use item::{Item, ItemCommand, ItemRejection, MAX_ON_HAND, StockChange};
pub use product::{Product, ProductCommand, ProductRejection, ProductState};
pub use react::{Effect, INTERESTS, Release, react};
pub use reservation::{Held, Reservation, ReservationCommand, ReservationRejection, ReservationState};

use crate::{
    Decision, Key, Stop,
    environment::{Build, WriteSide},
    reactor,
};
use events::{
    OrderId, Sku,
    inventory::{ReservationFailed, Shortage},
    orders::{Line, Ordered, Reason},
};

/// The write side of inventory.
pub(crate) fn write_side(build: Build) -> WriteSide {
    let http = http::routes(build.api());
    let handler = reactor::handler(build.reacting("service:inventory"), react, Effect::decide);
    build.finish(http, INTERESTS, &handler)
}

/// Changes the stock of a product of the catalogue: goods arrive, or a count is put right.
pub fn change_stock(decision: &mut Decision, sku: &Sku, change: StockChange) -> Result<(), Stop> {
    let (product, item) = (Key::<Product>::new(sku), Key::<Item>::new(sku));
    decision.need([product.load(), item.load()])?;
    // Read without a guard: a product never leaves the catalogue.
    if decision.state(&product)?.is_none() {
        return Err(ProductRejection::Unknown.into());
    }
    decision.apply(&item, ItemCommand { sku: sku.clone(), change })
}

/// Holds everything an order asks for, or nothing. Nothing happens where that was decided before.
pub fn reserve(decision: &mut Decision, order: &Ordered) -> Result<(), Stop> {
    let reservation = Key::<Reservation>::new(order.order_id);
    let items = order.items.iter().map(|line| Key::<Item>::new(&line.sku).load());
    decision.need(items.chain([reservation.likely_new()]))?;
    if *decision.state(&reservation)? != ReservationState::Undecided {
        return Ok(());
    }
    let Ordered { order_id, ref items, workflow, .. } = *order;
    let shortages = shortages(decision, items)?;
    if !shortages.is_empty() {
        let failed = ReservationFailed { order_id, reason: Reason::OutOfStock, shortages, workflow };
        return decision.apply(&reservation, ReservationCommand::Fail(failed));
    }
    for Line { sku, quantity, .. } in items {
        change_held(decision, sku, StockChange::Reserve { order_id, quantity: *quantity })?;
    }
    decision.apply(&reservation, ReservationCommand::Reserve(Box::new(order.clone().into())))
}

/// Frees what an order holds. Where nothing was decided yet it is decided now that nothing will be held, so that an
/// `order.created` that comes after its own `order.cancelled` reserves nothing.
pub fn release(decision: &mut Decision, release: &Release) -> Result<(), Stop> {
    let Release { order_id, reason, workflow } = *release;
    let reservation = Key::<Reservation>::new(order_id);
    match decision.state(&reservation)?.clone() {
        ReservationState::Undecided => {
            let failed = ReservationFailed { order_id, reason, shortages: vec![], workflow };
            decision.apply(&reservation, ReservationCommand::Fail(failed))
        }
        ReservationState::Reserved(held) => {
            decision.need(held.iter().map(|held| Key::<Item>::new(&held.sku).load()))?;
            for Held { sku, quantity } in held {
                change_held(decision, &sku, StockChange::Release { order_id, quantity })?;
            }
            decision.apply(&reservation, ReservationCommand::Release { order_id, reason, workflow })
        }
        ReservationState::Failed | ReservationState::Released | ReservationState::Shipped => Ok(()),
    }
}

/// What an order holds leaves the house.
pub fn ship(decision: &mut Decision, order_id: OrderId) -> Result<(), Stop> {
    let reservation = Key::<Reservation>::new(order_id);
    if let ReservationState::Reserved(held) = decision.state(&reservation)?.clone() {
        decision.need(held.iter().map(|held| Key::<Item>::new(&held.sku).load()))?;
        for Held { sku, quantity } in held {
            change_held(decision, &sku, StockChange::Ship { order_id, quantity })?;
        }
    }
    decision.apply(&reservation, ReservationCommand::Ship { order_id })
}

fn change_held(decision: &mut Decision, sku: &Sku, change: StockChange) -> Result<(), Stop> {
    decision.apply(&Key::<Item>::new(sku), ItemCommand { sku: sku.clone(), change })
}

/// The lines of which less is available than they ask for.
fn shortages(decision: &Decision, lines: &[Line]) -> Result<Vec<Shortage>, Stop> {
    let mut shortages = Vec::new();
    for Line { sku, quantity, .. } in lines {
        let available = decision.state(&Key::<Item>::new(sku))?.available();
        if available < u64::from(*quantity) {
            shortages.push(Shortage { sku: sku.clone(), requested: *quantity, available });
        }
    }
    Ok(shortages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Refusal,
        fixtures::{created, eur, line, order, sku},
    };
    use events::{
        inventory::{
            InventoryReleased, InventoryShipped, ItemEvent, ProductAdded, ReservationEvent, Stock,
            StockReceived, StockReleased, StockReserved, StockShipped,
        },
        orders::Workflow,
    };

    fn item(of: &str) -> Key<Item> {
        Key::new(sku(of))
    }

    fn reservation() -> Key<Reservation> {
        Key::new(order(1))
    }

    fn in_stock(of: &str, quantity: u32) -> ItemEvent {
        let stock = Stock { on_hand: quantity.into(), reserved: 0 };
        StockReceived { sku: sku(of), quantity, stock }.into()
    }

    fn held(of: &str, quantity: u32, on_hand: u64) -> ItemEvent {
        let stock = Stock { on_hand, reserved: quantity.into() };
        StockReserved { sku: sku(of), order_id: order(1), quantity, stock }.into()
    }

    /// Three of TEA and five of CUP are in stock; order 1 has what `history` says.
    fn given(history: &[ReservationEvent]) -> Decision {
        let holds = matches!(history, [ReservationEvent::Reserved(_)]);
        let stock = |of, on_hand: u32, quantity| {
            let mut events = vec![in_stock(of, on_hand)];
            events.extend(holds.then(|| held(of, quantity, on_hand.into())));
            events
        };
        Decision::default()
            .given(&reservation(), history)
            .given(&item("TEA"), &stock("TEA", 3, 2))
            .given(&item("CUP"), &stock("CUP", 5, 1))
    }

    fn two_lines() -> Ordered {
        (&created(&[line("TEA", 2, 450), line("CUP", 1, 1200)])).into()
    }

    fn failed(reason: Reason, shortages: Vec<Shortage>) -> ReservationEvent {
        let workflow = Workflow::Choreography;
        ReservationFailed { order_id: order(1), reason, shortages, workflow }.into()
    }

    const CANCELLED: Reason = Reason::OrderCancelled;

    fn cancelled() -> Release {
        Release { order_id: order(1), reason: CANCELLED, workflow: Workflow::Choreography }
    }

    /// Every way in which a reservation can have ended.
    fn ends() -> [Vec<ReservationEvent>; 3] {
        let reserved = ReservationEvent::Reserved(two_lines().into());
        [
            vec![failed(CANCELLED, vec![])],
            vec![
                reserved.clone(),
                InventoryReleased { order_id: order(1), reason: CANCELLED, workflow: Workflow::Choreography }
                    .into(),
            ],
            vec![reserved, InventoryShipped { order_id: order(1) }.into()],
        ]
    }

    #[test]
    fn an_order_holds_every_line() {
        let mut decision = given(&[]);
        reserve(&mut decision, &two_lines()).unwrap();
        assert_eq!(decision.then(&item("TEA")), [held("TEA", 2, 3)]);
        assert_eq!(decision.then(&item("CUP")), [held("CUP", 1, 5)]);
        assert_eq!(decision.then(&reservation()), [ReservationEvent::Reserved(two_lines().into())]);
    }

    #[test]
    fn an_order_holds_nothing_when_anything_is_short_and_every_shortage_is_named() {
        let greedy = created(&[line("TEA", 4, 450), line("CUP", 5, 1200), line("POT", 1, 3000)]);
        let greedy = Ordered::from(&greedy);
        let mut decision = given(&[]).given(&item("POT"), &[]);
        reserve(&mut decision, &greedy).unwrap();
        let shortages = vec![
            Shortage { sku: sku("TEA"), requested: 4, available: 3 },
            Shortage { sku: sku("POT"), requested: 1, available: 0 },
        ];
        assert_eq!(decision.then(&reservation()), [failed(Reason::OutOfStock, shortages)]);
        assert_eq!(decision.decided.len(), 1);
    }

    #[test]
    fn a_reservation_is_decided_once() {
        let again = [ReservationEvent::Reserved(two_lines().into())];
        for history in ends().into_iter().chain([again.to_vec()]) {
            let mut decision = given(&history);
            reserve(&mut decision, &two_lines()).unwrap();
            assert_eq!(decision.decided.len(), 0);
        }
    }

    #[test]
    fn what_is_held_is_freed() {
        let mut decision = given(&[ReservationEvent::Reserved(two_lines().into())]);
        release(&mut decision, &cancelled()).unwrap();
        let stock = Stock { on_hand: 3, reserved: 0 };
        let freed = StockReleased { sku: sku("TEA"), order_id: order(1), quantity: 2, stock };
        assert_eq!(decision.then(&item("TEA")), [freed.into()]);
        assert_eq!(decision.then(&item("CUP")).len(), 1);
        let released =
            InventoryReleased { order_id: order(1), reason: CANCELLED, workflow: Workflow::Choreography };
        assert_eq!(decision.then(&reservation()), [released.into()]);
    }

    #[test]
    fn what_is_held_leaves_the_house() {
        let mut decision = given(&[ReservationEvent::Reserved(two_lines().into())]);
        ship(&mut decision, order(1)).unwrap();
        let stock = Stock { on_hand: 1, reserved: 0 };
        let shipped = StockShipped { sku: sku("TEA"), order_id: order(1), quantity: 2, stock };
        assert_eq!(decision.then(&item("TEA")), [shipped.into()]);
        assert_eq!(decision.then(&item("CUP")).len(), 1);
        assert_eq!(decision.then(&reservation()), [InventoryShipped { order_id: order(1) }.into()]);
    }

    #[test]
    fn what_is_cancelled_first_is_never_held() {
        let mut decision = given(&[]);
        release(&mut decision, &cancelled()).unwrap();
        assert_eq!(decision.then(&reservation()), [failed(CANCELLED, vec![])]);
        reserve(&mut decision, &two_lines()).unwrap();
        assert_eq!(decision.decided.len(), 1);
    }

    #[test]
    fn what_has_ended_is_neither_freed_nor_shipped() {
        for history in ends() {
            let mut decision = given(&history);
            release(&mut decision, &cancelled()).unwrap();
            ship(&mut decision, order(1)).unwrap();
            assert_eq!(decision.decided.len(), 0);
        }
    }

    fn needs(outcome: Result<(), Stop>) -> Vec<String> {
        let Err(Stop::Needs(keys)) = outcome else { panic!("{outcome:?}") };
        keys.iter().map(|key| format!("{key:?}")).collect()
    }

    #[test]
    fn a_decision_names_the_keys_it_needs() {
        let key = "evt.inventory.reservation.00000000-0000-0000-0000-0000000d0001";
        let (tea, cup) = ("evt.inventory.item.TEA", "evt.inventory.item.CUP");
        assert_eq!(needs(reserve(&mut Decision::default(), &two_lines())), [tea, cup, key]);
        assert_eq!(needs(release(&mut Decision::default(), &cancelled())), [key]);
        let mut decision =
            Decision::default().given(&reservation(), &[ReservationEvent::Reserved(two_lines().into())]);
        assert_eq!(needs(release(&mut decision, &cancelled())), [tea, cup]);
        assert_eq!(needs(ship(&mut decision, order(1))), [tea, cup]);
        assert_eq!(decision.decided.len(), 0);
    }

    #[test]
    fn only_a_product_has_stock() {
        let product = Key::<Product>::new(sku("TEA"));
        let receive = StockChange::Receive { quantity: 3 };
        let mut decision = Decision::default().given(&product, &[]).given(&item("TEA"), &[]);
        let stop = change_stock(&mut decision, &sku("TEA"), receive.clone()).unwrap_err();
        assert!(matches!(stop, Stop::Refused(Refusal { slug: "product-not-found", .. })), "{stop:?}");
        let added = ProductAdded { sku: sku("TEA"), name: "Tea".to_owned(), price: eur(450) };
        let mut decision = Decision::default().given(&product, &[added.into()]).given(&item("TEA"), &[]);
        change_stock(&mut decision, &sku("TEA"), receive).unwrap();
        assert_eq!(decision.then(&item("TEA")), [in_stock("TEA", 3)]);
    }
}
