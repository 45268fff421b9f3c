//! Step 5 of the flow: a fact of another service becomes an effect (pure), the effect becomes a command.

use crate::{Decision, ExecuteError, Executor, Receipt, Stop};
use events::{Fact, Metadata};
use nats::{Handler, Recorded, Retry};
use std::sync::Arc;

/// The handler of a service that needs nobody outside: what `react` says of a fact is decided by `decide`, at once.
pub(crate) fn handler<E: Send + Sync + 'static>(
    executor: Executor,
    service: &'static str,
    react: fn(&Fact) -> Option<E>,
    decide: fn(&E, &mut Decision) -> Result<(), Stop>,
) -> Handler {
    Arc::new(move |recorded| {
        let executor = executor.clone();
        Box::pin(async move {
            let Some(effect) = react(&recorded.fact) else { return Ok("ignored") };
            let metadata = answering(&recorded, service);
            settle(executor.execute(vec![], metadata, move |decision| decide(&effect, decision)).await)
        })
    })
}

/// The metadata of the command with which `service` answers a fact: the same fact gives the same command.
pub(crate) fn answering(recorded: &Recorded, service: &'static str) -> Metadata {
    Metadata::caused_by(&recorded.envelope, service)
}

/// What became of a reaction's command. Nothing but success is final: a refusal can only rest on a state that another
/// service has not reached yet, or on a bug that must not be passed over in silence.
pub(crate) fn settle(result: Result<Receipt, ExecuteError>) -> Result<&'static str, Retry> {
    match result {
        Ok(Receipt { replayed: true, .. }) => Ok("replayed"),
        Ok(Receipt { events: 0, .. }) => Ok("unchanged"),
        Ok(_) => Ok("recorded"),
        Err(error) => Err(Retry(error.to_string())),
    }
}
