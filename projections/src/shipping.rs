//! The shipping service's read model: shipments. The only one that holds addresses.

mod queries;

use crate::{
    Changes, View,
    table::{Table, Type, Value, row},
};
use events::{Aggregate, Fact, shipping::ShipmentEvent};
use nats::Recorded;

/// The read model of the shipping service.
pub(crate) static VIEW: View = View {
    name: "shipping",
    version: 1,
    tables: &[&SHIPMENTS],
    aggregates: &[Aggregate::Shipment],
    project,
    routes: queries::routes,
};

/// Shipments of orders.
const SHIPMENTS: Table = Table {
    name: "shipments",
    key: &[("order_id", Type::Uuid)],
    columns: &[
        ("status", Type::Text),
        ("carrier", Type::Text),
        ("tracking_number", Type::Text),
        ("address", Type::Json),
        ("reason", Type::Text),
        ("detail", Type::Text),
        ("updated_at", Type::Timestamp),
    ],
    indexes: &[],
};

/// What a fact changes.
fn project(recorded: &Recorded, changes: &mut Changes) {
    let Fact::Shipment(event) = &recorded.fact else { return };
    let updated_at = recorded.envelope.time;
    match event {
        ShipmentEvent::Scheduled(it) => {
            let row = row!(SHIPMENTS {
                status: "scheduled",
                carrier: it.carrier.clone(),
                tracking_number: it.tracking_number.clone(),
                // Where a parcel goes is what this table is for; nowhere else is it kept.
                address: Value::json(it.shipping_address.reveal()),
                updated_at: updated_at,
            });
            changes.upsert(&SHIPMENTS, it.order_id, row);
        }
        ShipmentEvent::Failed(it) => {
            let row = row!(SHIPMENTS {
                status: "failed",
                reason: Value::name(it.reason),
                detail: it.detail.clone(),
                updated_at: updated_at,
            });
            changes.upsert(&SHIPMENTS, it.order_id, row);
        }
        ShipmentEvent::Cancelled(it) => {
            let row = row!(SHIPMENTS {
                status: "cancelled",
                reason: Value::name(it.reason),
                updated_at: updated_at,
            });
            changes.patch(&SHIPMENTS, it.order_id, row);
        }
        ShipmentEvent::Dispatched(it) => {
            let row = row!(SHIPMENTS { status: "dispatched", updated_at: updated_at });
            changes.patch(&SHIPMENTS, it.order_id, row);
        }
        ShipmentEvent::Delivered(it) => {
            let row = row!(SHIPMENTS { status: "delivered", updated_at: updated_at });
            changes.patch(&SHIPMENTS, it.order_id, row);
        }
    }
}
