//! Step 5 of the flow: a fact of another service becomes an effect (pure), the effect becomes a command.

use crate::{ExecuteError, Receipt};
use events::Metadata;
use nats::{Recorded, Retry};

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
