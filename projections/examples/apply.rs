//! How fast events become rows: order flows made in memory, projected, coalesced and written to SQLite, without NATS.
//!
//! `cargo run --release -p projections --example apply [orders] [batch]`

use events::{
    AccountId, Actor, Address, Aggregate, CommandId, Context, CorrelationId, DomainEvent, Envelope, Fact,
    Metadata, Money, OrderId, Personal, Position, UserId,
    inventory::{InventoryReserved, ReservationEvent},
    orders::{Line, OrderCompleted, OrderCreated, OrderEvent, Workflow},
    payments::{PaymentCharged, PaymentEvent},
    shipping::{ShipmentEvent, ShippingScheduled},
};
use jiff::Timestamp;
use nats::Recorded;
use projections::{
    Changes, View,
    sqlite::{Database, Move},
};
use std::{collections::HashMap, error::Error, time::Instant};
use uuid::Uuid;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse());
    let (orders, batch) = (number(40_000)?, number(1000)?);
    let view = View::of("orders").ok_or("no such view")?;
    let folder = tempfile::tempdir()?;
    let events = flows(orders)?;
    let database = Database::open(&folder.path().join("orders.db"), view).await?;
    let mut writer = database.writer().await?;

    let started = Instant::now();
    let mut projecting = std::time::Duration::ZERO;
    let mut at: HashMap<Context, u64> = HashMap::new();
    for chunk in events.chunks(batch) {
        let begun = Instant::now();
        let mut changes = Changes::default();
        let mut moves: Vec<Move> = Vec::new();
        for recorded in chunk {
            (view.project)(recorded, &mut changes);
            let Position { context, sequence: to } = recorded.position;
            match moves.iter_mut().find(|step| step.context == context) {
                Some(step) => step.to = to,
                None => moves.push(Move { context, from: at.get(&context).copied().unwrap_or(0), to }),
            }
        }
        at.extend(moves.iter().map(|step| (step.context, step.to)));
        projecting += begun.elapsed();
        writer.commit(changes, &moves).await?;
    }
    let elapsed = started.elapsed();
    let rate = events.len() as f64 / elapsed.as_secs_f64();
    println!("{} events in {elapsed:.2?}: {rate:.0} events/s, projecting {projecting:.2?}", events.len());
    Ok(())
}

/// Orders that go well, 50 of them under way at any time.
fn flows(orders: usize) -> Result<Vec<Recorded>, Box<dyn Error>> {
    let mut events = Vec::with_capacity(orders * 5);
    let mut sequences: HashMap<Context, u64> = HashMap::new();
    for wave in 0..orders / 50 {
        for step in 0..5 {
            for order in wave * 50..wave * 50 + 50 {
                events.push(event(order, step, &mut sequences)?);
            }
        }
    }
    Ok(events)
}

fn event(order: usize, step: u8, sequences: &mut HashMap<Context, u64>) -> Result<Recorded, Box<dyn Error>> {
    let id = OrderId::new(Uuid::from_u128((order as u128) << 80 | 7 << 76 | order as u128 * 0x9e37_79b9));
    let (user_id, account_id) =
        (UserId::new(Uuid::from_u128(order as u128 % 1000)), AccountId::new(Uuid::from_u128(5)));
    let price = Money::new(1250, "EUR".parse()?);
    let items = vec![
        Line { sku: "TEA-1".parse()?, quantity: 2, unit_price: price },
        Line { sku: "CUP-1".parse()?, quantity: 1, unit_price: price },
    ];
    let shipping_address = Personal::new(Address {
        name: "Ada".to_owned(),
        line1: "Street 1".to_owned(),
        line2: None,
        city: "Bern".to_owned(),
        postal_code: "3000".to_owned(),
        country: "CH".to_owned(),
    });
    let (total_amount, workflow) = (price.times(3)?, Workflow::Choreography);
    let (aggregate, fact) = match step {
        0 => (
            Aggregate::Order,
            Fact::Order(OrderEvent::Created(OrderCreated {
                order_id: id,
                user_id,
                account_id,
                items,
                total_amount,
                shipping_address,
                workflow,
            })),
        ),
        1 => (
            Aggregate::Reservation,
            Fact::Reservation(ReservationEvent::Reserved(InventoryReserved {
                order_id: id,
                user_id,
                account_id,
                items,
                total_amount,
                shipping_address,
                workflow,
            })),
        ),
        2 => (
            Aggregate::Payment,
            Fact::Payment(PaymentEvent::Charged(PaymentCharged {
                order_id: id,
                user_id,
                account_id,
                amount: total_amount,
                items,
                shipping_address,
                workflow,
            })),
        ),
        3 => (
            Aggregate::Shipment,
            Fact::Shipment(ShipmentEvent::Scheduled(ShippingScheduled {
                order_id: id,
                user_id,
                items,
                carrier: "swift".to_owned(),
                tracking_number: format!("SW{order:010}"),
                shipping_address,
                workflow,
            })),
        ),
        _ => (Aggregate::Order, Fact::Order(OrderEvent::Completed(OrderCompleted { order_id: id, user_id }))),
    };
    let kind = match &fact {
        Fact::Order(it) => it.fact_type(),
        Fact::Reservation(it) => it.fact_type(),
        Fact::Payment(it) => it.fact_type(),
        Fact::Shipment(it) => it.fact_type(),
        _ => return Err("a fact of another kind".into()),
    };
    let command = CommandId::from_key(&step.to_string(), &order.to_string());
    let from = Metadata {
        command,
        correlation: CorrelationId::from(id.uuid()),
        causation: command.uuid(),
        actor: Actor::CLIENT,
        traceparent: None,
    };
    let subject = aggregate.subject(id);
    let sequence = sequences.entry(aggregate.context()).or_default();
    *sequence += 1;
    let time = Timestamp::from_microsecond(1_700_000_000_000_000 + order as i64 * 137 + i64::from(step))?;
    Ok(Recorded {
        position: Position { context: aggregate.context(), sequence: *sequence },
        envelope: Envelope::new(kind, &subject, if step == 4 { 2 } else { 1 }, 0, time, &from),
        subject,
        stored: time,
        fact,
    })
}
