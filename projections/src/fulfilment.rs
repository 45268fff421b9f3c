//! The fulfilment service's read model: sagas, and everything that happened to each, attempt by attempt.

mod queries;

use crate::{
    Changes, Live, View,
    live::{LiveModel, SeenBy},
    past::Thing,
    table::{Table, Type, Value, row},
};
use events::{
    Aggregate, Fact, OrderId,
    fulfilment::{Asked, ProcessEvent, Step},
};
use jiff::Timestamp;
use nats::Recorded;

/// The read model of the fulfilment service.
pub(crate) static VIEW: View = View {
    name: "fulfilment",
    version: 2,
    tables: &[&SAGAS, &SAGA_EVENTS],
    aggregates: &[Aggregate::Process],
    project,
    things: THINGS,
    routes: queries::routes,
    live: Live {
        socket: "/ops/sagas/socket",
        models: &[LiveModel {
            name: "sagas",
            one: "/ops/sagas/{orderId}",
            single: true,
            many: Some("/ops/sagas"),
            tables: &[&SAGAS],
            seen_by: SeenBy::Operators,
            filters: &["state"],
            only_in_one: &["events"],
            personal: false,
        }],
    },
};

/// What is shown one by one.
const THINGS: &[Thing] = &[Thing::new("/ops/sagas/{orderId}", Aggregate::Process)];

/// Sagas as they are.
const SAGAS: Table = Table {
    name: "sagas",
    key: &[("order_id", Type::Uuid)],
    columns: &[
        ("user_id", Type::Uuid),
        ("definition", Type::Int),
        // running, compensating, parked, completed or failed.
        ("state", Type::Text),
        // Since when.
        ("since", Type::Timestamp),
        // The step that is done or undone.
        ("step", Type::Text),
        ("attempt", Type::Int),
        ("reason", Type::Text),
        ("detail", Type::Text),
        // When it looks again by itself.
        ("wakes_at", Type::Timestamp),
        ("started_at", Type::Timestamp),
        ("updated_at", Type::Timestamp),
        ("version", Type::Int),
    ],
    indexes: &[&["started_at", "order_id"], &["state", "since", "order_id"]],
};

/// What happened to a saga.
const SAGA_EVENTS: Table = Table {
    name: "saga_events",
    key: &[("order_id", Type::Uuid), ("version", Type::Int)],
    columns: &[
        ("kind", Type::Text),
        // The step that was done, whereupon this happened.
        ("done", Type::Text),
        ("step", Type::Text),
        ("attempt", Type::Int),
        ("reason", Type::Text),
        ("detail", Type::Text),
        // When an answer has to be there, or when it is asked for again.
        ("due", Type::Timestamp),
        ("actor", Type::Text),
        ("time", Type::Timestamp),
        ("sequence", Type::Int),
    ],
    indexes: &[],
};

/// What one fact says.
#[derive(Default)]
struct Said {
    step: Option<Step>,
    attempt: Option<u32>,
    reason: Value,
    detail: Option<String>,
    due: Option<Timestamp>,
    /// The state that the saga is in from now on.
    state: Option<&'static str>,
}

fn said(event: &ProcessEvent) -> (OrderId, Said) {
    let none = Said::default();
    match event {
        ProcessEvent::Started(it) => asked(it.order.order_id, it.asks),
        ProcessEvent::StepRequested(it) => asked(it.order.order_id, Some(it.asks)),
        ProcessEvent::StepSucceeded(it) => (it.order_id, Said { step: Some(it.step), ..none }),
        ProcessEvent::StepFailed(it) => {
            let (reason, detail) = (Value::name(it.reason), Some(it.detail.clone()));
            (it.order_id, Said { step: Some(it.step), reason, detail, ..none })
        }
        ProcessEvent::StepTimedOut(it) => {
            (it.order_id, Said { step: Some(it.step), attempt: Some(it.attempt), due: it.retry_at, ..none })
        }
        ProcessEvent::CompensationRequested(it) => {
            let (step, attempt, due) = (Some(it.step), Some(it.attempt), Some(it.deadline));
            let (reason, detail) = (Value::name(it.reason), Some(it.detail.clone()));
            (it.order_id, Said { step, attempt, due, reason, detail, state: Some("compensating") })
        }
        ProcessEvent::CompensationSucceeded(it) => (it.order_id, Said { step: Some(it.step), ..none }),
        ProcessEvent::CompensationFailed(it) => {
            (it.order_id, Said { step: Some(it.step), attempt: Some(it.attempt), due: it.retry_at, ..none })
        }
        ProcessEvent::Waiting(it) => (it.order_id, Said { step: Some(it.step), due: Some(it.until), ..none }),
        ProcessEvent::Completed(it) => (it.order_id, Said { state: Some("completed"), ..none }),
        ProcessEvent::Failed(it) => {
            let (reason, detail) = (Value::name(it.reason), Some(it.detail.clone()));
            (it.order_id, Said { reason, detail, state: Some("failed"), ..none })
        }
        ProcessEvent::Parked(it) => {
            let (step, attempt) = (Some(it.step), Some(it.attempts));
            (it.order_id, Said { step, attempt, state: Some("parked"), ..none })
        }
        ProcessEvent::Retried(it) => operator(it.order_id, Some(it.step), &it.reason),
        ProcessEvent::Skipped(it) => operator(it.order_id, Some(it.step), &it.reason),
        ProcessEvent::Compensated(it) => operator(it.order_id, None, &it.reason),
        ProcessEvent::Cancelled(it) => operator(it.order_id, None, &it.reason),
        ProcessEvent::Resumed(it) => operator(it.order_id, None, &it.reason),
    }
}

