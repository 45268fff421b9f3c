//! Where the process of an order stands: folded from its facts, and asked by its decisions.

use super::{Definition, Policy};
use events::{
    OrderId, UserId,
    fulfilment::{Asked, Done, ProcessEvent, Step},
    orders::{Ordered, Reason},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How a process is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Step by step.
    Running,
    /// Back, step by step.
    Compensating,
    /// Everything is done.
    Completed,
    /// Everything that may have been done is undone.
    Failed,
}

/// What is known of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stand {
    /// Nobody was asked.
    #[default]
    Idle,
    /// It may have been done.
    Asked,
    /// It was done, says the fact at this sequence of its stream.
    Done(u64),
    /// It was refused: nothing was done, and nothing will be.
    Refused,
    /// An operator went on without it: it may have been done.
    Skipped,
    /// It is being undone; where it was known to be done, by the fact at this sequence.
    Undoing(u64),
    /// It is undone, says the fact at this sequence. What says that it was done stands before, or was done after all.
    Undone(u64),
}

impl Stand {
    /// Whether there may be something to undo.
    fn may_be_done(self) -> bool {
        matches!(self, Self::Asked | Self::Done(_) | Self::Skipped | Self::Undoing(_))
    }
}

/// What a process waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub(super) step: Step,
    /// When the wait is over.
    pub(super) until: Timestamp,
    /// When the timer fires: then, or before, to be set again.
    pub(super) timer: Timestamp,
    /// Whether it waits before asking again; else for an answer.
    pub(super) pause: bool,
}

/// The process of one order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessState {
    /// Missing for one that never began, because its order was taken back first.
    pub(super) order: Option<Arc<Ordered>>,
    order_id: OrderId,
    user_id: UserId,
    definition: u32,
    /// How it is going.
    pub phase: Phase,
    /// Whether it cannot go on by itself.
    pub parked: bool,
    pub(super) stands: [Stand; Step::ALL.len()],
    pub(super) waiting: Option<Waiting>,
    /// How often the present step was asked for, or its undoing.
    pub(super) asked: u32,
    /// How often the present step had been asked for when an operator gave it more attempts.
    pub(super) forgiven: u32,
    /// Why it goes back.
    pub(super) cause: Option<(Reason, String)>,
}

impl ProcessState {
    /// The order.
    pub fn order_id(&self) -> OrderId {
        self.order_id
    }

    /// The customer.
    pub(super) fn user_id(&self) -> UserId {
        self.user_id
    }

    /// When its timer fires.
    pub fn timer(&self) -> Option<Timestamp> {
        self.waiting.map(|waiting| waiting.timer)
    }

    /// What is known of a step.
    pub fn stand(&self, step: Step) -> Stand {
        self.stands[step as usize]
    }

