//! What is written is read back, whatever it holds; what is no fact is an error, whatever it is.

use events::{
    AccountId, Address, Aggregate, Context, Currency, DataKey, DomainEvent, EventId, Fact, FactType, Money,
    OrderId, Personal, Position, Sku, UserId,
    fraud::{AssessmentEvent, FraudAssessed, Suspicion, Verdict},
    fulfilment::{Asked, Done, HoldEvent, ProcessEvent, ProcessStarted, Step, StepRequested, TimerEvent},
    inventory::{
        InventoryReserved, ItemEvent, ProductAdded, ProductEvent, ReservationEvent, ReservationFailed,
        Shortage, Stock, StockReserved,
    },
    notifications::{Fault, Notice, NotificationEvent, NotificationFailed},
    ops::{DeadLetterEvent, ProjectionEvent},
    orders::{Line, OrderCancelled, OrderCreated, OrderEvent, Ordered, Reason, UserSnapshot, Workflow},
    payments::{AccountCredited, AccountEvent, PaymentCharged, PaymentEvent},
    shipping::{ShipmentEvent, ShippingScheduled},
    users::{EmailClaimed, EmailEvent, EmailHash, Preferences, Role, UserCreated, UserEvent},
};
use jiff::Timestamp;
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::json;
use uuid::Uuid;

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn ids() -> impl Strategy<Value = (OrderId, UserId, AccountId)> {
    (uuid(), uuid(), uuid()).prop_map(|(a, b, c)| (OrderId::new(a), UserId::new(b), AccountId::new(c)))
}

fn sku() -> impl Strategy<Value = Sku> {
    // The alphabet of a SKU, without a regular expression engine to say so.
    const LETTERS: &[u8] = b"ABCXYZabcxyz0189_-";
    vec(select(LETTERS), 1..=64).prop_map(|text| Sku::new(std::str::from_utf8(&text).unwrap()).unwrap())
}

fn currency() -> impl Strategy<Value = Currency> {
    select(&["EUR", "JPY", "BHD", "USD"][..]).prop_map(|code| code.parse().unwrap())
}

fn money() -> impl Strategy<Value = Money> {
    (any::<i64>(), currency()).prop_map(|(amount, currency)| Money::new(amount, currency))
}

fn lines() -> impl Strategy<Value = Vec<Line>> {
    let line = (sku(), any::<u32>(), money());
    vec(line.prop_map(|(sku, quantity, unit_price)| Line { sku, quantity, unit_price }), 0..4)
}

fn address() -> impl Strategy<Value = Personal<Address>> {
    (any::<String>(), any::<String>(), option::of(any::<String>()), any::<String>()).prop_map(
        |(name, line1, line2, city)| {
            let (postal_code, country) = ("1010".to_owned(), "AT".to_owned());
            let address = Address { name, line1, line2, city, postal_code, country };
            sealed(&address)
        },
    )
}

fn sealed<T: serde::Serialize>(value: &T) -> Personal<T> {
    Personal::seal(value, UserId::new(Uuid::nil()), &DataKey::new([1; 32]), [2; 24])
}

fn workflow() -> impl Strategy<Value = Workflow> {
    select(&[Workflow::Choreography, Workflow::Orchestration][..])
}

fn email_hash(n: u64) -> EmailHash {
    format!("{n:064x}").parse().unwrap()
}

