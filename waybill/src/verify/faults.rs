//! One fault of each kind in a log that is otherwise whole: each is seen, where it is, and nothing else.

#![cfg(test)]

use super::{
    Plan,
    finding::Kind,
    log::{LogCheck, Parts},
    report::{Format, Report},
    verify_log,
};
use crate::databases::Databases;
use events::{
    Actor, Aggregate, CommandId, Context, DomainEvent, Envelope, EventId, Metadata, Money, OrderId, Subject,
    UserId,
    fulfilment::{HoldEnded, HoldEvent, Timer, TimerDue, TimerEvent},
    inventory::{ItemEvent, ProductAdded, ProductEvent, Stock, StockReceived},
    payments::{AccountCredited, AccountEvent, AccountOpened},
};
use jiff::{SignedDuration, Timestamp};
use nats::{
    Access, Connection, Raw,
    restore::{self, Restore},
    server::{Binary, Config, Server},
};
use std::time::Duration;
use uuid::Uuid;

/// A message before it is one.
#[derive(Clone)]
struct Draft {
    context: Context,
    sequence: u64,
    subject: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Draft {
    fn raw(&self) -> Raw {
        let stored = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(self.sequence.cast_signed());
        let body = self.body.clone().into();
        Raw::new(self.sequence, self.subject.clone(), stored, &self.headers, body).unwrap()
    }

    fn set(&mut self, name: &str, value: &str) {
        self.unset(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn unset(&mut self, name: &str) {
        self.headers.retain(|(known, _)| known != name);
    }
}

fn command(number: u128) -> CommandId {
    CommandId::new(Uuid::from_u128(number))
}

/// The event that answers `cause`, which is a client where there is none.
fn event<E: DomainEvent>(
    (subject, sequence, version): (&Subject, u64, u64),
    (command, index): (CommandId, usize),
    cause: Option<EventId>,
    fact: &E,
) -> Draft {
    let metadata = Metadata {
        command,
        correlation: "test".parse().unwrap(),
        causation: cause.map_or_else(|| command.uuid(), EventId::uuid),
        actor: Actor::CLIENT,
        traceparent: None,
    };
    let envelope = Envelope::new(fact.fact_type(), subject, version, index, Timestamp::UNIX_EPOCH, &metadata);
    let mut headers = Vec::new();
    envelope.write_headers(subject.context(), |name, value| headers.push((name.to_owned(), value)));
    Draft {
        context: subject.context(),
        sequence,
        subject: subject.to_string(),
        headers,
        body: String::from_utf8(fact.to_json()).unwrap(),
    }
}

fn received(quantity: u32, on_hand: u64) -> ItemEvent {
    StockReceived { sku: "TEA".parse().unwrap(), quantity, stock: Stock { on_hand, reserved: 0 } }.into()
}

fn eur(amount: i64) -> Money {
    Money { amount, currency: "EUR".parse().unwrap() }
}

/// Goods arrive four times, two of them at once; money once; a hold is answered by the end of another, with a timer that has
/// gone and one that stands.
fn whole() -> Vec<Draft> {
    let item = Aggregate::Item.subject("TEA");
    let product = ProductAdded { sku: "TEA".parse().unwrap(), name: "Tea".to_owned(), price: eur(450) };
    let product: ProductEvent = product.into();
    let mut log = vec![
        event((&Aggregate::Product.subject("TEA"), 1, 1), (command(1), 0), None, &product),
        event((&item, 2, 1), (command(2), 0), None, &received(5, 5)),
        event((&item, 3, 2), (command(3), 0), None, &received(5, 10)),
        event((&item, 4, 3), (command(3), 1), None, &received(5, 15)),
        event((&item, 5, 4), (command(4), 0), None, &received(5, 20)),
    ];
    for (place, guard, tail, batch) in [
        (0, Some("0"), None, None),
        (1, Some("0"), None, None),
        (2, Some("2"), Some("0;2"), Some(("b", "1", false))),
        (3, None, Some("0;2,-1"), Some(("b", "2", true))),
        // A snapshot was taken after the third one.
        (4, Some("4"), Some("3;4"), None),
    ] {
        told(&mut log[place], guard, tail, batch);
    }
    let (user_id, account_id) = (UserId::new(Uuid::from_u128(7)), events::AccountId::new(Uuid::from_u128(8)));
    let account = Aggregate::Account.subject(account_id);
    let opened: AccountEvent = AccountOpened { account_id, user_id, currency: eur(0).currency }.into();
    let credited: AccountEvent =
        AccountCredited { account_id, amount: eur(500), balance: eur(500), order_id: None }.into();
    let mut one = event((&account, 1, 1), (command(5), 0), None, &opened);
    told(&mut one, Some("0"), None, None);
    let cause = EventId::of_command(command(5), 0);
    let mut two = event((&account, 2, 2), (command(6), 0), Some(cause), &credited);
    told(&mut two, Some("1"), Some("0;1"), None);
    log.extend([one, two]);
    log.extend(timers());
    log
}

fn told(draft: &mut Draft, guard: Option<&str>, tail: Option<&str>, batch: Option<(&str, &str, bool)>) {
    if let Some(guard) = guard {
        draft.set("Nats-Expected-Last-Subject-Sequence", guard);
    }
    if let Some(tail) = tail {
        draft.set("Waybill-Tail", tail);
    }
    if let Some((id, place, is_last)) = batch {
        draft.set(restore::BATCH, &format!("{id};{place}{}", if is_last { ";1" } else { "" }));
    }
}

fn timers() -> Vec<Draft> {
    let order = |number| OrderId::new(Uuid::from_u128(number));
    let mut drafts = Vec::new();
    for (number, sequence) in [(21, 1), (22, 3)] {
        let subject = Aggregate::Hold.subject(order(number));
        let fact: HoldEvent = HoldEnded { order_id: order(number) }.into();
        let mut draft = event((&subject, sequence, 1), (command(number), 0), None, &fact);
        told(&mut draft, Some("0"), None, Some((&format!("t{number}"), "1", false)));
        drafts.push(draft);
    }
    // The timer of the first stood at 2 and has fired; that of the second stands.
    let (armed, at) = (EventId::of_command(command(21), 0), Timestamp::UNIX_EPOCH);
    let due: TimerEvent = TimerDue { order_id: order(21), timer: Timer::Hold, at }.into();
    let mut fired = event((&Aggregate::Timer.subject(order(21)), 5, 1), (command(21), 0), Some(armed), &due);
    let id = command(21).derive(&format!("timer {armed}"));
    fired.set("ce-id", &id.to_string());
    fired.unset("Nats-Msg-Id");
    fired.set("Nats-Scheduler", &Context::Fulfilment.timer(order(21), "hold"));
    fired.set("Nats-Schedule-Next", "purge");
    let mut stands = fired.clone();
    (stands.sequence, stands.subject) = (4, Context::Fulfilment.timer(order(22), "hold"));
    stands.unset("Nats-Scheduler");
    stands.unset("Nats-Schedule-Next");
    stands.set("Nats-Schedule", "@at 2200-01-01T00:00:00Z");
    stands.set("Nats-Schedule-Target", Aggregate::Timer.subject(order(22)).as_str());
    told(&mut stands, None, None, Some(("t22", "2", true)));
    drafts.extend([stands, fired]);
    drafts
}

const BOTH: Parts = Parts { log: true, schema: true };

/// What is found, as `kind at`.
fn found(log: &[Draft]) -> Vec<(Kind, String, String)> {
    let mut check = LogCheck::new(BOTH);
    for draft in log {
        check.take(draft.context, draft.raw());
    }
    check.finish();
    check.findings.told.into_iter().map(|one| (one.kind, one.at, one.what)).collect()
}

#[test]
fn in_a_whole_log_nothing_is_found() {
    assert_eq!(found(&whole()), []);
}

type Harm = fn(&mut Vec<Draft>);

/// A kind, where it is seen, what is said of it, and what it takes.
const FAULTS: &[(Kind, &str, &str, Harm)] = &[
    (Kind::Gap, "PAYMENTS:2", "1 messages are missing, up to 2", |log| log[6].sequence = 3),
    (Kind::Gap, "INVENTORY:1", "2 messages are missing", |log| {
        log.drain(..1);
        log.iter_mut()
            .filter(|draft| draft.context == Context::Inventory)
            .for_each(|draft| draft.sequence += 1);
        log[0].sequence = 3;
    }),
    (Kind::Gap, "FULFILMENT:2", "1 messages are missing", |log| {
        // Behind the end of a batch stands no timer.
        told(&mut log[7], None, None, Some(("t21", "1", true)));
    }),
    (Kind::Foreign, "INVENTORY:1", "not an event subject", |log| {
        log[0].subject = "evt.inventory.x".to_owned();
    }),
    (Kind::Header, "INVENTORY:1", "ce-actor is missing", |log| log[0].unset("ce-actor")),
    (Kind::Header, "INVENTORY:1", "ce-time", |log| log[0].set("ce-time", "yesterday")),
    (Kind::Header, "INVENTORY:1", "Nats-Msg-Id is x, not ", |log| log[0].set("Nats-Msg-Id", "x")),
    (Kind::Header, "INVENTORY:1", "ce-subject is MUG, not TEA", |log| log[0].set("ce-subject", "MUG")),
    (Kind::Header, "INVENTORY:1", "ce-source is /waybill/orders", |log| {
        log[0].set("ce-source", "/waybill/orders");
    }),
    (Kind::Header, "INVENTORY:1", "traceparent is malformed", |log| log[0].set("traceparent", "00-x")),
    (Kind::Header, "INVENTORY:1", "ce-actor is there twice", |log| {
        log[0].headers.push(("ce-actor".to_owned(), "user:1".to_owned()));
    }),
    (Kind::Version, "INVENTORY:5", "version 5 of evt.inventory.item.TEA, expected 4", |log| {
        log[4].set("ce-sequence", "5");
    }),
    (Kind::Guard, "INVENTORY:5", "guarded by 3", |log| {
        log[4].set("Nats-Expected-Last-Subject-Sequence", "3");
    }),
    (Kind::Guard, "INVENTORY:5", "without a guard", |log| {
        log[4].unset("Nats-Expected-Last-Subject-Sequence");
    }),
    (Kind::Tail, "INVENTORY:5", "does not name the events", |log| log[4].set("Waybill-Tail", "0;2,3")),
    (Kind::Tail, "INVENTORY:5", "does not name the events", |log| log[4].set("Waybill-Tail", "2;4")),
    (Kind::Tail, "INVENTORY:5", "cannot be read", |log| log[4].set("Waybill-Tail", "x")),
    (Kind::Tail, "INVENTORY:5", "is missing", |log| log[4].unset("Waybill-Tail")),
    (Kind::Timer, "FULFILMENT:4", "is no timer of fulfilment", |log| log[9].unset("Nats-Schedule")),
    (Kind::Repeated, "PAYMENTS:1", "is recorded a second time", |log| {
        let repeated = command(4);
        let id = EventId::of_command(repeated, 0).to_string();
        for (name, value) in [("ce-id", &id), ("Nats-Msg-Id", &id), ("ce-commandid", &repeated.to_string())] {
            log[5].set(name, value);
        }
        log[5].set("ce-causationid", &repeated.to_string());
        log[6].set("ce-causationid", &id);
    }),
    (Kind::Id, "INVENTORY:5", "is no id of command", |log| {
        let id = Uuid::from_u128(99).to_string();
        log[4].set("ce-id", &id);
        log[4].set("Nats-Msg-Id", &id);
    }),
    (Kind::Cause, "PAYMENTS:2", "is not in the log", |log| {
        log[6].set("ce-causationid", &Uuid::from_u128(99).to_string());
    }),
    (Kind::Correlation, "PAYMENTS:2", "another correlation id", |log| {
        log[6].set("ce-correlationid", "other");
    }),
    (Kind::Type, "INVENTORY:1", "unknown event type product.dreamt", |log| {
        log[0].set("ce-type", "product.dreamt");
        log[0].set("ce-dataschema", "/schemas/product.dreamt/1");
    }),
    (Kind::Type, "INVENTORY:1", "product.added has no version 9", |log| {
        log[0].set("ce-dataschema", "/schemas/product.added/9");
    }),
    (Kind::Body, "INVENTORY:1", "missing field `name`", |log| {
        log[0].body = log[0].body.replace("\"name\"", "\"nom\"");
    }),
    (Kind::Body, "INVENTORY:1", "wrong at line 1", |log| log[0].body = "{\"sku\":7}".to_owned()),
    (Kind::Sum, "INVENTORY:5", "stock of TEA is 20", |log| {
        log[4].body = log[4].body.replace("\"onHand\":20", "\"onHand\":21");
    }),
    (Kind::Sum, "PAYMENTS:2", "balance of account", |log| {
        log[6].body = log[6].body.replacen("500", "400", 1);
    }),
];

#[test]
fn each_fault_is_seen_where_it_is() {
    for (kind, at, what, harm) in FAULTS {
        let mut log = whole();
        harm(&mut log);
        let found = found(&log);
        let seen =
            found.iter().any(|(of, place, said)| (of, place.as_str()) == (kind, at) && said.contains(what));
        assert!(seen, "{kind} at {at} ({what}) is not among {found:?}");
        // What follows from the same fault is no other one.
        let follows = |of: &Kind| {
            let chained = [
                Kind::Sum,
                Kind::Version,
                Kind::Guard,
                Kind::Tail,
                Kind::Type,
                Kind::Cause,
                Kind::Id,
                Kind::Header,
            ];
            of == kind || chained.contains(of)
        };
        assert!(found.iter().all(|(of, _, _)| follows(of)) && found.len() <= 8, "{kind} at {at}: {found:?}");
    }
}

#[test]
fn what_is_recorded_and_not_in_the_schema_is_told_and_no_fault() {
    let mut log = whole();
    log[0].body = log[0].body.replacen('{', "{\"colour\":\"red\",", 1);
    let mut check = LogCheck::new(BOTH);
    for draft in &log {
        check.take(draft.context, draft.raw());
    }
    assert_eq!(check.findings.told, []);
    let version = &check.gate.versions[&("product.added".to_owned(), 2)];
    assert_eq!((version.unknown_fields["colour"], version.newest, version.events), (1, Some(2), 1));
    let fields = &version.shapes[0].fields;
    assert_eq!(
        fields,
        &["colour: string", "name: string", "price.amount: number", "price.currency: string", "sku: string"]
    );
    let received = &check.gate.versions[&("stock.received".to_owned(), 1)];
    assert_eq!((received.events, received.shapes.len(), received.shapes[0].events), (4, 1, 4));
}

/// Those faults that a server lets pass, all of them in one log, on a real server.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_on_a_server_is_read_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let binary = Binary::locate(None).await.unwrap();
    let server = Server::start(Config::new(binary, folder.path().join("nats"))).await.unwrap();
    let connection = Connection::connect(&server.url(), "test").await.unwrap();
    let mut log = whole();
    let mut expected = Vec::new();
    for kind in [Kind::Body, Kind::Correlation, Kind::Gap] {
        let (kind, at, what, harm) = FAULTS.iter().find(|fault| fault.0 == kind).unwrap();
        harm(&mut log);
        // What is gone moves what stands behind it.
        let at = if *kind == Kind::Correlation { "PAYMENTS:3" } else { *at };
        expected.push((*kind, at, *what));
    }
    log[4].set("Waybill-Tail", "0;2");
    expected.push((Kind::Tail, "INVENTORY:5", "does not name"));
    for context in [Context::Inventory, Context::Payments, Context::Fulfilment] {
        let drafts: Vec<_> = log
            .iter()
            .filter(|draft| draft.context == context && !draft.subject.starts_with("timer."))
            .collect();
        let mut restore = Restore::begin(&connection, context, 1, "test").await.unwrap();
        for draft in &drafts {
            restore.append(draft.raw()).await.unwrap();
        }
        restore.finish(drafts.last().unwrap().sequence, drafts.len() as u64).await.unwrap();
        restore::complete(&connection, context, 1, (&serde_json::Value::Null, None)).await.unwrap();
    }
    let plan = Plan {
        parts: BOTH,
        services: Vec::new(),
        databases: Databases::default(),
        access: Access::default(),
        patience: Duration::ZERO,
        output: Format::Json,
    };
    let mut report = Report::default();
    verify_log(&connection, &plan, &mut report).await.unwrap();
    let report = serde_json::to_value(&report).unwrap();
    let findings = report["findings"].as_array().unwrap();
    for (kind, at, what) in expected {
        let seen = |one: &serde_json::Value| {
            one["kind"] == kind.name() && one["at"] == at && one["what"].as_str().unwrap().contains(what)
        };
        assert!(findings.iter().any(seen), "{kind} at {at} is not among {findings:#?}");
    }
    assert_eq!(report["agrees"], false);
    assert_eq!(report["streams"]["FULFILMENT"]["timersGone"], 2, "{report:#}");
    assert_eq!(report["types"]["stock.received"]["1"]["events"], 4);
}
