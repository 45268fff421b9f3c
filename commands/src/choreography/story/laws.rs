//! What must hold in a story: at every moment, and when everything has come to rest.

use super::{super::world::World, ACCOUNTS, SKUS, Story, id, item};
use crate::{
    Key,
    fixtures::{account, sku},
    fulfilment::{Phase, Process, Stand},
    inventory::{Reservation, ReservationState},
    orders::{Order, OrderStatus},
    payments::{Account, Payment, PaymentState},
    shipping::{Shipment, ShipmentState},
};
use events::{
    AccountId, Fact, Money, OrderId, Sku,
    fulfilment::{ProcessEvent, Step as SagaStep},
    inventory::{ItemEvent, ReservationEvent, Stock},
    orders::{OrderEvent, Reason, Workflow},
    payments::{AccountEvent, PaymentEvent},
    shipping::ShipmentEvent,
};
use std::collections::BTreeSet;

impl Story {
    /// Every fact again, to everybody, and again: no change.
    pub(super) fn check_repetition(&self, world: &mut World) {
        let (facts, bookings) = (world.log.len(), world.bookings.clone());
        for round in 0..3 {
            (0..facts).for_each(|fact| world.redeliver(fact));
            world.rest(self.seed ^ round, |_| ());
        }
        assert_eq!(world.log.len(), facts);
        assert_eq!(world.bookings, bookings);
    }

    /// What must hold when everything has come to rest.
    pub(super) fn check(&self, world: &mut World) {
        for (index, plan) in self.orders.iter().enumerate() {
            match plan.workflow {
                Workflow::Choreography => check_order(world, id(index), plan.workflow),
                Workflow::Orchestration => {
                    check_order(world, id(index), plan.workflow);
                    check_process(world, id(index));
                }
            }
        }
        self.check_stock(world);
        check_money(world);
        let scheduled = |world: &mut World, order: &OrderId| {
            let state = world.state(&Key::<Shipment>::new(order));
            !matches!(state, ShipmentState::Undecided | ShipmentState::Failed | ShipmentState::Cancelled)
        };
        let parcels: BTreeSet<_> = self.ids().filter(|order| scheduled(world, order)).collect();
        assert_eq!(world.bookings, parcels, "the carrier has exactly the parcels that are to be shipped");
    }

    /// Stock is what arrived and was counted, less what was shipped; held is what undecided and completed orders hold.
    fn check_stock(&self, world: &mut World) {
        for (index, name) in SKUS.into_iter().enumerate() {
            let sku = sku(name);
            let came: i64 = world.log.iter().map(|fact| came(fact, &sku)).sum();
            let of_orders = |world: &mut World, wanted: fn(&ReservationState) -> bool| -> i64 {
                let orders = self.orders.iter().enumerate();
                let wanted = orders.filter(|(n, _)| wanted(&world.state(&Key::<Reservation>::new(id(*n)))));
                wanted.map(|(_, plan)| i64::from(plan.quantities[index])).sum()
            };
            let shipped = of_orders(world, |state| *state == ReservationState::Shipped);
            let held = of_orders(world, |state| matches!(state, ReservationState::Reserved(_)));
            let Stock { on_hand, reserved } = world.state(&item(index));
            assert_eq!((on_hand.cast_signed(), reserved.cast_signed()), (came - shipped, held), "{name}");
        }
    }
}

/// Units of a SKU that a fact brought from outside or took away by count.
fn came(fact: &Fact, sku: &Sku) -> i64 {
    match fact {
        Fact::Item(ItemEvent::Received(fact)) if fact.sku == *sku => fact.quantity.into(),
        Fact::Item(ItemEvent::Adjusted(fact)) if fact.sku == *sku => fact.delta,
        _ => 0,
    }
}

/// What must hold at every moment.
pub(super) fn check_limits(world: &mut World) {
    for index in 0..SKUS.len() {
        let Stock { on_hand, reserved } = world.state(&item(index));
        assert!(reserved <= on_hand);
    }
    for of in ACCOUNTS {
        let balance = world.state(&Key::<Account>::new(account(of))).map_or(0, |open| open.balance.amount);
        assert!(balance >= 0);
    }
}

/// A balance is what came in, less what was charged, with what was refunded: told by the payments, not the account.
fn check_money(world: &mut World) {
    let moved = |fact: &Fact, of: AccountId| match fact {
        Fact::Account(AccountEvent::Credited(fact)) if fact.account_id == of && fact.order_id.is_none() => {
            fact.amount.amount
        }
        Fact::Payment(PaymentEvent::Charged(fact)) if fact.account_id == of => -fact.amount.amount,
        Fact::Payment(PaymentEvent::Refunded(fact)) if fact.account_id == of => fact.amount.amount,
        _ => 0,
    };
    for of in ACCOUNTS.map(account) {
        let sum: i64 = world.log.iter().map(|fact| moved(fact, of)).sum();
        let balance = world.state(&Key::<Account>::new(of)).map(|open| open.balance);
        assert_eq!(balance.map_or(0, |Money { amount, .. }| amount), sum);
    }
}