/// One fact of every aggregate of the order flow, among them all that carry lists, addresses and optional fields.
fn fact() -> impl Strategy<Value = Fact> {
    (
        ids(),
        lines(),
        money(),
        address(),
        workflow(),
        option::of(any::<String>()),
        any::<(u32, u64, u64)>(),
        0..9_u8,
    )
        .prop_map(
            |((order_id, user_id, account_id), items, amount, shipping_address, workflow, text, n, which)| {
                let sku = items.first().map_or_else(|| Sku::new("TEA").unwrap(), |line| line.sku.clone());
                let name = text.clone().unwrap_or_default();
                let (quantity, stock) = (n.0, Stock { on_hand: n.1, reserved: n.2 });
                let total_amount = amount;
                match which {
                    0 => Fact::Order(
                        OrderCreated {
                            order_id,
                            user_id,
                            account_id,
                            items,
                            total_amount,
                            shipping_address,
                            workflow,
                            user_snapshot: UserSnapshot { stale: n.0 % 2 == 0 },
                        }
                        .into(),
                    ),
                    1 => Fact::Order(
                        OrderCancelled {
                            order_id,
                            user_id,
                            account_id,
                            reason: text.as_ref().map(sealed),
                            workflow,
                        }
                        .into(),
                    ),
                    2 => Fact::Product(ProductAdded { sku, name, price: amount }.into()),
                    3 => Fact::Item(StockReserved { sku, order_id, quantity, stock }.into()),
                    4 if items.len() > 1 => Fact::Reservation(
                        InventoryReserved {
                            order_id,
                            user_id,
                            account_id,
                            items,
                            total_amount,
                            shipping_address,
                            workflow,
                        }
                        .into(),
                    ),
                    4 => {
                        let shortages =
                            vec![Shortage { sku, requested: quantity, available: n.1 }; items.len()];
                        let reason = Reason::OutOfStock;
                        Fact::Reservation(ReservationFailed { order_id, reason, shortages, workflow }.into())
                    }
                    5 => {
                        let order_id = text.is_some().then_some(order_id);
                        Fact::Account(
                            AccountCredited { account_id, amount, balance: amount, order_id }.into(),
                        )
                    }
                    6 => Fact::Payment(
                        PaymentCharged {
                            order_id,
                            user_id,
                            account_id,
                            amount,
                            items,
                            shipping_address,
                            workflow,
                        }
                        .into(),
                    ),
                    7 => {
                        let (verdict, reasons) = (Verdict::Declined, vec![Suspicion::Velocity; items.len()]);
                        Fact::Assessment(FraudAssessed { order_id, user_id, amount, verdict, reasons }.into())
                    }
                    _ => {
                        let (carrier, tracking_number) = (name.clone(), name);
                        Fact::Shipment(
                            ShippingScheduled {
                                order_id,
                                user_id,
                                items,
                                carrier,
                                tracking_number,
                                shipping_address,
                                workflow,
                            }
                            .into(),
                        )
                    }
                }
            },
        )
}

/// A process that begins: its order lies flat among its own fields.
fn of_processes() -> impl Strategy<Value = Fact> {
    (ids(), lines(), money(), address(), workflow(), any::<(u32, bool, bool)>()).prop_map(
        |((order_id, user_id, account_id), items, total_amount, shipping_address, workflow, told)| {
            let order =
                Ordered { order_id, user_id, account_id, items, total_amount, shipping_address, workflow };
            let (definition, begins, together) = told;
            let asks = Asked { step: Step::Payment, attempt: 1, deadline: Timestamp::UNIX_EPOCH };
            let after = together.then_some(Done { step: Step::Inventory, sequence: definition.into() });
            let event = if begins {
                ProcessStarted { order, definition, asks: together.then_some(asks) }.into()
            } else {
                StepRequested { order, asks, after }.into()
            };
            Fact::Process(event)
        },
    )
}

/// Facts of users and of their e-mail addresses.
fn of_users() -> impl Strategy<Value = Fact> {
    (uuid(), any::<(String, String, u64)>(), 0..3_usize, any::<bool>()).prop_map(
        |(user, (name, email, n), roles, claimed)| {
            let (user_id, email_hash) = (UserId::new(user), email_hash(n));
            if claimed {
                return Fact::Email(EmailClaimed { email_hash, user_id }.into());
            }
            let (roles, preferences) = (vec![Role::Operator; roles], Preferences::default());
            let (name, email) = (sealed(&name), sealed(&email));
            Fact::User(UserCreated { user_id, name, email, email_hash, preferences, roles }.into())
        },
    )
}

