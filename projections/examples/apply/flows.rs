//! Order flows made by hand: what the services record for an order that goes well.

use events::{
    AccountId, Actor, Address, Aggregate, CommandId, CorrelationId, DataKey, DomainEvent, Envelope, Metadata,
    Money, OrderId, Personal, Sku, Subject, UserId,
    inventory::{InventoryReserved, ItemEvent, ReservationEvent, Stock, StockReserved},
    orders::{Line, OrderCompleted, OrderCreated, OrderEvent, UserSnapshot, Workflow},
    payments::{AccountDebited, AccountEvent, PaymentCharged, PaymentEvent},
    shipping::{ShipmentEvent, ShippingScheduled},
};
use jiff::Timestamp;
use uuid::Uuid;

/// An event that is not recorded yet.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// Its aggregate.
    pub(crate) subject: Subject,
    /// Its attributes.
    pub(crate) envelope: Envelope,
    /// Its data as JSON.
    pub(crate) body: Vec<u8>,
}

/// The order with this number.
pub(crate) fn order_id(number: u64) -> OrderId {
    // As UUIDs of version 7 do: sorted by time, random at the end.
    OrderId::new(Uuid::from_u64_pair(number << 16 | 0x7000, number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// The customer of the order with this number: one of a thousand.
pub(crate) fn user_id(number: u64) -> UserId {
    UserId::new(Uuid::from_u64_pair(1, number % 1000))
}

/// What is recorded for one order, in order. The last event is the second one of its aggregate, every other the first.
pub(crate) fn flow(number: u64) -> Vec<Made> {
    let (order_id, user_id) = (order_id(number), user_id(number));
    let account_id = AccountId::new(Uuid::from_u64_pair(2, number));
    let price = Money::new(1250, "EUR".parse().expect("a currency"));
    let sku: Sku = format!("SKU-{number}").parse().expect("a SKU");
    let items = vec![Line { sku: sku.clone(), quantity: 2, unit_price: price }];
    let total_amount = price.times(2).expect("a small amount");
    let address = Address {
        name: "Ada Lovelace".to_owned(),
        line1: "St James's Square 12".to_owned(),
        line2: None,
        city: "London".to_owned(),
        postal_code: "SW1Y 4JH".to_owned(),
        country: "GB".to_owned(),
    };
    let shipping_address = Personal::seal(&address, user_id, &DataKey::new([1; 32]), [2; 24]);
    let workflow = Workflow::Choreography;
    let created = OrderCreated {
        order_id,
        user_id,
        account_id,
        items: items.clone(),
        total_amount,
        shipping_address: shipping_address.clone(),
        workflow,
        user_snapshot: UserSnapshot::default(),
    };
    let stock = StockReserved { sku, order_id, quantity: 2, stock: Stock { on_hand: 9, reserved: 2 } };
    let reserved = InventoryReserved {
        order_id,
        user_id,
        account_id,
        items: items.clone(),
        total_amount,
        shipping_address: shipping_address.clone(),
        workflow,
    };
    let debited = AccountDebited { account_id, order_id, amount: total_amount, balance: price };
    let charged = PaymentCharged {
        order_id,
        user_id,
        account_id,
        amount: total_amount,
        items: items.clone(),
        shipping_address: shipping_address.clone(),
        workflow,
    };
    let scheduled = ShippingScheduled {
        order_id,
        user_id,
        items,
        carrier: "swift".to_owned(),
        tracking_number: format!("SW{number:010}"),
        shipping_address,
        workflow,
    };
    let sku = &stock.sku.clone();
    let make = |step, version, subject| Maker { number, step, version, subject };
    vec![
        make(0, 1, Aggregate::Order.subject(order_id)).event(&OrderEvent::Created(created)),
        make(1, 1, Aggregate::Item.subject(sku)).event(&ItemEvent::Reserved(stock)),
        make(2, 1, Aggregate::Reservation.subject(order_id)).event(&ReservationEvent::Reserved(reserved)),
        make(3, 1, Aggregate::Account.subject(account_id)).event(&AccountEvent::Debited(debited)),
        make(4, 1, Aggregate::Payment.subject(order_id)).event(&PaymentEvent::Charged(charged)),
        make(5, 1, Aggregate::Shipment.subject(order_id)).event(&ShipmentEvent::Scheduled(scheduled)),
        make(6, 2, Aggregate::Order.subject(order_id))
            .event(&OrderEvent::Completed(OrderCompleted { order_id, user_id })),
    ]
}

struct Maker {
    number: u64,
    step: u64,
    version: u64,
    subject: Subject,
}

impl Maker {
    fn event(self, event: &impl DomainEvent) -> Made {
        let command = |step| CommandId::new(Uuid::from_u64_pair(self.number, step));
        let from = Metadata {
            command: command(self.step),
            correlation: CorrelationId::from(order_id(self.number).uuid()),
            causation: events::EventId::of_command(command(self.step.saturating_sub(1)), 0).uuid(),
            actor: Actor::CLIENT,
            traceparent: None,
        };
        let microsecond = 1_700_000_000_000_000 + self.number * 1000 + self.step;
        let time = Timestamp::from_microsecond(microsecond.cast_signed()).expect("a time near the present");
        let envelope = Envelope::new(event.fact_type(), &self.subject, self.version, 0, time, &from);
        Made { subject: self.subject, envelope, body: event.to_json() }
    }
}
