//! Carries out what fulfilment does about facts, and counts how processes end.

use super::{
    Ask, Effect, HoldCommand, Process, ProcessCommand, Times, advance, definition::later, keep, react,
};
use crate::{
    Decision, Executor, Key,
    payments::{Payment, PaymentState},
    reactor,
};
use events::{AccountId, Metadata, OrderId};
use jiff::Timestamp;
use nats::{Handler, Recorded, Retry};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use service::Clock;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long nothing is done about stock that is held: nearly every order is paid before, and costs nothing then.
const GRACE: Duration = Duration::from_secs(1);

/// What the reactions of fulfilment share.
pub(super) struct Fulfilment {
    pub(super) executor: Executor,
    pub(super) clock: Clock,
    pub(super) times: Times,
    pub(super) metrics: ProcessMetrics,
}

/// Counts what becomes of processes. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcessMetrics(Family<Outcome, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: String,
}

impl ProcessMetrics {
    /// Makes the counters visible.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "waybill_processes",
            "Processes that completed, failed or were parked",
            self.0.clone(),
        );
    }

    fn count(&self, kind: &str) {
        if let Some(outcome @ ("completed" | "failed" | "parked")) = kind.strip_prefix("process.") {
            self.0.get_or_create(&Outcome { outcome: outcome.to_owned() }).inc();
        }
    }
}

/// How long nothing is done about stock that is held, with these times.
pub(super) fn grace(times: &Times) -> Duration {
    GRACE.min(times.hold / 2)
}

/// Answers everything but stock that is held.
pub(super) fn handler(fulfilment: &Arc<Fulfilment>) -> Handler {
    let fulfilment = Arc::clone(fulfilment);
    Arc::new(move |recorded| {
        let fulfilment = Arc::clone(&fulfilment);
        Box::pin(async move { fulfilment.answer(recorded).await })
    })
}

/// Answers stock that is held, after the grace.
pub(super) fn holding(fulfilment: &Arc<Fulfilment>) -> Handler {
    let fulfilment = Arc::clone(fulfilment);
    Arc::new(move |recorded| {
        let fulfilment = Arc::clone(&fulfilment);
        Box::pin(async move {
            match react(&recorded.fact, recorded.position.sequence) {
                Some(Effect::Hold { order_id, account_id }) => {
                    let metadata = reactor::answering(&recorded, "service:fulfilment");
                    fulfilment.hold(order_id, account_id, recorded.envelope.time, metadata).await
                }
                _ => Ok("ignored"),
            }
        })
    })
}

impl Fulfilment {
    async fn answer(&self, recorded: Recorded) -> Result<&'static str, Retry> {
        let metadata = reactor::answering(&recorded, "service:fulfilment");
        match react(&recorded.fact, recorded.position.sequence) {
            None | Some(Effect::Hold { .. }) => Ok("ignored"),
            Some(Effect::Advance(order, ask)) => self.advance(order, ask, metadata).await,
            Some(Effect::Settled(order_id)) => {
                self.keep(order_id, HoldCommand::End { order_id }, metadata).await
            }
            Some(Effect::Expire(order_id, at)) => {
                self.keep(order_id, HoldCommand::Due { order_id, at }, metadata).await
            }
        }
    }

    async fn advance(&self, order: OrderId, ask: Ask, metadata: Metadata) -> Result<&'static str, Retry> {
        let key = Key::<Process>::new(order);
        let keys = vec![if matches!(ask, Ask::Start(_)) { key.likely_new() } else { key.load() }];
        let command = ProcessCommand { now: self.clock.now(), times: self.times, ask };
        // What the last run decided: the one that is recorded.
        let last = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&last);
        let advancing = move |decision: &mut Decision| {
            let mark = decision.decided.len();
            advance(decision, order, command.clone())?;
            let kind = decision.decided[mark..].last().map(|decided| decided.fact.name);
            *noted.lock().unwrap_or_else(PoisonError::into_inner) = kind;
            Ok(())
        };
        let result = self.executor.execute(keys, metadata, advancing).await;
        if result.as_ref().is_ok_and(|receipt| receipt.events > 0)
            && let Some(kind) = last.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            self.metrics.count(kind);
            if kind == "process.parked" {
                tracing::error!(target: "process", orderId = %order, "a process is parked: it cannot go on by itself");
            }
        }
        reactor::settle(result)
    }

    /// Lets the hold of an order end, unless it is decided by now whether it is paid.
    async fn hold(
        &self,
        order_id: OrderId,
        account_id: AccountId,
        since: Timestamp,
        metadata: Metadata,
    ) -> Result<&'static str, Retry> {
        if self.executor.state(&Key::<Payment>::new(order_id)).await? != PaymentState::Undecided {
            return Ok("decided");
        }
        let until = later(since, self.times.hold);
        self.keep(order_id, HoldCommand::Start { order_id, account_id, until }, metadata).await
    }

    async fn keep(
        &self,
        order: OrderId,
        command: HoldCommand,
        metadata: Metadata,
    ) -> Result<&'static str, Retry> {
        let keeping = move |decision: &mut Decision| keep(decision, order, command);
        reactor::settle(self.executor.execute(vec![], metadata, keeping).await)
    }
}
