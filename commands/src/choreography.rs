//! Tests of the choreography as a whole: which service answers which fact, and where that leads to whatever the order
//! in which facts arrive, however often they arrive, and wherever a process dies.

mod story;
pub(crate) mod world;

use crate::fixtures::{account, charged, created, eur, line, order, reserved, scheduled, sku, user};
use events::{
    Aggregate, Context, DomainEvent, Fact, FactType,
    fraud::{FraudAssessed, Verdict},
    inventory::{
        InventoryReleased, InventoryShipped, ProductAdded, ProductRepriced, ReservationFailed, Stock,
        StockAdjusted, StockReceived, StockReleased, StockReserved, StockShipped,
    },
    orders::{OrderCancelled, OrderCompleted, OrderFailed, Reason, Workflow},
    payments::{AccountCredited, AccountDebited, AccountOpened, PaymentFailed, PaymentRefunded},
    shipping::{ShipmentDelivered, ShipmentDispatched, ShippingCancelled, ShippingFailed},
};
use world::Service;

/// One fact of every type that has to do with orders, of an order that `workflow` carries.
fn one_of_each(workflow: Workflow) -> Vec<Fact> {
    let (order_id, user_id, account_id) = (order(1), user(1), account(1));
    let (sku, stock, quantity, price) = (sku("TEA"), Stock::default(), 1, eur(450));
    let (name, detail, reason, shortages) = (String::new(), String::new(), Reason::OutOfStock, vec![]);
    let mut created = created(&[line("TEA", 2, 450)]);
    created.workflow = workflow;
    let (mut reserved, mut charged, mut scheduled) = (reserved(&created), charged(&created), scheduled());
    (reserved.workflow, charged.workflow, scheduled.workflow) = (workflow, workflow, workflow);
    vec![
        Fact::Order(created.into()),
        Fact::Order(OrderCompleted { order_id, user_id }.into()),
        Fact::Order(OrderFailed { order_id, user_id, reason, detail: detail.clone() }.into()),
        Fact::Order(OrderCancelled { order_id, user_id, account_id, reason: None, workflow }.into()),
        Fact::Product(ProductAdded { sku: sku.clone(), name: name.clone(), price }.into()),
        Fact::Product(ProductRepriced { sku: sku.clone(), name: name.clone(), price }.into()),
        Fact::Item(StockReceived { sku: sku.clone(), quantity, stock }.into()),
        Fact::Item(StockAdjusted { sku: sku.clone(), delta: 1, reason: name, stock }.into()),
        Fact::Item(StockReserved { sku: sku.clone(), order_id, quantity, stock }.into()),
        Fact::Item(StockReleased { sku: sku.clone(), order_id, quantity, stock }.into()),
        Fact::Item(StockShipped { sku, order_id, quantity, stock }.into()),
        Fact::Reservation(reserved.into()),
        Fact::Reservation(ReservationFailed { order_id, reason, shortages, workflow }.into()),
        Fact::Reservation(InventoryReleased { order_id, reason, workflow }.into()),
        Fact::Reservation(InventoryShipped { order_id }.into()),
        Fact::Account(AccountOpened { account_id, user_id, currency: price.currency }.into()),
        Fact::Account(AccountCredited { account_id, amount: price, balance: price, order_id: None }.into()),
        Fact::Account(AccountDebited { account_id, order_id, amount: price, balance: price }.into()),
        Fact::Payment(charged.into()),
        Fact::Payment(
            PaymentFailed { order_id, account_id, reason, detail: detail.clone(), workflow }.into(),
        ),
        Fact::Payment(PaymentRefunded { order_id, account_id, amount: price, reason, workflow }.into()),
        Fact::Assessment(
            FraudAssessed { order_id, user_id, amount: price, verdict: Verdict::Approved, reasons: vec![] }
                .into(),
        ),
        Fact::Shipment(scheduled.into()),
        Fact::Shipment(ShippingFailed { order_id, user_id: Some(user_id), reason, detail, workflow }.into()),
        Fact::Shipment(ShippingCancelled { order_id, reason, workflow }.into()),
        Fact::Shipment(ShipmentDispatched { order_id }.into()),
        Fact::Shipment(ShipmentDelivered { order_id }.into()),
    ]
}

