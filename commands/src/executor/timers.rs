//! What becomes of timers together with the events of one append.

use crate::decision::{Alarm, TimerChange};
use events::Envelope;
use nats::Write;

/// The changes of timers, each with the place of its event.
#[derive(Default)]
pub(super) struct Timers(Vec<(usize, TimerChange, Envelope)>);

impl Timers {
    /// Notes what the event at `place` does. Of the changes of one timer only the last one counts.
    pub(super) fn note(&mut self, place: usize, change: Option<TimerChange>, event: &Envelope) {
        let Some(change) = change else { return };
        self.0.retain(|(_, earlier, _)| earlier.name != change.name);
        self.0.push((place, change, event.clone()));
    }

    /// Cancels timers with their events, and puts those that are armed behind all events.
    pub(super) fn set(self, mut writes: Vec<Write>) -> Vec<Write> {
        for (place, TimerChange { name, alarm }, event) in self.0 {
            match alarm {
                None => writes[place] = writes[place].clone().cancelling(&name),
                Some(Alarm { at, subject, fact, body }) => {
                    let envelope = event.of_timer(fact, &subject, at);
                    writes.push(Write::timer(&subject, &name, at, &envelope, body));
                }
            }
        }
        writes
    }
}
