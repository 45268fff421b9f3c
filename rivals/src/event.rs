//! What every contender records: one event of about 300 bytes of JSON, and the same for all of them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Number of events of one aggregate: it is created and appended to twice.
pub(crate) const PER_AGGREGATE: u64 = 3;

/// The event.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    pub(crate) order_id: Uuid,
    pub(crate) user_id: Uuid,
    pub(crate) version: u64,
    pub(crate) status: String,
    pub(crate) amount: i64,
    pub(crate) currency: String,
    pub(crate) address: String,
    pub(crate) note: String,
}

impl Event {
    /// What happens when the command is carried out.
    pub(crate) fn new(command: Move) -> Self {
        Self {
            order_id: command.id,
            user_id: command.id,
            version: command.version,
            status: "pending".to_owned(),
            amount: 4300,
            currency: "EUR".to_owned(),
            address: "Ada Lovelace, 12 St James's Square, SW1Y 4JH London, GB".to_owned(),
            note: "two bags of green tea and a white cup, please ring twice".to_owned(),
        }
    }

    /// The type of the event.
    pub(crate) fn kind(&self) -> &'static str {
        if self.version == 1 { "parcel.created" } else { "parcel.moved" }
    }

    /// The event as JSON.
    pub(crate) fn body(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

/// The command: record this version of this aggregate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) id: Uuid,
    pub(crate) version: u64,
}

/// What every contender folds its events into where it loads an aggregate.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub(crate) struct Parcel {
    pub(crate) version: u64,
    pub(crate) amount: i64,
}

impl Parcel {
    /// The state after an event.
    pub(crate) fn evolve(&mut self, event: &Event) {
        self.version = event.version;
        self.amount = event.amount;
    }

    /// The decision: the event that comes next, when it is the one asked for.
    pub(crate) fn decide(&self, command: Move) -> Option<Event> {
        (self.version + 1 == command.version).then(|| Event::new(command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_about_300_bytes() {
        let body = Event::new(Move { id: Uuid::now_v7(), version: 1 }).body().unwrap();
        assert!((280..=340).contains(&body.len()), "{}", body.len());
    }

    #[test]
    fn only_the_next_event_is_decided() {
        let mut parcel = Parcel::default();
        let to = |version| Move { id: Uuid::nil(), version };
        let event = parcel.decide(to(1)).unwrap();
        parcel.evolve(&event);
        assert_eq!(parcel.decide(to(1)), None);
        assert_eq!(parcel.decide(to(2)).unwrap().kind(), "parcel.moved");
    }
}
