//! Fulfilment: the saga that carries an order through step by step, and the time for which stock is held unpaid.
//!
//! The process manager asks for a step by recording that it does; the service that carries the step out answers with its
//! own facts, the same as in the choreography. So replaying a process sends nothing, and a process that dies between two
//! steps has nothing half done.

mod definition;
#[cfg(test)]
mod history;
mod hold;
mod http;
#[cfg(test)]
mod model;
mod process;
mod react;
mod reactor;
mod state;

pub use definition::{Definition, Policy, Retry, Times};
pub use hold::{Hold, HoldCommand, HoldState};
pub use process::{Answer, Ask, Process, ProcessCommand, ProcessRejection, Verb};
pub use react::{Effect, INTERESTS, react};
pub(crate) use reactor::ProcessMetrics;
pub use state::{Phase, ProcessState, Stand};

use crate::{
    Decision, Key, Stop,
    environment::{Build, WriteSide},
    reactions,
};
use events::{Aggregate, Context, OrderId, fulfilment::Timer};
use nats::Consumer;
use std::sync::Arc;

/// The consumer that sees to stock which is held unpaid.
pub const HOLDS: &str = "fulfilment-holds";
/// What it reads.
pub const HELD: &[&str] = &["inventory.reserved"];

/// What of a stream it asks for: of its own only what is rare, timers that have fired.
pub(crate) fn only(stream: Context) -> Option<Aggregate> {
    (stream == Context::Fulfilment).then_some(Aggregate::Timer)
}

/// The write side of fulfilment.
pub(crate) fn write_side(build: Build, times: Times) -> WriteSide {
    let http = http::routes(build.api(), times);
    let fulfilment = Arc::new(reactor::Fulfilment {
        executor: build.executor.clone(),
        clock: build.clock.clone(),
        times,
        metrics: build.processes.clone(),
    });
    let handler = reactor::handler(&fulfilment);
    let consumer = |(stream, kinds): &(Context, &'static [&'static str])| Consumer {
        only: only(*stream),
        ..build.consumer(*stream, kinds, reactions::durable(Context::Fulfilment, *stream))
    };
    // Apart from the others: what it takes it takes late, on purpose.
    let holds = Consumer {
        only: Some(Aggregate::Reservation),
        lag: reactor::grace(&times),
        ..build.consumer(Context::Inventory, HELD, HOLDS.to_owned())
    };
    let consumers = INTERESTS.iter().map(|interest| (consumer(interest), Arc::clone(&handler)));
    let consumers = consumers.chain([(holds, reactor::holding(&fulfilment))]).collect();
    build.finish_with(http, consumers)
}

/// Asks the process of an order something, and sets its timer to when it has to look again.
pub fn advance(decision: &mut Decision, order_id: OrderId, command: ProcessCommand) -> Result<(), Stop> {
    let key = Key::<Process>::new(order_id);
    let timer =
        |decision: &Decision| Ok::<_, Stop>(decision.state(&key)?.as_ref().and_then(ProcessState::timer));
    let before = timer(decision)?;
    decision.apply(&key, command)?;
    let after = timer(decision)?;
    if before != after {
        decision.set_timer(&key, (order_id, Timer::Process), after);
    }
    Ok(())
}

/// Asks the hold of an order something, and sets its timer to its end.
pub fn keep(decision: &mut Decision, order_id: OrderId, command: HoldCommand) -> Result<(), Stop> {
    let key = Key::<Hold>::new(order_id);
    let before = decision.state(&key)?.until();
    decision.apply(&key, command)?;
    let after = decision.state(&key)?.until();
    if before != after {
        decision.set_timer(&key, (order_id, Timer::Hold), after);
    }
    Ok(())
}
