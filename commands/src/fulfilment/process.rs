//! The process manager of one order: asks for one step after the other, and goes back the same way where it has to.
//!
//! Pure, as every aggregate: what it does about anything is a function of its facts, the time it is told and the
//! definition it began with.

use super::{
    Definition, ProcessState, Times,
    state::{Phase, Stand, Waiting},
};
use crate::{Aggregate, Refusal};
use events::{
    OrderId, UserId,
    fulfilment::{
        Asked, CompensationFailed, CompensationRequested, CompensationSucceeded, Done, OperatorCancelled,
        OperatorCompensated, OperatorResumed, OperatorRetried, OperatorSkipped, ProcessCompleted,
        ProcessEvent, ProcessFailed, ProcessParked, ProcessStarted, ProcessWaiting, Step, StepFailed,
        StepRequested, StepSucceeded, StepTimedOut,
    },
    orders::{Ordered, Reason},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The aggregate.
#[derive(Debug)]
pub struct Process;

/// Something that happens to a process.
#[derive(Clone, Debug)]
pub struct ProcessCommand {
    /// The time, for deadlines.
    pub now: Timestamp,
    /// Times in place of those of the definition.
    pub times: Times,
    /// What happens.
    pub ask: Ask,
}

/// What can happen to a process.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// An order was placed that it is to carry.
    Start(Box<Ordered>),
    /// A service has answered.
    Answer {
        /// The step.
        step: Step,
        /// What was answered.
        answer: Answer,
        /// Where the answer stands in the stream of the service.
        sequence: u64,
    },
    /// The timer that was set to this time has fired.
    Due(Timestamp),
    /// The customer took the order back.
    Cancel {
        /// The order.
        order_id: OrderId,
        /// The customer.
        user_id: UserId,
    },
    /// An operator interferes, with a reason.
    Interfere(Verb, String),
}

/// What a service answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// It is not done, and never will be.
    Refused {
        /// Why.
        reason: Reason,
        /// In words.
        detail: String,
    },
    /// It is undone.
    Undone,
}

/// What an operator can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Ask again, now, and as often as at first.
    Retry,
    /// Go on without an answer: the step counts as done; its undoing counts as done by hand.
    Skip,
    /// Undo everything, whatever was done.
    Compensate,
    /// Take the order back, as its customer could: not after the pivot.
    Cancel,
    /// Let a parked process go on.
    Resume,
}

/// Why a process refuses an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProcessRejection {
    /// No saga carries this order.
    #[error("no saga carries this order")]
    Unknown,
    /// It has ended.
    #[error("the saga has ended")]
    Ended,
    /// It is not parked.
    #[error("the saga is not parked: it goes on by itself")]
    NotParked,
    /// There is no way back but by force.
    #[error("the saga is past its pivot: it can only be compensated by force")]
    PastPivot,
    /// It goes back already.
    #[error("the saga is being compensated already")]
    Compensating,
}

impl From<ProcessRejection> for Refusal {
    fn from(rejection: ProcessRejection) -> Self {
        use ProcessRejection as R;
        let detail = rejection.to_string();
        match rejection {
            R::Unknown => Self::not_found("saga-not-found", detail),
            R::Ended => Self::conflict("saga-ended", detail),
            R::NotParked => Self::conflict("saga-not-parked", detail),
            R::PastPivot => Self::conflict("saga-past-pivot", detail),
            R::Compensating => Self::conflict("saga-compensating", detail),
        }
    }
}

impl Aggregate for Process {
    const KIND: events::Aggregate = events::Aggregate::Process;
    const SCHEMA: &'static str = "process/2";
    type State = Option<ProcessState>;
    type Command = ProcessCommand;
    type Event = ProcessEvent;
    type Rejection = ProcessRejection;

    fn decide(state: &Self::State, command: ProcessCommand) -> Result<Vec<ProcessEvent>, ProcessRejection> {
        let ProcessCommand { now, times, ask } = command;
        let Some(state) = state.clone() else { return unstarted(now, times, ask) };
        let mut plan = Plan { state, now, times, events: Vec::new() };
        match ask {
            Ask::Start(_) => {}
            Ask::Answer { step, answer, sequence } => plan.answered(step, answer, sequence),
            Ask::Due(at) => plan.due(at),
            Ask::Cancel { .. } => plan.cancelled(),
            Ask::Interfere(verb, reason) => plan.interfere(verb, reason)?,
        }
        Ok(plan.events)
    }

