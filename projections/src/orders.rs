//! The orders service's read model: orders, how far each has come, and what happened to it.
//!
//! Facts of one stream come in order, but streams come in any order among each other. So `orders` is made of one stream
//! only, each column of `progress` of one stream only, and every row of `order_events` of one fact.

mod queries;
mod stage;

use crate::{
    Changes, Live, View, history,
    live::{LiveModel, SeenBy},
    past::Thing,
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
    version: 2,
    tables: &[&ORDERS, &PROGRESS, &ORDER_EVENTS],
    aggregates: &[Aggregate::Order, Aggregate::Reservation, Aggregate::Payment, Aggregate::Shipment],
    project,
    things: THINGS,
    routes: queries::routes,
    live: Live {
        socket: "/orders/socket",
        models: &[LiveModel {
            name: "orders",
            one: "/orders/{id}",
            single: true,
            many: Some("/orders"),
            tables: &[&ORDERS, &PROGRESS],
            seen_by: SeenBy::Owner("userId"),
            filters: &["userId", "status"],
            only_in_one: &[],
            personal: true,
        }],
    },
};

/// What is shown one by one.
const THINGS: &[Thing] = &[Thing {
    with: &[Aggregate::Reservation, Aggregate::Payment, Aggregate::Shipment],
    tells: true,
    ..Thing::new("/orders/{id}", Aggregate::Order)
}];