/// How an order ended, by its facts.
pub(super) fn ends(world: &World, order: OrderId) -> Vec<(OrderStatus, Option<Reason>)> {
    let end = |fact: &Fact| match fact {
        Fact::Order(OrderEvent::Completed(fact)) if fact.order_id == order => {
            Some((OrderStatus::Completed, None))
        }
        Fact::Order(OrderEvent::Failed(fact)) if fact.order_id == order => {
            Some((OrderStatus::Failed, Some(fact.reason)))
        }
        Fact::Order(OrderEvent::Cancelled(fact)) if fact.order_id == order => {
            Some((OrderStatus::Cancelled, None))
        }
        _ => None,
    };
    world.log.iter().filter_map(end).collect()
}

/// Why a step of an order failed.
fn failure(fact: &Fact, order: OrderId) -> Option<Reason> {
    match fact {
        Fact::Reservation(ReservationEvent::Failed(fact)) if fact.order_id == order => Some(fact.reason),
        Fact::Payment(PaymentEvent::Failed(fact)) if fact.order_id == order => Some(fact.reason),
        Fact::Shipment(ShipmentEvent::Failed(fact)) if fact.order_id == order => Some(fact.reason),
        _ => None,
    }
}

/// An order has ended once, and everything else agrees with how.
fn check_order(world: &mut World, order: OrderId, workflow: Workflow) {
    let ends = ends(world, order);
    let [(status, reason)] = ends[..] else { panic!("{order:?} ended {} times: {ends:?}", ends.len()) };
    let reservation = world.state(&Key::<Reservation>::new(order));
    let payment = world.state(&Key::<Payment>::new(order));
    let shipment = world.state(&Key::<Shipment>::new(order));
    let told = format!("{order:?}: {status:?} {reason:?}, {reservation:?}, {payment:?}, {shipment:?}");
    assert_eq!(world.state(&Key::<Order>::new(order)).map(|order| order.status), Some(status), "{told}");
    if status == OrderStatus::Completed {
        match shipment {
            ShipmentState::Scheduled => {
                assert!(matches!(reservation, ReservationState::Reserved(_)), "{told}");
            }
            ShipmentState::Dispatched | ShipmentState::Delivered => {
                assert_eq!(reservation, ReservationState::Shipped, "{told}");
            }
            _ => panic!("{told}"),
        }
        // An operator may have given the money back all the same.
        assert!(!matches!(payment, PaymentState::Undecided | PaymentState::Failed), "{told}");
        return;
    }
    // A saga that goes back early has never asked for it.
    let unasked = workflow == Workflow::Orchestration && reservation == ReservationState::Undecided;
    let held = !matches!(reservation, ReservationState::Failed | ReservationState::Released);
    assert!(unasked || !held, "{told}");
    assert!(!matches!(payment, PaymentState::Charged { .. }), "{told}");
    let none = [ShipmentState::Undecided, ShipmentState::Failed, ShipmentState::Cancelled];
    assert!(none.contains(&shipment), "{told}");
    if let Some(reason) = reason.filter(|_| workflow == Workflow::Choreography) {
        let failures: Vec<_> = world.log.iter().filter_map(|fact| failure(fact, order)).collect();
        assert_eq!(failures, [reason], "{told}");
    }
}

/// The saga has ended as its order has; what it asked to be undone was undone once each, in the reverse order of what
/// was asked to be done.
fn check_process(world: &mut World, order: OrderId) {
    let status = world.state(&Key::<Order>::new(order)).map(|order| order.status);
    let process = world.state(&Key::<Process>::new(order)).expect("a saga carries it");
    let phase = if status == Some(OrderStatus::Completed) { Phase::Completed } else { Phase::Failed };
    assert_eq!((process.phase, process.parked), (phase, false), "{process:?}");
    assert_eq!(process.timer(), None);
    let (mut asked, mut undone) = (Vec::new(), Vec::new());
    for fact in &world.log {
        let Fact::Process(fact) = fact else { continue };
        match (fact.asks(), fact) {
            (Some((of, asks)), _) if of.order_id == order && asks.attempt == 1 => asked.push(asks.step),
            (_, ProcessEvent::CompensationSucceeded(it)) if it.order_id == order => undone.push(it.step),
            _ => {}
        }
    }
    let refused: Vec<_> =
        SagaStep::ALL.into_iter().filter(|step| process.stand(*step) == Stand::Refused).collect();
    asked.retain(|step| !refused.contains(step));
    asked.reverse();
    let expected = if phase == Phase::Completed { vec![] } else { asked };
    assert_eq!(undone, expected, "{process:?}");
}
