//! Carries out what inventory does about the facts of others.

use super::react;
use crate::{Executor, reactor};
use nats::Handler;
use std::sync::Arc;

pub(super) fn handler(executor: Executor) -> Handler {
    Arc::new(move |recorded| {
        let executor = executor.clone();
        Box::pin(async move {
            let Some(effect) = react(&recorded.fact) else { return Ok("ignored") };
            let metadata = reactor::answering(&recorded, "service:inventory");
            reactor::settle(executor.execute(vec![], metadata, move |decision| effect.decide(decision)).await)
        })
    })
}