/// Orders as their own stream tells them.
const ORDERS: Table = Table {
    name: "orders",
    key: &[("id", Type::Uuid)],
    columns: &[
        ("user_id", Type::Uuid),
        ("user_stale", Type::Bool),
        ("status", Type::Text),
        ("items", Type::Json),
        ("amount", Type::Int),
        ("currency", Type::Text),
        ("reason", Type::Text),
        ("detail", Type::Text),
        // What a customer said, sealed.
        ("said", Type::Json),
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

/// What happened to an order, in all streams.
const ORDER_EVENTS: Table = history::table(
    "order_events",
    &[("order_id", Type::Uuid), ("stream", Type::Text), ("sequence", Type::Int)],
);

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
        Fact::Product(_)
        | Fact::Item(_)
        | Fact::Account(_)
        | Fact::Assessment(_)
        | Fact::User(_)
        | Fact::Notification(_)
        | Fact::Email(_)
        | Fact::Process(_)
        | Fact::Hold(_)
        | Fact::Timer(_)
        | Fact::DeadLetter(_)
        | Fact::Projection(_) => return,
    };
    history::happened(recorded, order, &ORDER_EVENTS, changes);
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
                said: it.reason.as_ref().map(Value::json),
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
        user_stale: it.user_snapshot.stale,
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

#[cfg(test)]
mod tests {
    use super::{stage::Stage, *};
    use crate::testing::{Log, Model};
    use events::{
        AccountId, Address, DataKey, Money, Personal, UserId,
        inventory::{InventoryReleased, InventoryReserved},
        orders::{OrderCancelled, OrderCompleted, OrderFailed, UserSnapshot, Workflow},
        payments::{PaymentCharged, PaymentRefunded},
        shipping::{ShipmentDelivered, ShipmentDispatched, ShippingCancelled, ShippingScheduled},
    };
    use proptest::prelude::*;
    use uuid::Uuid;

    fn order_id(number: u128) -> OrderId {
        OrderId::new(Uuid::from_u128(number))
    }

    const USER: UserId = UserId::new(Uuid::from_u128(7));
    const ACCOUNT: AccountId = AccountId::new(Uuid::from_u128(8));
    const WORKFLOW: Workflow = Workflow::Choreography;

    fn sealed<T: serde::Serialize>(value: &T) -> Personal<T> {
        Personal::seal(value, USER, &DataKey::new([1; 32]), [2; 24])
    }

    fn address() -> Personal<Address> {
        let text = r#"{"name":"Ada","line1":"1","city":"London","postalCode":"1","country":"GB"}"#;
        sealed(&serde_json::from_str(text).unwrap())
    }

    fn euros() -> Money {
        Money::new(500, "EUR".parse().unwrap())
    }

    /// The facts of an order up to its shipment; then it is delivered, or taken back with everything undone.
    fn record(log: &mut Log, number: u128, goes_well: bool) {
        let order_id = order_id(number);
        let (user_id, account_id, workflow, shipping_address) = (USER, ACCOUNT, WORKFLOW, address());
        let mut order = |event: OrderEvent| log.add(Aggregate::Order, order_id, event, Fact::Order);
        order(OrderEvent::Created(OrderCreated {
            order_id,
            user_id,
            account_id,
            items: Vec::new(),
            total_amount: euros(),
            shipping_address: shipping_address.clone(),
            workflow,
            user_snapshot: UserSnapshot::default(),
        }));
        order(if goes_well {
            OrderCompleted { order_id, user_id }.into()
        } else {
            let reason = Some(sealed(&"late".to_owned()));
            OrderCancelled { order_id, user_id, account_id, reason, workflow }.into()
        });
        let reason = Reason::OrderCancelled;
        let mut held =
            |event: ReservationEvent| log.add(Aggregate::Reservation, order_id, event, Fact::Reservation);
        held(ReservationEvent::Reserved(InventoryReserved {
            order_id,
            user_id,
            account_id,
            items: Vec::new(),
            total_amount: euros(),
            shipping_address: shipping_address.clone(),
            workflow,
        }));
        if !goes_well {
            held(InventoryReleased { order_id, reason, workflow }.into());
        }
        let mut paid = |event: PaymentEvent| log.add(Aggregate::Payment, order_id, event, Fact::Payment);
        paid(PaymentEvent::Charged(PaymentCharged {
            order_id,
            user_id,
            account_id,
            amount: euros(),
            items: Vec::new(),
            shipping_address: shipping_address.clone(),
            workflow,
        }));
        if !goes_well {
            paid(PaymentRefunded { order_id, account_id, amount: euros(), reason, workflow }.into());
        }
        let mut sent = |event: ShipmentEvent| log.add(Aggregate::Shipment, order_id, event, Fact::Shipment);
        sent(ShipmentEvent::Scheduled(ShippingScheduled {
            order_id,
            user_id,
            items: Vec::new(),
            carrier: "swift".to_owned(),
            tracking_number: "1".to_owned(),
            shipping_address,
            workflow,
        }));
        if goes_well {
            sent(ShipmentDispatched { order_id }.into());
            sent(ShipmentDelivered { order_id }.into());
        } else {
            sent(ShippingCancelled { order_id, reason, workflow }.into());
        }
    }

    async fn stage(model: &Model, number: u128) -> (String, Stage) {
        let sql = "SELECT * FROM orders LEFT JOIN progress ON order_id = id WHERE id = $1";
        let row = model.database.row(sql, vec![order_id(number).into()]).await.unwrap().unwrap();
        let status: String = row.get("status").unwrap();
        let stage = Stage::of(&row, &status).unwrap();
        (status, stage)
    }

    #[tokio::test]
    async fn the_stage_is_how_far_an_order_has_come() {
        let mut log = Log::default();
        record(&mut log, 1, true);
        let (orders, others) = log.all.split_at(2);
        let model = Model::new(&VIEW).await;
        model.apply(&orders[..1]).await;
        assert_eq!(stage(&model, 1).await, ("pending".to_owned(), Stage::Placed));
        let stages = [Stage::Reserved, Stage::Charged, Stage::Scheduled, Stage::Dispatched, Stage::Delivered];
        for (event, expected) in others.iter().zip(stages) {
            model.apply(std::slice::from_ref(event)).await;
            assert_eq!(stage(&model, 1).await.1, expected);
        }
    }

    #[tokio::test]
    async fn a_cancelled_order_is_undone_when_nothing_is_held_for_it() {
        let mut log = Log::default();
        record(&mut log, 1, false);
        let model = Model::new(&VIEW).await;
        let (first, last) = log.all.split_at(log.all.len() - 1);
        model.apply(first).await;
        assert_eq!(stage(&model, 1).await, ("cancelled".to_owned(), Stage::Undoing));
        model.apply(last).await;
        assert_eq!(stage(&model, 1).await.1, Stage::Undone);
        let row = model.database.row("SELECT reason, said FROM orders", Vec::new()).await.unwrap().unwrap();
        assert_eq!(row.get::<String>("reason").unwrap(), "order_cancelled");
        assert_eq!(row.json::<Personal<String>>("said").unwrap(), sealed(&"late".to_owned()));
    }

    #[tokio::test]
    async fn a_failed_order_says_why() {
        let mut log = Log::default();
        record(&mut log, 1, true);
        log.all.truncate(1);
        let (order_id, user_id) = (order_id(1), USER);
        let failed =
            OrderFailed { order_id, user_id, reason: Reason::OutOfStock, detail: "no TEA".to_owned() };
        log.add(Aggregate::Order, order_id, failed, Fact::Order);
        let model = Model::new(&VIEW).await;
        model.apply(&log.all).await;
        assert_eq!(stage(&model, 1).await, ("failed".to_owned(), Stage::Undone));
        let row = model.database.row("SELECT * FROM orders", Vec::new()).await.unwrap().unwrap();
        assert_eq!(row.get::<String>("reason").unwrap(), "out_of_stock");
        assert_eq!(row.get::<i64>("amount").unwrap(), 500, "the rest of the order stays");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn however_the_streams_mix_and_the_batches_fall_the_tables_are_the_same(
            turns in prop::collection::vec((0..4_usize, 1..9_usize), 1..60)
        ) {
            let mut log = Log::default();
            for number in 1..=6 {
                record(&mut log, number, number % 2 == 0);
            }
            let streams: Vec<_> = VIEW.contexts().map(|context| {
                log.all.iter().filter(|one| one.position.context == context).cloned().collect::<Vec<_>>()
            }).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (at_once, mixed) = (Model::new(&VIEW).await, Model::new(&VIEW).await);
                at_once.apply(&log.all).await;
                let mut rest: Vec<_> = streams.iter().map(Vec::as_slice).collect();
                for (stream, count) in turns {
                    let (batch, later) = rest[stream].split_at(count.min(rest[stream].len()));
                    rest[stream] = later;
                    mixed.apply(batch).await;
                }
                mixed.apply(&rest.concat()).await;
                let found = mixed.moment().await.differences(&mut at_once.moment().await).await.unwrap();
                prop_assert_eq!(found, []);
                Ok(())
            })?;
        }
    }
}
