//! One order across all streams: how often each step was done and undone.

use events::{
    Money, OrderId,
    inventory::ReservationEvent,
    orders::OrderEvent,
    payments::{AccountEvent, PaymentEvent},
    shipping::ShipmentEvent,
};
use std::collections::BTreeMap;

/// What happened to one order.
#[derive(Debug, Default)]
pub(super) struct Order {
    total: Option<Money>,
    pub(super) ends: Vec<&'static str>,
    reserved: Step,
    charged: Step,
    scheduled: Step,
    /// Charges and refunds as the payment has them, then as the account has them.
    paid: [Vec<Money>; 2],
    refunded: [Vec<Money>; 2],
}

/// How often a step was done and undone.
#[derive(Debug, Default)]
struct Step {
    done: u32,
    undone: u32,
}

const PAYMENT: usize = 0;
const ACCOUNT: usize = 1;

type Orders = BTreeMap<OrderId, Order>;

pub(super) fn order(orders: &mut Orders, event: &OrderEvent) {
    let (id, end) = match event {
        OrderEvent::Created(it) => {
            orders.entry(it.order_id).or_default().total = Some(it.total_amount);
            return;
        }
        OrderEvent::Completed(it) => (it.order_id, "completed"),
        OrderEvent::Failed(it) => (it.order_id, "failed"),
        OrderEvent::Cancelled(it) => (it.order_id, "cancelled"),
    };
    orders.entry(id).or_default().ends.push(end);
}

pub(super) fn reservation(orders: &mut Orders, event: &ReservationEvent) {
    match event {
        ReservationEvent::Reserved(it) => orders.entry(it.order_id).or_default().reserved.done += 1,
        ReservationEvent::Released(it) => orders.entry(it.order_id).or_default().reserved.undone += 1,
        ReservationEvent::Failed(_) | ReservationEvent::Shipped(_) => {}
    }
}

pub(super) fn payment(orders: &mut Orders, event: &PaymentEvent) {
    match event {
        PaymentEvent::Charged(it) => {
            let order = orders.entry(it.order_id).or_default();
            order.charged.done += 1;
            order.paid[PAYMENT].push(it.amount);
        }
        PaymentEvent::Refunded(it) => {
            let order = orders.entry(it.order_id).or_default();
            order.charged.undone += 1;
            order.refunded[PAYMENT].push(it.amount);
        }
        PaymentEvent::Failed(_) => {}
    }
}

pub(super) fn account(orders: &mut Orders, event: &AccountEvent) {
    match event {
        AccountEvent::Debited(it) => {
            orders.entry(it.order_id).or_default().paid[ACCOUNT].push(it.amount);
        }
        AccountEvent::Credited(it) => {
            if let Some(order_id) = it.order_id {
                orders.entry(order_id).or_default().refunded[ACCOUNT].push(it.amount);
            }
        }
        AccountEvent::Opened(_) => {}
    }
}

pub(super) fn shipment(orders: &mut Orders, event: &ShipmentEvent) {
    match event {
        ShipmentEvent::Scheduled(it) => orders.entry(it.order_id).or_default().scheduled.done += 1,
        ShipmentEvent::Cancelled(it) => orders.entry(it.order_id).or_default().scheduled.undone += 1,
        ShipmentEvent::Failed(_) | ShipmentEvent::Dispatched(_) | ShipmentEvent::Delivered(_) => {}
    }
}

impl Order {
    /// How it ended, if it did, and once.
    pub(super) fn end(&self) -> Option<&'static str> {
        if let [end] = self.ends[..] { Some(end) } else { None }
    }

    /// Whether it was placed and has not ended.
    pub(super) fn is_under_way(&self) -> bool {
        self.total.is_some() && self.ends.is_empty()
    }

    /// What does not hold. Nothing is said of orders that were placed before the log was read.
    pub(super) fn faults(&self, id: OrderId) -> Vec<String> {
        let Some(total) = self.total else { return Vec::new() };
        let Self { reserved, charged, scheduled, paid, refunded, .. } = self;
        let mut faults = Vec::new();
        let mut check = |holds: bool, what: String| {
            if !holds {
                faults.push(format!("order {id} {what}"));
            }
        };
        match self.ends[..] {
            [] => check(false, "has not ended".to_owned()),
            ["completed"] => {
                check(reserved.done == 1, format!("was reserved {} times", reserved.done));
                check(charged.done == 1, format!("was charged {} times", charged.done));
                check(scheduled.done == 1, format!("was scheduled {} times", scheduled.done));
                check(reserved.undone == 0, "is completed, but its stock was released".to_owned());
                check(scheduled.undone == 0, "is completed, but its shipment was called off".to_owned());
                check(charged.undone <= 1, format!("was refunded {} times", charged.undone));
            }
            [end] => {
                check(reserved.done <= 1 && charged.done <= 1, "was reserved or charged twice".to_owned());
                check(reserved.done == reserved.undone, format!("is {end}, but its stock is still held"));
                check(charged.done == charged.undone, format!("is {end}, but its money is still kept"));
                // Called off before it was scheduled: then it never will be.
                check(scheduled.done <= scheduled.undone, format!("is {end}, but its shipment still stands"));
            }
            _ => check(false, format!("ended {} times: {}", self.ends.len(), self.ends.join(", "))),
        }
        check(
            paid[PAYMENT] == paid[ACCOUNT],
            "was charged otherwise than the account was debited".to_owned(),
        );
        let refunds = refunded[PAYMENT] == refunded[ACCOUNT];
        check(refunds, "was refunded otherwise than the account was credited".to_owned());
        let amounts = paid[PAYMENT].iter().chain(&refunded[PAYMENT]).all(|amount| *amount == total);
        check(amounts, "was charged or refunded another amount than its total".to_owned());
        faults
    }
}
