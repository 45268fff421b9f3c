//! Every version ever recorded can be read, and the newest is written as it was.

use crate::files::{golden, listed, versions};
use events::{
    Aggregate, DecodeError, DomainEvent, Fact, FactType,
    fraud::AssessmentEvent,
    fulfilment::{HoldEvent, ProcessEvent, TimerEvent},
    inventory::{ItemEvent, ProductEvent, ReservationEvent},
    notifications::NotificationEvent,
    ops::{DeadLetterEvent, ProjectionEvent},
    orders::OrderEvent,
    payments::{AccountEvent, PaymentEvent},
    shipping::ShipmentEvent,
    upcast,
    users::{EmailEvent, UserEvent},
};
use serde_json::{Value, json};

/// Reads a body through the types of its aggregate and writes it again.
fn rewritten(aggregate: Aggregate, fact: &FactType, version: u32, body: &[u8]) -> Value {
    fn of<E: DomainEvent>(fact: &FactType, version: u32, body: &[u8]) -> Vec<u8> {
        let event = E::from_json(fact.name, version, body)
            .unwrap_or_else(|error| panic!("{} {version}: {error:?}", fact.name));
        assert_eq!(event.fact_type().name, fact.name);
        event.to_json()
    }
    let write = match aggregate {
        Aggregate::Order => of::<OrderEvent>,
        Aggregate::Product => of::<ProductEvent>,
        Aggregate::Item => of::<ItemEvent>,
        Aggregate::Reservation => of::<ReservationEvent>,
        Aggregate::Account => of::<AccountEvent>,
        Aggregate::Payment => of::<PaymentEvent>,
        Aggregate::Assessment => of::<AssessmentEvent>,
        Aggregate::Shipment => of::<ShipmentEvent>,
        Aggregate::Notification => of::<NotificationEvent>,
        Aggregate::User => of::<UserEvent>,
        Aggregate::Email => of::<EmailEvent>,
        Aggregate::Process => of::<ProcessEvent>,
        Aggregate::Hold => of::<HoldEvent>,
        Aggregate::Timer => of::<TimerEvent>,
        Aggregate::DeadLetter => of::<DeadLetterEvent>,
        Aggregate::Projection => of::<ProjectionEvent>,
    };
    serde_json::from_slice(&write(fact, version, body)).unwrap()
}

#[test]
fn every_version_has_a_golden_file_and_no_file_is_left_over() {
    let mut expected: Vec<_> = versions().map(|(_, fact, v)| format!("{}/{v}.json", fact.name)).collect();
    expected.sort();
    let found = listed("golden");
    for file in &expected {
        assert!(found.contains(file), "put a body as recorded into events/golden/{file}");
    }
    assert_eq!(found, expected, "events/golden holds a version that no type has");
}

#[test]
fn every_older_version_has_an_upcaster() {
    for (_, fact, version) in versions().filter(|(_, fact, version)| *version < fact.version) {
        assert!(upcast::step(fact.name, version).is_some(), "{} {version} has no upcaster", fact.name);
    }
    for fact in FactType::all() {
        assert!(upcast::step(fact.name, fact.version).is_none(), "{} is upcast past its newest", fact.name);
    }
}

/// What old versions did not say, and no upcaster can know.
const UNKNOWN: &[((&str, u32), &str)] = &[
    (("shipping.failed", 1), "userId"),
    (("process.started", 1), "asks"),
    (("step.requested", 1), "after"),
    (("process.completed", 1), "after"),
];

#[test]
fn every_golden_body_is_read_and_the_newest_written_as_it_was() {
    for (aggregate, fact, version) in versions() {
        let body = golden(fact.name, version).to_string();
        let read = Fact::from_json(aggregate, fact.name, version, body.as_bytes());
        assert!(read.is_ok(), "{} {version}: {read:?}", fact.name);
        let mut again = rewritten(aggregate, fact, version, body.as_bytes());
        let mut newest = golden(fact.name, fact.version);
        if version < fact.version {
            // What was recorded in plain stays so, and cannot equal what is sealed.
            hide(&mut again);
            hide(&mut newest);
            for (_, field) in UNKNOWN.iter().filter(|(of, _)| *of == (fact.name, version)) {
                let known = newest.as_object_mut().and_then(|fields| fields.remove(*field));
                assert!(known.is_some(), "{} does have {field}", fact.name);
            }
        }
        assert_eq!(again, newest, "{} {version}", fact.name);
    }
}

/// Puts the same in place of all personal data.
fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) if fields.contains_key("sealed") || fields.contains_key("plain") => {
            *value = Value::from("personal");
        }
        Value::Object(fields) => fields.values_mut().for_each(hide),
        Value::Array(items) => items.iter_mut().for_each(hide),
        _ => {}
    }
}

#[test]
fn what_is_from_before_there_were_keys_is_kept_and_marked_as_plain() {
    for (kind, field) in [
        ("order.created", "shippingAddress"),
        ("inventory.reserved", "shippingAddress"),
        ("payment.charged", "shippingAddress"),
        ("shipping.scheduled", "shippingAddress"),
        ("order.cancelled", "reason"),
    ] {
        let new = upcast::step(kind, 1).unwrap()(golden(kind, 1));
        assert_eq!(new[field], json!({ "plain": golden(kind, 1)[field] }), "{kind}");
    }
    let silent = json!({ "orderId": "1" });
    assert_eq!(upcast::step("order.cancelled", 1).unwrap()(silent.clone()), silent, "no reason was given");
}

#[test]
fn the_first_product_upcasts_to_exactly_the_second() {
    let step = upcast::step("product.added", 1).unwrap();
    assert_eq!(step(golden("product.added", 1)), golden("product.added", 2));
}

#[test]
fn an_unknown_version_or_type_is_an_error() {
    for (aggregate, fact) in crate::files::facts() {
        let body = golden(fact.name, fact.version).to_string();
        for version in [0, fact.version + 1, u32::MAX] {
            let read = Fact::from_json(aggregate, fact.name, version, body.as_bytes());
            assert!(matches!(read, Err(DecodeError::Version { .. })), "{} {version}: {read:?}", fact.name);
        }
        let read = Fact::from_json(aggregate, "order.teleported", 1, body.as_bytes());
        assert!(matches!(read, Err(DecodeError::Type(_))), "{read:?}");
    }
}

#[test]
fn a_body_without_what_its_schema_requires_is_an_error() {
    for (aggregate, fact, version) in versions() {
        let schema = crate::schemas::schema(fact, version);
        let required = schema["required"].as_array().unwrap();
        for field in golden(fact.name, version).as_object().unwrap().keys() {
            let mut body = golden(fact.name, version);
            body.as_object_mut().unwrap().remove(field);
            let read = Fact::from_json(aggregate, fact.name, version, body.to_string().as_bytes());
            let needed = required.iter().any(|name| name == field);
            assert_eq!(read.is_err(), needed, "{} {version} without {field}: {read:?}", fact.name);
        }
    }
}