/// Facts of notifications.
fn of_notifications() -> impl Strategy<Value = Fact> {
    (uuid(), ids(), any::<(u64, u32, Option<u16>)>()).prop_map(
        |(event, (order_id, user_id, _), (sequence, delivery, code))| {
            let notice = Notice {
                event_id: EventId::new(event),
                event_type: "order.completed".to_owned(),
                source: Position { context: Context::Orders, sequence },
                channel: "webhook-erp".parse().unwrap(),
                user_id,
                order_id,
                delivery,
            };
            Fact::Notification(NotificationFailed { notice, reason: Fault::Expired, code }.into())
        },
    )
}

fn written(fact: &Fact) -> (Aggregate, &'static FactType, Vec<u8>) {
    fn of<E: DomainEvent>(aggregate: Aggregate, event: &E) -> (Aggregate, &'static FactType, Vec<u8>) {
        (aggregate, event.fact_type(), event.to_json())
    }
    match fact {
        Fact::Order(event) => of::<OrderEvent>(Aggregate::Order, event),
        Fact::Product(event) => of::<ProductEvent>(Aggregate::Product, event),
        Fact::Item(event) => of::<ItemEvent>(Aggregate::Item, event),
        Fact::Reservation(event) => of::<ReservationEvent>(Aggregate::Reservation, event),
        Fact::Account(event) => of::<AccountEvent>(Aggregate::Account, event),
        Fact::Payment(event) => of::<PaymentEvent>(Aggregate::Payment, event),
        Fact::Assessment(event) => of::<AssessmentEvent>(Aggregate::Assessment, event),
        Fact::Shipment(event) => of::<ShipmentEvent>(Aggregate::Shipment, event),
        Fact::Notification(event) => of::<NotificationEvent>(Aggregate::Notification, event),
        Fact::User(event) => of::<UserEvent>(Aggregate::User, event),
        Fact::Email(event) => of::<EmailEvent>(Aggregate::Email, event),
        Fact::DeadLetter(event) => of::<DeadLetterEvent>(Aggregate::DeadLetter, event),
        Fact::Projection(event) => of::<ProjectionEvent>(Aggregate::Projection, event),
        Fact::Process(event) => of::<ProcessEvent>(Aggregate::Process, event),
        Fact::Hold(event) => of::<HoldEvent>(Aggregate::Hold, event),
        Fact::Timer(event) => of::<TimerEvent>(Aggregate::Timer, event),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        fact in prop_oneof![9 => fact(), 2 => of_users(), 1 => of_notifications(), 2 => of_processes()]
    ) {
        let (aggregate, kind, body) = written(&fact);
        prop_assert_eq!(Fact::from_json(aggregate, kind.name, kind.version, &body).unwrap(), fact);
    }

    #[test]
    fn every_first_product_is_read_as_the_second(sku in sku(), name in any::<String>(), price in money()) {
        let old = json!({ "sku": sku, "name": name, "amount": price.amount, "currency": price.currency });
        let read = ProductEvent::from_json("product.added", 1, old.to_string().as_bytes()).unwrap();
        prop_assert_eq!(read, ProductEvent::Added(ProductAdded { sku, name, price }));
    }

    #[test]
    fn what_is_no_fact_is_an_error(body in vec(any::<u8>(), 0..64), version in 0..4_u32) {
        for kind in FactType::all() {
            for aggregate in Aggregate::ALL {
                prop_assert!(Fact::from_json(aggregate, kind.name, version, &body).is_err());
            }
        }
        for old in ["null", "[]", "{}", "1", r#"{"price":{}}"#] {
            prop_assert!(ProductEvent::from_json("product.added", 1, old.as_bytes()).is_err());
        }
    }
}