    fn evolve(state: Self::State, event: &ProcessEvent) -> Self::State {
        ProcessState::after(state, event)
    }
}

const TAKEN_BACK: &str = "the customer took the order back";

/// What happens to an order that no process carries yet.
fn unstarted(now: Timestamp, times: Times, ask: Ask) -> Result<Vec<ProcessEvent>, ProcessRejection> {
    match ask {
        Ask::Start(order) => Ok(begin(Definition::CURRENT, *order, now, times)),
        // The order was taken back before its beginning was seen here: it never begins.
        Ask::Cancel { order_id, user_id } => {
            let (reason, detail) = (Reason::OrderCancelled, TAKEN_BACK.to_owned());
            Ok(vec![ProcessFailed { order_id, user_id, reason, detail }.into()])
        }
        Ask::Interfere(..) => Err(ProcessRejection::Unknown),
        Ask::Answer { .. } | Ask::Due(_) => Ok(vec![]),
    }
}

/// What begins a process that follows this definition.
pub(super) fn begin(
    definition: &Definition,
    order: Ordered,
    now: Timestamp,
    times: Times,
) -> Vec<ProcessEvent> {
    let first = definition.steps.first().filter(|_| definition.together);
    let asks = first.map(|first| Asked { step: first.step, attempt: 1, deadline: first.due(now, &times) });
    let together = asks.is_some();
    let started = ProcessStarted { order, definition: definition.version, asks }.into();
    let Some(state) = ProcessState::after(None, &started) else { return vec![] };
    let mut plan = Plan { state, now, times, events: vec![started] };
    if !together {
        plan.go_on(None);
    }
    plan.events
}

/// A decision as it grows: the state after the events so far.
struct Plan {
    state: ProcessState,
    now: Timestamp,
    times: Times,
    events: Vec<ProcessEvent>,
}

impl Plan {
    fn record(&mut self, event: impl Into<ProcessEvent>) {
        let event = event.into();
        if let Some(state) = ProcessState::after(Some(self.state.clone()), &event) {
            self.state = state;
        }
        self.events.push(event);
    }

    /// Asks for the next step, or ends. `after`: because this one was done, which is part of the same fact.
    fn go_on(&mut self, after: Option<Done>) {
        let (order_id, user_id) = (self.state.order_id(), self.state.user_id());
        let (step, asked) = match after {
            None => (self.state.current(), self.state.asked),
            Some(done) => {
                let mut then = self.state.clone();
                then.succeeded(done);
                (then.current(), 0)
            }
        };
        match step {
            None => self.record(ProcessCompleted { order_id, user_id, after }),
            Some(step) => {
                let Some(order) = self.state.order.as_deref().cloned() else { return };
                let deadline = self.state.policy(step).due(self.now, &self.times);
                self.record(StepRequested {
                    order,
                    asks: Asked { step, attempt: asked + 1, deadline },
                    after,
                });
            }
        }
    }

    /// Asks for the last step that may have been done to be undone, or ends.
    fn go_back(&mut self) {
        let (order_id, user_id) = (self.state.order_id(), self.state.user_id());
        let (reason, detail) = self.state.cause.clone().unwrap_or((Reason::Requested, String::new()));
        let Some(step) = self.state.next_to_undo() else {
            if self.state.phase != Phase::Failed {
                self.record(ProcessFailed { order_id, user_id, reason, detail });
            }
            return;
        };
        // Somebody has yet to be paid or to be paid back by this account.
        let Some(account_id) = self.state.order.as_ref().map(|order| order.account_id) else { return };
        let again = matches!(self.state.stand(step), Stand::Undoing(_));
        let attempt = if again { self.state.asked + 1 } else { 1 };
        let deadline = self.state.policy(step).due(self.now, &self.times);
        self.record(CompensationRequested {
            order_id,
            user_id,
            account_id,
            step,
            attempt,
            deadline,
            reason,
            detail,
        });
    }