fn asked(order: OrderId, asks: Option<Asked>) -> (OrderId, Said) {
    let (step, attempt) = (asks.map(|asks| asks.step), asks.map(|asks| asks.attempt));
    let due = asks.map(|asks| asks.deadline);
    (order, Said { step, attempt, due, state: Some("running"), ..Said::default() })
}

fn operator(order: OrderId, step: Option<Step>, reason: &str) -> (OrderId, Said) {
    (order, Said { step, detail: Some(reason.to_owned()), ..Said::default() })
}

/// What a fact changes.
fn project(recorded: &Recorded, changes: &mut Changes) {
    let Fact::Process(event) = &recorded.fact else { return };
    let (envelope, (order_id, said)) = (&recorded.envelope, said(event));
    let (time, version) = (envelope.time, envelope.version);
    let Said { step, attempt, reason, detail, due, state } = said;
    let (step, attempt) = (step.map(Step::name), attempt.map(i64::from));
    let happened = row!(SAGA_EVENTS {
        kind: envelope.kind.clone(),
        done: event.done().filter(|_| envelope.kind != "step.succeeded").map(|done| done.step.name()),
        step: step,
        attempt: attempt,
        reason: reason.clone(),
        detail: detail.clone(),
        due: due,
        actor: envelope.actor.as_str().to_owned(),
        time: time,
        sequence: recorded.position.sequence,
    });
    changes.upsert(&SAGA_EVENTS, [order_id.into(), version.into()], happened);

    match event {
        ProcessEvent::Started(it) => {
            let row = row!(SAGAS {
                user_id: it.order.user_id,
                definition: i64::from(it.definition),
                started_at: time,
                since: time,
                state: "running",
            });
            changes.patch(&SAGAS, order_id, row);
        }
        // Taken back before it began.
        ProcessEvent::Failed(it) if version == 1 => {
            let row = row!(SAGAS { user_id: it.user_id, started_at: time });
            changes.patch(&SAGAS, order_id, row);
        }
        ProcessEvent::CompensationRequested(it) if it.attempt == 1 => {
            changes.patch(&SAGAS, order_id, row!(SAGAS { since: time }));
        }
        ProcessEvent::Completed(_) | ProcessEvent::Failed(_) | ProcessEvent::Parked(_) => {
            changes.patch(&SAGAS, order_id, row!(SAGAS { since: time }));
        }
        _ => {}
    }
    if let Some(state) = state {
        changes.patch(&SAGAS, order_id, row!(SAGAS { state: state, step: step, attempt: attempt }));
    }
    if matches!(reason, Value::Text(_)) {
        changes.patch(&SAGAS, order_id, row!(SAGAS { reason: reason, detail: detail }));
    }
    changes.patch(&SAGAS, order_id, row!(SAGAS { wakes_at: due, updated_at: time, version: version }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, Model};
    use events::{
        AccountId, Address, DataKey, Money, Personal, UserId,
        fulfilment::{
            Asked, CompensationRequested, CompensationSucceeded, Done, ProcessCompleted, ProcessFailed,
            ProcessParked, ProcessStarted, ProcessWaiting, StepFailed, StepRequested, StepSucceeded,
        },
        orders::{Ordered, Reason, Workflow},
    };
    use uuid::Uuid;

    fn order() -> Ordered {
        let address = r#"{"name":"Ada","line1":"1","city":"London","postalCode":"1","country":"GB"}"#;
        let address: Address = serde_json::from_str(address).unwrap();
        let user_id = UserId::new(Uuid::from_u128(2));
        Ordered {
            order_id: OrderId::new(Uuid::from_u128(1)),
            user_id,
            account_id: AccountId::new(Uuid::from_u128(3)),
            items: Vec::new(),
            total_amount: Money::new(500, "EUR".parse().unwrap()),
            shipping_address: Personal::seal(&address, user_id, &DataKey::new([1; 32]), [2; 24]),
            workflow: Workflow::Orchestration,
        }
    }

    async fn texts(model: &Model) -> [Option<String>; 4] {
        let row = model.database.row("SELECT * FROM sagas", Vec::new()).await.unwrap().unwrap();
        ["state", "step", "reason", "detail"].map(|column| row.find(column).unwrap())
    }

    #[tokio::test]
    async fn a_saga_shows_where_it_stands_and_every_attempt() {
        let (order, at) = (order(), Timestamp::from_second(5000).unwrap());
        let (order_id, user_id, account_id) = (order.order_id, order.user_id, order.account_id);
        let mut log = Log::default();
        let mut add = |event: ProcessEvent| log.add(Aggregate::Process, order_id, event, Fact::Process);
        add(ProcessStarted { order: order.clone(), definition: 1, asks: None }.into());
        for step in [Step::Payment, Step::Inventory] {
            let asks = Asked { step, attempt: 1, deadline: at };
            add(StepRequested { order: order.clone(), asks, after: None }.into());
            if step == Step::Payment {
                add(StepSucceeded { order_id, step, sequence: 1 }.into());
            }
        }
        let (step, reason, detail) = (Step::Inventory, Reason::OutOfStock, "no TEA".to_owned());
        add(StepFailed { order_id, step, reason, detail: detail.clone(), sequence: 2 }.into());
        let (step, deadline, attempt) = (Step::Payment, at, 1);
        let undo = CompensationRequested {
            order_id,
            user_id,
            account_id,
            step,
            attempt,
            deadline,
            reason,
            detail: detail.clone(),
        };
        add(undo.into());
        add(ProcessParked { order_id, step, attempts: 10, compensating: true }.into());
        add(CompensationSucceeded { order_id, step, sequence: 3 }.into());
        add(ProcessFailed { order_id, user_id, reason, detail }.into());

        let some = |text: &str| Some(text.to_owned());
        let model = Model::new(&VIEW).await;
        model.apply(&log.all[..4]).await;
        assert_eq!(texts(&model).await, [some("running"), some("inventory"), None, None]);
        model.apply(&log.all[4..6]).await;
        let why = [some("out_of_stock"), some("no TEA")];
        assert_eq!(
            texts(&model).await,
            [some("compensating"), some("payment"), why[0].clone(), why[1].clone()]
        );
        model.apply(&log.all[6..7]).await;
        assert_eq!(texts(&model).await[0], some("parked"));
        model.apply(&log.all[7..]).await;
        assert_eq!(texts(&model).await, [some("failed"), None, why[0].clone(), why[1].clone()]);
        let row = model.database.row("SELECT * FROM sagas", Vec::new()).await.unwrap().unwrap();
        assert!(row.find::<Timestamp>("wakes_at").unwrap().is_none());
        assert_eq!(row.get::<i64>("version").unwrap(), 9);
        let rows =
            model.database.rows("SELECT * FROM saga_events ORDER BY version", Vec::new()).await.unwrap();
        let kinds: Vec<String> = rows.iter().map(|row| row.get("kind").unwrap()).collect();
        assert_eq!(kinds.len(), 9);
        assert_eq!(kinds[5], "compensation.requested");
    }
    /// From version 2 of the definition on, one fact says what was done and what is asked for.
    #[tokio::test]
    async fn a_fact_that_says_two_things_shows_both() {
        let (order, deadline) = (order(), Timestamp::from_second(5000).unwrap());
        let (order_id, user_id) = (order.order_id, order.user_id);
        let mut log = Log::default();
        let mut add = |event: ProcessEvent| log.add(Aggregate::Process, order_id, event, Fact::Process);
        let asks = |step| Asked { step, attempt: 1, deadline };
        add(ProcessStarted { order: order.clone(), definition: 2, asks: Some(asks(Step::Payment)) }.into());
        let after = Some(Done { step: Step::Payment, sequence: 1 });
        add(StepRequested { order, asks: asks(Step::Inventory), after }.into());
        let until = Timestamp::from_second(6000).unwrap();
        add(ProcessWaiting { order_id, step: Step::Inventory, until }.into());
        let after = Some(Done { step: Step::Inventory, sequence: 2 });
        add(ProcessCompleted { order_id, user_id, after }.into());

        let some = |text: &str| Some(text.to_owned());
        let model = Model::new(&VIEW).await;
        model.apply(&log.all[..1]).await;
        assert_eq!(texts(&model).await, [some("running"), some("payment"), None, None]);
        model.apply(&log.all[1..3]).await;
        assert_eq!(texts(&model).await, [some("running"), some("inventory"), None, None]);
        let row = model.database.row("SELECT * FROM sagas", Vec::new()).await.unwrap().unwrap();
        assert_eq!(row.find::<Timestamp>("wakes_at").unwrap(), Some(until));
        model.apply(&log.all[3..]).await;
        assert_eq!(texts(&model).await, [some("completed"), None, None, None]);
        let rows =
            model.database.rows("SELECT * FROM saga_events ORDER BY version", Vec::new()).await.unwrap();
        let done: Vec<Option<String>> = rows.iter().map(|row| row.find("done").unwrap()).collect();
        assert_eq!(done, [None, some("payment"), None, some("inventory")]);
    }
}