    pub(super) fn definition(&self) -> &'static Definition {
        Definition::of(self.definition)
    }

    pub(super) fn policy(&self, step: Step) -> &'static Policy {
        let definition = self.definition();
        // Only steps of the definition are ever asked for.
        definition.policy(step).unwrap_or(&definition.steps[0])
    }

    /// The step that is being done, or undone.
    pub(super) fn current(&self) -> Option<Step> {
        match self.phase {
            Phase::Running => {
                let mut steps = self.definition().steps.iter().map(|policy| policy.step);
                steps.find(|step| !matches!(self.stand(*step), Stand::Done(_) | Stand::Skipped))
            }
            // Also when it has failed: what was done after all is undone after all.
            Phase::Compensating | Phase::Failed => self.next_to_undo(),
            Phase::Completed => None,
        }
    }

    /// The last step that may have been done and is not undone.
    pub(super) fn next_to_undo(&self) -> Option<Step> {
        let mut steps = self.definition().steps.iter().rev().map(|policy| policy.step);
        steps.find(|step| self.stand(*step).may_be_done())
    }

    /// Whether there is no way back any more.
    pub(super) fn is_past_pivot(&self) -> bool {
        let passed = |stand| matches!(stand, Stand::Done(_) | Stand::Skipped);
        self.definition().steps.iter().any(|policy| policy.pivot && passed(self.stand(policy.step)))
    }

    fn set(&mut self, step: Step, stand: Stand) {
        self.stands[step as usize] = stand;
    }

    /// The state after an event.
    pub(super) fn after(state: Option<Self>, event: &ProcessEvent) -> Option<Self> {
        if let ProcessEvent::Started(it) = event {
            let order = &it.order;
            let mut state = Self {
                definition: it.definition,
                order: Some(Arc::new(order.clone())),
                ..Self::new(order.order_id, order.user_id, Phase::Running)
            };
            if let Some(asks) = &it.asks {
                state.ask(asks);
            }
            return Some(state);
        }
        match (state, event) {
            (None, ProcessEvent::Failed(it)) => Some(Self::new(it.order_id, it.user_id, Phase::Failed)),
            (None, _) => None,
            (Some(mut state), event) => {
                state.follow(event);
                Some(state)
            }
        }
    }

    fn new(order_id: OrderId, user_id: UserId, phase: Phase) -> Self {
        Self {
            order: None,
            order_id,
            user_id,
            definition: Definition::CURRENT.version,
            phase,
            parked: false,
            stands: [Stand::Idle; Step::ALL.len()],
            waiting: None,
            asked: 0,
            forgiven: 0,
            cause: None,
        }
    }

    fn follow(&mut self, event: &ProcessEvent) {
        match event {
            ProcessEvent::Started(_) => {}
            ProcessEvent::StepRequested(it) => {
                let stands = self.timer();
                if let Some(done) = it.after {
                    self.succeeded(done);
                }
                self.ask(&it.asks);
                // Only what is silent meets its deadline: a timer that fires before it is set again then.
                if let (Some(_), Some(waiting), Some(stands)) = (it.after, &mut self.waiting, stands) {
                    waiting.timer = stands.min(waiting.until);
                }
            }
            ProcessEvent::StepSucceeded(it) => {
                self.succeeded(Done { step: it.step, sequence: it.sequence });
            }
            ProcessEvent::StepFailed(it) => {
                self.set(it.step, Stand::Refused);
                self.settled(it.step);
                self.cause.get_or_insert_with(|| (it.reason, it.detail.clone()));
            }
            ProcessEvent::StepTimedOut(it) => {
                self.pause(it.step, it.retry_at);
                if it.retry_at.is_none() && !self.is_past_pivot() {
                    let detail = format!("{} gave no answer in time", it.step);
                    self.cause.get_or_insert((Reason::StepTimedOut, detail));
                }
            }
            ProcessEvent::CompensationRequested(it) => {
                if self.phase != Phase::Failed {
                    self.phase = Phase::Compensating;
                }
                self.cause.get_or_insert_with(|| (it.reason, it.detail.clone()));
                let done = if let Stand::Done(sequence) | Stand::Undoing(sequence) = self.stand(it.step) {
                    sequence
                } else {
                    0
                };
                self.set(it.step, Stand::Undoing(done));
                self.wait(it.step, it.attempt, it.deadline);
            }
            ProcessEvent::CompensationSucceeded(it) => {
                self.set(it.step, Stand::Undone(it.sequence));
                self.settled(it.step);
            }
            ProcessEvent::CompensationFailed(it) => self.pause(it.step, it.retry_at),
            ProcessEvent::Waiting(it) => {
                if let Some(waiting) = &mut self.waiting {
                    waiting.timer = it.until;
                }
            }
            ProcessEvent::Completed(it) => {
                if let Some(done) = it.after {
                    self.succeeded(done);
                }
                self.end(Phase::Completed);
            }
            ProcessEvent::Failed(_) => self.end(Phase::Failed),
            ProcessEvent::Parked(_) => {
                self.parked = true;
                self.waiting = None;
            }
            ProcessEvent::Retried(_) | ProcessEvent::Resumed(_) => self.forgive(),
            ProcessEvent::Skipped(it) => {
                let by_hand = self.phase == Phase::Compensating;
                // What is undone by hand is undone, whatever comes later.
                self.set(it.step, if by_hand { Stand::Undone(u64::MAX) } else { Stand::Skipped });
                self.settled(it.step);
            }
            ProcessEvent::Compensated(it) => self.turn_back(&it.reason),
            ProcessEvent::Cancelled(it) => self.turn_back(&it.reason),
        }
    }

    /// It is as it will be once this is recorded.
    pub(super) fn succeeded(&mut self, Done { step, sequence }: Done) {
        if let Stand::Undoing(_) = self.stand(step) {
            // What undoes it stands behind this.
            self.set(step, Stand::Undoing(sequence));
            return;
        }
        self.set(step, Stand::Done(sequence));
        if self.phase == Phase::Running {
            self.settled(step);
        }
    }

    fn ask(&mut self, asks: &Asked) {
        self.set(asks.step, Stand::Asked);
        self.wait(asks.step, asks.attempt, asks.deadline);
    }

    /// It was asked for: an answer has to be there by then.
    fn wait(&mut self, step: Step, attempt: u32, until: Timestamp) {
        if attempt == 1 {
            self.forgiven = 0;
        }
        self.asked = attempt;
        self.waiting = Some(Waiting { step, until, timer: until, pause: false });
        self.parked = false;
    }

    fn pause(&mut self, step: Step, until: Option<Timestamp>) {
        self.waiting = until.map(|until| Waiting { step, until, timer: until, pause: true });
    }

    /// Nobody waits for this step any more.
    fn settled(&mut self, step: Step) {
        if self.waiting.is_none_or(|waiting| waiting.step == step) {
            self.rest();
        }
    }

    fn forgive(&mut self) {
        self.parked = false;
        self.forgiven = self.asked;
    }

    fn turn_back(&mut self, reason: &str) {
        self.cause.get_or_insert_with(|| (Reason::Requested, reason.to_owned()));
        self.rest();
    }

    /// It waits for nothing.
    fn rest(&mut self) {
        self.waiting = None;
        self.parked = false;
        (self.asked, self.forgiven) = (0, 0);
    }

    fn end(&mut self, phase: Phase) {
        self.phase = phase;
        self.rest();
    }
}
