//! The shipping service's read model: shipments. The only one that holds addresses, sealed.

mod queries;

use crate::{
    Changes, Live, View,
    live::{LiveModel, SeenBy},
    past::Thing,
    table::{Table, Type, Value, row},
};
use events::{Aggregate, Fact, shipping::ShipmentEvent};
use nats::Recorded;

/// The read model of the shipping service.
pub(crate) static VIEW: View = View {
    name: "shipping",
    version: 2,
    tables: &[&SHIPMENTS],
    aggregates: &[Aggregate::Shipment],
    project,
    things: THINGS,
    routes: queries::routes,
    live: Live {
        socket: "/shipments/socket",
        models: &[LiveModel {
            name: "shipments",
            one: "/shipments/{orderId}",
            single: true,
            many: None,
            tables: &[&SHIPMENTS],
            seen_by: SeenBy::Owner("userId"),
            filters: &[],
            only_in_one: &[],
            personal: true,
        }],
    },
};

/// What is shown one by one.
const THINGS: &[Thing] = &[Thing::new("/shipments/{orderId}", Aggregate::Shipment)];

/// Shipments of orders.
const SHIPMENTS: Table = Table {
    name: "shipments",
    key: &[("order_id", Type::Uuid)],
    columns: &[
        ("user_id", Type::Uuid),
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
                user_id: it.user_id,
                status: "scheduled",
                carrier: it.carrier.clone(),
                tracking_number: it.tracking_number.clone(),
                // Sealed as it was recorded: when its key is destroyed, nothing has to be done here.
                address: Value::json(&it.shipping_address),
                updated_at: updated_at,
            });
            changes.upsert(&SHIPMENTS, it.order_id, row);
        }
        ShipmentEvent::Failed(it) => {
            let row = row!(SHIPMENTS {
                user_id: it.user_id,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, Model};
    use events::{
        Address, DataKey, OrderId, Personal, UserId,
        orders::{Reason, Workflow},
        shipping::{ShipmentDispatched, ShippingCancelled, ShippingFailed, ShippingScheduled},
    };
    use uuid::Uuid;

    #[tokio::test]
    async fn a_shipment_keeps_what_it_knows_as_it_goes_on() {
        let order_id = OrderId::new(Uuid::from_u128(1));
        let address = r#"{"name":"Ada","line1":"1","city":"London","postalCode":"1","country":"GB"}"#;
        let address: Address = serde_json::from_str(address).unwrap();
        let address = Personal::seal(&address, UserId::new(Uuid::nil()), &DataKey::new([1; 32]), [2; 24]);
        let mut log = Log::default();
        let mut add = |event: ShipmentEvent| log.add(Aggregate::Shipment, order_id, event, Fact::Shipment);
        add(ShipmentEvent::Scheduled(ShippingScheduled {
            order_id,
            user_id: UserId::new(Uuid::nil()),
            items: Vec::new(),
            carrier: "swift".to_owned(),
            tracking_number: "SW1".to_owned(),
            shipping_address: address.clone(),
            workflow: Workflow::Choreography,
        }));
        add(ShipmentDispatched { order_id }.into());
        let model = Model::new(&VIEW).await;
        model.apply(&log.all).await;
        let row = model.database.row("SELECT * FROM shipments", Vec::new()).await.unwrap().unwrap();
        let texts = ["status", "carrier", "tracking_number"].map(|column| row.get::<String>(column).unwrap());
        assert_eq!(texts, ["dispatched", "swift", "SW1"]);
        assert_eq!(row.json::<Personal<Address>>("address").unwrap(), address);
    }

    #[tokio::test]
    async fn a_shipment_that_never_was_says_why() {
        let order_id = OrderId::new(Uuid::from_u128(1));
        let failed = ShippingFailed {
            order_id,
            user_id: None,
            reason: Reason::CarrierRefused,
            detail: "too heavy".to_owned(),
            workflow: Workflow::Choreography,
        };
        let cancelled =
            ShippingCancelled { order_id, reason: Reason::OrderCancelled, workflow: Workflow::Choreography };
        let events: [(ShipmentEvent, _); 2] = [
            (failed.into(), ["failed", "carrier_refused"]),
            (cancelled.into(), ["cancelled", "order_cancelled"]),
        ];
        for (event, expected) in events {
            let mut log = Log::default();
            log.add(Aggregate::Shipment, order_id, event, Fact::Shipment);
            let model = Model::new(&VIEW).await;
            model.apply(&log.all).await;
            let row = model.database.row("SELECT * FROM shipments", Vec::new()).await.unwrap().unwrap();
            let texts = ["status", "reason"].map(|column| row.get::<String>(column).unwrap());
            assert_eq!(texts, expected);
            assert!(row.find::<String>("address").unwrap().is_none());
        }
    }
}