/// The type of a fact, and whose it is.
fn kind(fact: &Fact) -> (Context, &'static str) {
    match fact {
        Fact::Order(fact) => (Context::Orders, fact.fact_type().name),
        Fact::Product(fact) => (Context::Inventory, fact.fact_type().name),
        Fact::Item(fact) => (Context::Inventory, fact.fact_type().name),
        Fact::Reservation(fact) => (Context::Inventory, fact.fact_type().name),
        Fact::Account(fact) => (Context::Payments, fact.fact_type().name),
        Fact::Payment(fact) => (Context::Payments, fact.fact_type().name),
        Fact::Assessment(fact) => (Context::Fraud, fact.fact_type().name),
        Fact::Shipment(fact) => (Context::Shipping, fact.fact_type().name),
        Fact::Notification(fact) => (Context::Notifications, fact.fact_type().name),
        Fact::User(fact) => (Context::Users, fact.fact_type().name),
        Fact::Email(fact) => (Context::Users, fact.fact_type().name),
        Fact::Process(fact) => (Context::Fulfilment, fact.fact_type().name),
        Fact::Hold(fact) => (Context::Fulfilment, fact.fact_type().name),
        Fact::Timer(fact) => (Context::Fulfilment, fact.fact_type().name),
        Fact::DeadLetter(fact) => (Context::Ops, fact.fact_type().name),
        Fact::Projection(fact) => (Context::Ops, fact.fact_type().name),
    }
}

/// Who answers what: the whole choreography. Nobody answers anything else.
const ANSWERED_BY: &[(&str, &[Service])] = &[
    ("order.created", &[Service::Inventory]),
    ("inventory.reserved", &[Service::Payments]),
    ("payment.charged", &[Service::Shipping]),
    ("shipping.scheduled", &[Service::Orders]),
    ("inventory.reservation.failed", &[Service::Orders]),
    ("payment.failed", &[Service::Orders, Service::Inventory]),
    ("shipping.failed", &[Service::Orders, Service::Inventory, Service::Payments]),
    ("order.cancelled", &[Service::Inventory, Service::Payments, Service::Shipping]),
    ("shipment.dispatched", &[Service::Inventory]),
];

#[test]
fn every_fact_is_answered_by_whom_it_concerns() {
    let facts = one_of_each(Workflow::Choreography);
    let kinds: Vec<_> = facts.iter().map(|fact| kind(fact).1).collect();
    // Users, notifications, sagas and operations are no part of it: no service that carries an order answers their facts.
    let beside = [Context::Notifications, Context::Users, Context::Fulfilment, Context::Ops];
    let of_orders = Aggregate::ALL.into_iter().filter(|aggregate| !beside.contains(&aggregate.context()));
    let types = of_orders.flat_map(FactType::of);
    assert_eq!(kinds, types.map(|fact| fact.name).collect::<Vec<_>>());
    for fact in &facts {
        let (_, kind) = kind(fact);
        let answering = Service::CHOREOGRAPHY.into_iter().filter(|service| service.react(fact, 0).is_some());
        let expected = ANSWERED_BY.iter().find(|(of, _)| *of == kind).map_or(&[][..], |(_, by)| by);
        assert_eq!(answering.collect::<Vec<_>>(), expected, "{kind}");
    }
}

#[test]
fn the_facts_of_a_saga_are_left_to_the_saga() {
    for fact in one_of_each(Workflow::Orchestration) {
        let (_, kind) = kind(&fact);
        // These say nothing of who carries the order, and what has left the house has left it.
        let for_all = ["shipment.dispatched"];
        let answered = Service::CHOREOGRAPHY.into_iter().any(|service| service.react(&fact, 0).is_some());
        assert_eq!(answered, for_all.contains(&kind), "{kind}");
    }
}

#[test]
fn interests_are_exactly_what_is_answered() {
    for service in Service::CHOREOGRAPHY {
        let listed = |(context, kind)| {
            service.interests().iter().any(|(of, kinds)| *of == context && kinds.contains(&kind))
        };
        // What the saga asks for is answered too: see `orchestration`.
        let own = service.interests().iter().filter(|(context, _)| *context != Context::Fulfilment);
        let listed_kinds: usize = own.map(|(_, kinds)| kinds.len()).sum();
        let facts = one_of_each(Workflow::Choreography);
        let answered: Vec<_> =
            facts.iter().filter(|fact| service.react(fact, 0).is_some()).map(kind).collect();
        assert_eq!(answered.len(), listed_kinds, "{service:?}");
        assert!(answered.into_iter().all(listed), "{service:?}");
    }
}
