//! Every durable consumer, as data: for whoever makes them before the services start, and says who may use which.

use crate::{fulfilment, inventory, notifications, orders, payments, shipping, users};
use events::{Aggregate, Context};
use nats::Durable;

/// The types of facts that a service answers, by the context that records them.
pub fn interests(service: Context) -> &'static [(Context, &'static [&'static str])] {
    match service {
        Context::Users => users::INTERESTS,
        Context::Orders => orders::INTERESTS,
        Context::Payments => payments::INTERESTS,
        Context::Inventory => inventory::INTERESTS,
        Context::Shipping => shipping::INTERESTS,
        Context::Notifications => notifications::INTERESTS,
        Context::Fulfilment => fulfilment::INTERESTS,
        Context::Fraud | Context::Ops => &[],
    }
}

/// The durable consumers of a service that tells customers on these channels.
pub fn durables(service: Context, channels: &[String]) -> Vec<Durable> {
    let streams = interests(service).iter().map(|(stream, _)| *stream);
    match service {
        Context::Notifications => {
            let told = |channel: &String| {
                let durable = move |stream| Durable {
                    tells: true,
                    ..Durable::new(notifications::durable(channel, stream), stream)
                };
                streams.clone().map(durable).collect::<Vec<_>>()
            };
            channels.iter().flat_map(told).collect()
        }
        Context::Fulfilment => {
            let reacting = streams.map(|stream| Durable {
                only: fulfilment::only(stream),
                ..Durable::new(durable(service, stream), stream)
            });
            let held = Aggregate::Reservation;
            let holds = Durable::new(fulfilment::HOLDS, held.context());
            reacting.chain([Durable { only: Some(held), ..holds }]).collect()
        }
        _ => streams.map(|stream| Durable::new(durable(service, stream), stream)).collect(),
    }
}

/// What the consumer is called with which a service reacts to a stream.
pub(crate) fn durable(service: Context, stream: Context) -> String {
    format!("{service}-{stream}")
}

/// Whose facts a service reads beside those that it answers: to look things up, or to keep copies of its own.
pub fn looked_up(service: Context) -> &'static [Aggregate] {
    match service {
        Context::Orders => &orders::READS,
        Context::Notifications => &notifications::READS,
        Context::Payments => &payments::READS,
        Context::Shipping => &shipping::READS,
        _ => &[],
    }
}
