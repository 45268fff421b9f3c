//! A command of a client: carried out once under its `Idempotency-Key`, and answered the same however often it is sent.
//!
//! The key names the command id, within its principal, method and path, and the id of what the command creates. So it is
//! recognised wherever its events are, and the ledger adds what they do not say: the answer.
//!
//! - Granted for the first time: carry it out, keep the answer. Refusals are answers too.
//! - Nothing was recorded and it is not the client's fault: the key is given back, the next attempt is a first one.
//! - Nobody knows: the claim stands until its lease ends.
//! - Granted again, because whoever had the claim died: look in the log first.
//!
//! Two bodies are the same when they say the same: the request is read, written as JSON and digested, so that spaces,
//! the order of fields and omitted defaults do not matter.

use super::{Answer, Api, Call, chain, log_unavailable};
use crate::{AnyKey, Decision, ExecuteError, Executor, Receipt, Stop};
use axum::{
    body::to_bytes,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use events::{Actor, CommandId, CorrelationId, Metadata, Subject};
use nats::{AppendError, Claim, EventStore, LedgerError, Outcome, Ticket};
use serde::Serialize;
use serde_json::value::RawValue;
use service::{
    Clock, Problem,
    auth::{Principal, Role},
};
use sha2::{Digest, Sha256};
use std::{fmt, sync::Arc};
use uuid::Uuid;

/// What a client asks for.
pub(crate) struct Command {
    metadata: Metadata,
    /// Digest of the request, where it has a key.
    request: Option<String>,
}

impl<P: Into<Option<Principal>>> Call<P> {
    /// The command that `body` asks for. `scope` is method and path: the same key elsewhere, or from somebody else, is
    /// another command.
    pub(crate) fn command(self, clock: &Clock, scope: impl fmt::Display, body: &impl Serialize) -> Command {
        let Self { principal, key, correlation, traceparent, .. } = self;
        let principal = principal.into();
        let (command, request) = match key {
            None => (CommandId::new(clock.uuid()), None),
            Some(key) => {
                let scope = match principal {
                    Some(principal) => format!("{} {scope}", principal.user),
                    None => scope.to_string(),
                };
                (CommandId::from_key(&scope, &key), Some(digest(&scope, &key, body)))
            }
        };
        let causation = command.uuid();
        let actor = principal.map_or(Actor::CLIENT, actor);
        let metadata = Metadata { command, correlation, causation, actor, traceparent };
        Command { metadata, request }
    }
}

fn actor(principal: Principal) -> Actor {
    let kind = match principal.role {
        Role::Customer => "user",
        Role::Operator => "operator",
        Role::Admin => "admin",
    };
    Actor::known(kind, principal.user)
}

/// The key is kept nowhere, so that nobody can guess at a body, which may be personal, and see whether it fits.
fn digest(scope: &str, key: &str, body: &impl Serialize) -> String {
    // Requests were read from JSON and always serialize.
    let body = serde_json::to_vec(body).unwrap_or_default();
    let digest = Sha256::new().chain_update(format!("{scope}\n{key}\n")).chain_update(body).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

impl Command {
    /// The id of what it creates: under a key always the same.
    pub(crate) fn new_id(&self, what: &str, clock: &Clock) -> Uuid {
        if self.request.is_some() { self.metadata.command.derive(what) } else { clock.uuid() }
    }
}

/// One attempt to carry out a command.
pub(crate) struct Attempt {
    executor: Executor,
    metadata: Metadata,
    /// Whether an earlier one may have succeeded, of which nobody knows.
    again: bool,
}

impl Attempt {
    /// Executes the command, unless an earlier attempt did. `subject` is an aggregate that gets an event by it.
    pub(crate) async fn execute(
        &self,
        subject: &Subject,
        keys: Vec<AnyKey>,
        run: impl Fn(&mut Decision) -> Result<(), Stop> + Send + Sync + 'static,
    ) -> Result<Receipt, ExecuteError> {
        if self.again {
            let found = self.store().find_command(subject, self.metadata.command).await;
            if let Some(position) = found.map_err(Arc::new)? {
                return Ok(Receipt { position, events: 0, replayed: true });
            }
        }
        self.executor.execute(keys, self.metadata.clone(), run).await
    }

    /// The same for a part of what is asked for: every part is a command of its own.
    pub(crate) fn part(&self, what: impl fmt::Display) -> Self {
        let command = CommandId::new(self.metadata.command.derive(&what.to_string()));
        let metadata = Metadata { command, ..self.metadata.clone() };
        Self { executor: self.executor.clone(), metadata, again: self.again }
    }

    /// The log.
    pub(crate) fn store(&self) -> &EventStore {
        self.executor.store()
    }
}

impl Api {
    /// Carries out a command and answers it; under a key once.
    pub(crate) async fn answer<F>(
        self: &Arc<Self>,
        command: Command,
        carry_out: impl FnOnce(Attempt) -> F + Send + 'static,
    ) -> Result<Response, Problem>
    where
        F: Future<Output = Result<Answer, ExecuteError>> + Send + 'static,
    {
        let Command { metadata, request } = command;
        let Some(request) = request else {
            let attempt = Attempt { executor: self.executor.clone(), metadata, again: false };
            return Ok(carry_out(attempt).await?.into_response());
        };
        // In a task of its own: a client that goes away and asks again finds the answer, not an abandoned claim.
        let task = service::telemetry::spawn(Arc::clone(self).answer_once(metadata, request, carry_out));
        // A task that panicked was logged by the panic hook.
        task.await.unwrap_or_else(|_| Err(Problem::internal()))
    }

    async fn answer_once<F>(
        self: Arc<Self>,
        metadata: Metadata,
        request: String,
        carry_out: impl FnOnce(Attempt) -> F,
    ) -> Result<Response, Problem>
    where
        F: Future<Output = Result<Answer, ExecuteError>>,
    {
        if !self.executor.is_ready() {
            return Err(log_unavailable());
        }
        let claim = self
            .ledger
            .claim(metadata.command, &request, self.clock.now())
            .await
            .map_err(|error| away(&error))?;
        let (ticket, again) = match claim {
            Claim::Granted { ticket, again } => (ticket, again),
            Claim::Answered(outcome) => return Ok(Answer { outcome, replayed: true }.into_response()),
            Claim::InFlight => return Err(in_flight()),
            Claim::Other => return Err(reused()),
        };
        let correlation = metadata.correlation.clone();
        let executor = self.executor.clone();
        let answer = match carry_out(Attempt { executor, metadata, again }).await {
            Ok(answer) => answer,
            Err(error) if is_final(&error) => refusal(error.into(), &correlation).await?,
            Err(error) => {
                if !again && !matches!(error, ExecuteError::Append(AppendError::Unknown)) {
                    self.give_back(ticket).await;
                }
                return Err(error.into());
            }
        };
        if let Err(error) = self.ledger.finish(ticket, answer.outcome.clone()).await {
            // The next attempt finds the command in the log.
            tracing::warn!(error = chain(&error), "the answer to an idempotency key is not kept");
        }
        Ok(answer.into_response())
    }

    /// Nothing was recorded: whoever asks again need not wait for the end of the lease. Not while the connection is
    /// lost, for that would take longer.
    async fn give_back(&self, ticket: Ticket) {
        if self.executor.is_ready()
            && let Err(error) = self.ledger.release(ticket).await
        {
            tracing::warn!(error = chain(&error), "an idempotency key is not given back");
        }
    }
}

/// Whether the same command would always end like this: the answer to its key.
fn is_final(error: &ExecuteError) -> bool {
    matches!(error, ExecuteError::Refused(_) | ExecuteError::Append(AppendError::TooLarge { .. }))
}

/// A refusal as it is kept: with the correlation id under which it was made.
async fn refusal(problem: Problem, correlation: &CorrelationId) -> Result<Answer, Problem> {
    let status = problem.status().as_u16();
    let response = problem.with_correlation_id(correlation.as_str().into()).into_response();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.map_err(|_| Problem::internal())?;
    let body: Box<RawValue> = serde_json::from_slice(&bytes).map_err(|_| Problem::internal())?;
    Ok(Answer { outcome: Outcome { status, location: None, position: None, body }, replayed: false })
}

fn away(error: &LedgerError) -> Problem {
    tracing::warn!(error = chain(error), "a command met a ledger that cannot be reached");
    log_unavailable()
}

fn in_flight() -> Problem {
    let detail = "A request with this Idempotency-Key is being carried out. Send it again for its answer.";
    Problem::conflict("request-in-flight", detail).with_field("Idempotency-Key").with_retry_after(1)
}

fn reused() -> Problem {
    let detail = "This Idempotency-Key was used for another request. Use a new one for each request.";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", detail)
        .with_field("Idempotency-Key")
}
