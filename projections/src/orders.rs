//! The orders service's read model: orders, how far each has come, and what happened to it.
//!
//! Facts of one stream come in order, but streams come in any order among each other. So `orders` is made of one stream
//! only, each column of `progress` of one stream only, and every row of `order_events` of one fact.

mod history;
mod queries;
mod stage;

use crate::{
    Changes, View,
    table::{Table, Type, Value, row},
};
use events::{
    Aggregate, Fact, OrderId,
    inventory::ReservationEvent,
    orders::{OrderCreated, OrderEvent, Reason},
    payments::PaymentEvent,
    shipping::ShipmentEvent,
};
use nats::Recorded;

/// The read model of the orders service.
pub(crate) static VIEW: View = View {
    name: "orders",
    version: 1,
    tables: &[&ORDERS, &PROGRESS, &ORDER_EVENTS],
    aggregates: &[Aggregate::Order, Aggregate::Reservation, Aggregate::Payment, Aggregate::Shipment],
    project,
    routes: queries::routes,
};

/// Orders as their own stream tells them.
const ORDERS: Table = Table {
    name: "orders",
    key: &[("id", Type::Uuid)],
    columns: &[
        ("user_id", Type::Uuid),
        ("status", Type::Text),
        ("items", Type::Json),
        ("amount", Type::Int),
        ("currency", Type::Text),
        ("reason", Type::Text),
        ("detail", Type::Text),
        ("created_at", Type::Timestamp),
        ("updated_at", Type::Timestamp),
        ("version", Type::Int),
    ],
    indexes: &[&["created_at", "id"], &["user_id", "created_at", "id"], &["status", "created_at", "id"]],
};

/// When each step was done for an order, and undone.
const PROGRESS: Table = Table {
    name: "progress",
    key: &[("order_id", Type::Uuid)],
    columns: &[
        ("reserved_at", Type::Timestamp),
        ("released_at", Type::Timestamp),
        ("charged_at", Type::Timestamp),
        ("refunded_at", Type::Timestamp),
        ("scheduled_at", Type::Timestamp),
        ("called_off_at", Type::Timestamp),
        ("dispatched_at", Type::Timestamp),
        ("delivered_at", Type::Timestamp),
    ],
    indexes: &[],
};

/// What happened to an order, in all streams. Without the facts' data, which holds addresses.
const ORDER_EVENTS: Table = Table {
    name: "order_events",
    key: &[("order_id", Type::Uuid), ("stream", Type::Text), ("sequence", Type::Int)],
    columns: &[
        ("id", Type::Uuid),
        ("kind", Type::Text),
        ("time", Type::Timestamp),
        ("actor", Type::Text),
        ("causation", Type::Uuid),
        ("correlation", Type::Text),
    ],
    indexes: &[],
};

/// What a fact changes.
fn project(recorded: &Recorded, changes: &mut Changes) {
    let time = recorded.envelope.time;
    let order = match &recorded.fact {
        Fact::Order(event) => order(recorded, event, changes),
        Fact::Reservation(event) => {
            let (order, step) = match event {
                ReservationEvent::Reserved(it) => (it.order_id, Some(row!(PROGRESS { reserved_at: time }))),
                ReservationEvent::Released(it) => (it.order_id, Some(row!(PROGRESS { released_at: time }))),
                ReservationEvent::Failed(it) => (it.order_id, None),
                ReservationEvent::Shipped(it) => (it.order_id, None),
            };
            advance(order, step, changes)
        }
        Fact::Payment(event) => {
            let (order, step) = match event {
                PaymentEvent::Charged(it) => (it.order_id, Some(row!(PROGRESS { charged_at: time }))),
                PaymentEvent::Refunded(it) => (it.order_id, Some(row!(PROGRESS { refunded_at: time }))),
                PaymentEvent::Failed(it) => (it.order_id, None),
            };
            advance(order, step, changes)
        }
        Fact::Shipment(event) => {
            let (order, step) = match event {
                ShipmentEvent::Scheduled(it) => (it.order_id, Some(row!(PROGRESS { scheduled_at: time }))),
                ShipmentEvent::Cancelled(it) => (it.order_id, Some(row!(PROGRESS { called_off_at: time }))),
                ShipmentEvent::Dispatched(it) => (it.order_id, Some(row!(PROGRESS { dispatched_at: time }))),
                ShipmentEvent::Delivered(it) => (it.order_id, Some(row!(PROGRESS { delivered_at: time }))),
                ShipmentEvent::Failed(it) => (it.order_id, None),
            };
            advance(order, step, changes)
        }
        Fact::Product(_) | Fact::Item(_) | Fact::Account(_) | Fact::Assessment(_) => return,
    };
    happened(recorded, order, changes);
}

fn order(recorded: &Recorded, event: &OrderEvent, changes: &mut Changes) -> OrderId {
    let (updated_at, version) = (recorded.envelope.time, recorded.envelope.version);
    match event {
        OrderEvent::Created(it) => created(recorded, it, changes),
        OrderEvent::Completed(it) => {
            let row = row!(ORDERS { status: "completed", updated_at: updated_at, version: version });
            changes.patch(&ORDERS, it.order_id, row);
            it.order_id
        }
        OrderEvent::Failed(it) => {
            let row = row!(ORDERS {
                status: "failed",
                reason: Value::name(it.reason),
                detail: it.detail.clone(),
                updated_at: updated_at,
                version: version,
            });
            changes.patch(&ORDERS, it.order_id, row);
            it.order_id
        }
        OrderEvent::Cancelled(it) => {
            let row = row!(ORDERS {
                status: "cancelled",
                reason: Value::name(Reason::OrderCancelled),
                detail: it.reason.clone(),
                updated_at: updated_at,
                version: version,
            });
            changes.patch(&ORDERS, it.order_id, row);
            it.order_id
        }
    }
}

fn created(recorded: &Recorded, it: &OrderCreated, changes: &mut Changes) -> OrderId {
    let row = row!(ORDERS {
        user_id: it.user_id,
        status: "pending",
        items: Value::json(&it.items),
        amount: it.total_amount.amount,
        currency: it.total_amount.currency.code(),
        created_at: recorded.envelope.time,
        updated_at: recorded.envelope.time,
        version: recorded.envelope.version,
    });
    changes.upsert(&ORDERS, it.order_id, row);
    it.order_id
}

fn advance(order: OrderId, step: Option<[(usize, Value); 1]>, changes: &mut Changes) -> OrderId {
    if let Some(step) = step {
        changes.patch(&PROGRESS, order, step);
    }
    order
}

fn happened(recorded: &Recorded, order: OrderId, changes: &mut Changes) {
    let (position, envelope) = (recorded.position, &recorded.envelope);
    let key = [order.into(), position.context.stream().into(), position.sequence.into()];
    let row = row!(ORDER_EVENTS {
        id: envelope.id,
        kind: envelope.kind.clone(),
        time: envelope.time,
        actor: envelope.actor.as_str().to_owned(),
        causation: envelope.causation,
        correlation: envelope.correlation.as_str().to_owned(),
    });
    changes.upsert(&ORDER_EVENTS, key, row);
}