    fn answered(&mut self, step: Step, answer: Answer, sequence: u64) {
        let (order_id, stand) = (self.state.order_id(), self.state.stand(step));
        let running = self.state.phase == Phase::Running;
        match (answer, stand) {
            (Answer::Done, Stand::Asked) => {
                let current = running && self.state.current() == Some(step);
                let together = current && self.state.definition().together;
                if !together {
                    self.record(StepSucceeded { order_id, step, sequence });
                }
                if current {
                    self.go_on(together.then_some(Done { step, sequence }));
                }
            }
            (Answer::Done, Stand::Skipped | Stand::Undoing(0)) => {
                self.record(StepSucceeded { order_id, step, sequence });
            }
            // What is undone stands before what undid it. This was done after all, and is undone after all.
            (Answer::Done, Stand::Undone(undone)) if sequence > undone => {
                let idle = self.state.waiting.is_none() && !self.state.parked;
                self.record(StepSucceeded { order_id, step, sequence });
                if idle {
                    self.go_back();
                }
            }
            (Answer::Refused { reason, detail }, Stand::Asked) => {
                let current = running && self.state.current() == Some(step);
                let attempts = self.state.asked;
                self.record(StepFailed { order_id, step, reason, detail, sequence });
                match current {
                    true if self.state.is_past_pivot() => {
                        self.record(ProcessParked { order_id, step, attempts, compensating: false });
                    }
                    true => self.go_back(),
                    false => {}
                }
            }
            // That it will never be done is as good as undone.
            (Answer::Refused { .. } | Answer::Undone, Stand::Undoing(done)) if sequence > done => {
                self.record(CompensationSucceeded { order_id, step, sequence });
                self.go_back();
            }
            // Known, or nobody waits for it.
            _ => {}
        }
    }

    fn due(&mut self, at: Timestamp) {
        let Some(Waiting { step, until, timer, pause }) = self.state.waiting else { return };
        let (order_id, attempt) = (self.state.order_id(), self.state.asked);
        if until != at {
            // It was set for something that is settled by now; where it is the one that stands, another has to.
            if timer == at {
                self.record(ProcessWaiting { order_id, step, until });
            }
            return;
        }
        let forward = self.state.phase == Phase::Running;
        if pause {
            return if forward { self.go_on(None) } else { self.go_back() };
        }
        let policy = self.state.policy(step);
        let retry = if forward { policy.retry } else { policy.undo };
        let fresh = attempt.saturating_sub(self.state.forgiven);
        let retry_at = retry.next(self.now, &self.times, (order_id, step), fresh);
        if forward {
            self.record(StepTimedOut { order_id, step, attempt, retry_at });
        } else {
            self.record(CompensationFailed { order_id, step, attempt, retry_at });
        }
        if retry_at.is_some() {
            return;
        }
        if forward && !self.state.is_past_pivot() {
            // Nobody knows whether it was done: it is undone like all others.
            self.go_back();
        } else {
            self.record(ProcessParked { order_id, step, attempts: attempt, compensating: !forward });
        }
    }

    /// The order itself was asked, and let its customer go: so there is a way back, even past the pivot.
    fn cancelled(&mut self) {
        if matches!(self.state.phase, Phase::Running | Phase::Completed) {
            self.state.cause = Some((Reason::OrderCancelled, TAKEN_BACK.to_owned()));
            self.go_back();
        }
    }

    fn interfere(&mut self, verb: Verb, reason: String) -> Result<(), ProcessRejection> {
        use ProcessRejection as Refuse;
        let order_id = self.state.order_id();
        let running = self.state.phase == Phase::Running;
        let step = self.state.current().ok_or(Refuse::Ended)?;
        match verb {
            Verb::Resume if !self.state.parked => return Err(Refuse::NotParked),
            Verb::Cancel if self.state.is_past_pivot() => return Err(Refuse::PastPivot),
            Verb::Cancel | Verb::Compensate if !running && !self.state.parked => {
                return Err(Refuse::Compensating);
            }
            Verb::Resume => self.record(OperatorResumed { order_id, reason }),
            Verb::Retry => self.record(OperatorRetried { order_id, step, reason }),
            Verb::Skip => self.record(OperatorSkipped { order_id, step, reason }),
            Verb::Compensate => self.record(OperatorCompensated { order_id, reason }),
            Verb::Cancel => self.record(OperatorCancelled { order_id, reason }),
        }
        let back = matches!(verb, Verb::Compensate | Verb::Cancel);
        if running && !back {
            self.go_on(None);
        } else {
            self.go_back();
        }
        Ok(())
    }
}
