//! Step 5 of the flow: a fact of another service becomes an effect (pure), the effect becomes a command.

use crate::{Decision, ExecuteError, Executor, Receipt, Stop};
use events::{CommandId, Fact, Metadata, OrderId, fulfilment::ProcessEvent};
use nats::{AppendError, Handler, Recorded, Retry};
use service::Clock;
use std::sync::Arc;

/// Who reacts.
pub(crate) struct Reacting {
    pub(crate) executor: Executor,
    pub(crate) clock: Clock,
    pub(crate) service: &'static str,
}

/// The handler of a service that needs nobody outside: what `react` says of a fact is decided by `decide`, at once.
pub(crate) fn handler<E: Send + Sync + 'static>(
    Reacting { executor, clock, service }: Reacting,
    react: fn(&Fact) -> Option<E>,
    decide: fn(&E, &mut Decision) -> Result<(), Stop>,
) -> Handler {
    Arc::new(move |recorded| {
        let executor = executor.clone();
        let over = is_over(&recorded, &clock);
        Box::pin(async move {
            if over {
                return Ok("over");
            }
            let Some(effect) = react(&recorded.fact) else { return Ok("ignored") };
            let metadata = answering(&recorded, service);
            settle(executor.execute(vec![], metadata, move |decision| decide(&effect, decision)).await)
        })
    })
}

/// The metadata of the command with which `service` answers a fact: the same fact gives the same command. A step that a
/// saga asks for is the same command however often it is asked for: who asks again gets the first outcome.
pub(crate) fn answering(recorded: &Recorded, service: &'static str) -> Metadata {
    let of_step = |order: OrderId, what: &str, step| {
        // Payments and fraud both answer the same request.
        CommandId::from_key(&format!("saga {order} {service}"), &format!("{what} {step}"))
    };
    let metadata = Metadata::caused_by(&recorded.envelope, service);
    let Fact::Process(fact) = &recorded.fact else { return metadata };
    let command = match (fact.asks(), fact) {
        (Some((order, asks)), _) => of_step(order.order_id, "do", asks.step),
        (_, ProcessEvent::CompensationRequested(it)) => of_step(it.order_id, "undo", it.step),
        _ => return metadata,
    };
    Metadata { command, ..metadata }
}

/// Whether a step is asked for that nobody waits for any more: who asked has either asked again or goes back.
pub(crate) fn is_over(recorded: &Recorded, clock: &Clock) -> bool {
    matches!(&recorded.fact, Fact::Process(fact) if fact.deadline().is_some_and(|deadline| clock.now() > deadline))
}

/// What became of a reaction's command. Nothing but success is final: a refusal can only rest on a state that another
/// service has not reached yet, or on a bug that must not be passed over in silence, so it uses up attempts. A log that
/// cannot be reached does not.
pub(crate) fn settle(result: Result<Receipt, ExecuteError>) -> Result<&'static str, Retry> {
    match result {
        Ok(Receipt { replayed: true, .. }) => Ok("replayed"),
        Ok(Receipt { events: 0, .. }) => Ok("unchanged"),
        Ok(_) => Ok("recorded"),
        Err(error) => Err(error.into()),
    }
}

impl From<ExecuteError> for Retry {
    fn from(error: ExecuteError) -> Self {
        match &error {
            ExecuteError::Append(
                AppendError::Conflict | AppendError::Unavailable(_) | AppendError::Unknown,
            )
            | ExecuteError::Contended => Self::world(error),
            ExecuteError::Load(load) => Self::from(&**load),
            ExecuteError::Keys(keys) => Self::from(&**keys),
            ExecuteError::Append(AppendError::TooLarge { .. } | AppendError::Refused { .. })
            | ExecuteError::Refused(_)
            | ExecuteError::Unreadable { .. } => Self::message(error),
        }
    }
}
