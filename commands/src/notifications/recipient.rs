//! What notifications know of users: their own copy, folded from the log. It is read when something is sent, so that
//! it is never older than the log; and it holds what is personal sealed, as the log does.

use crate::{Aggregate, Refusal};
use events::{
    Personal,
    users::{Channel, Preferences, Topic, UserEvent},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, convert::Infallible};

/// The topic of what happens to orders. Everybody hears of it who did not say no.
pub const TOPIC: &str = "order-updates";

/// A user as notifications see him: only read.
#[derive(Debug)]
pub struct Recipient;

/// What is known of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecipientState {
    /// Nobody registered under this id.
    #[default]
    Unknown,
    /// Somebody did.
    Known(Box<Known>),
    /// Somebody did, and is forgotten.
    Erased,
}

/// A user as its events tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// What the user is called.
    pub name: Personal<String>,
    /// The e-mail address.
    pub email: Personal<String>,
    /// What the user prefers.
    pub preferences: Preferences,
    /// What the user does not want to hear of.
    declined: BTreeSet<Topic>,
}

impl Known {
    /// Whether the user wants to hear of orders by e-mail.
    pub fn wants_mail(&self) -> bool {
        let reached = self.preferences.channels.contains(&Channel::Email);
        reached && !self.declined.iter().any(|topic| topic.as_str() == TOPIC)
    }
}

impl Aggregate for Recipient {
    const KIND: events::Aggregate = events::Aggregate::User;
    const SCHEMA: &'static str = "recipient/1";
    type State = RecipientState;
    /// Notifications ask nothing of users.
    type Command = Infallible;
    type Event = UserEvent;
    type Rejection = Refusal;

    fn decide(_: &RecipientState, command: Infallible) -> Result<Vec<UserEvent>, Refusal> {
        match command {}
    }

    fn evolve(state: RecipientState, event: &UserEvent) -> RecipientState {
        match (state, event) {
            (RecipientState::Erased, _) | (_, UserEvent::Erased(_)) => RecipientState::Erased,
            (_, UserEvent::Created(it)) => RecipientState::Known(Box::new(Known {
                name: it.name.clone(),
                email: it.email.clone(),
                preferences: it.preferences.clone(),
                declined: BTreeSet::new(),
            })),
            (RecipientState::Known(mut known), event) => {
                known.evolve(event);
                RecipientState::Known(known)
            }
            (RecipientState::Unknown, _) => RecipientState::Unknown,
        }
    }
}

impl Known {
    fn evolve(&mut self, event: &UserEvent) {
        match event {
            UserEvent::ProfileUpdated(it) => {
                if let Some(name) = &it.name {
                    self.name = name.clone();
                }
                if let Some(email) = &it.email {
                    self.email = email.clone();
                }
            }
            UserEvent::PreferencesUpdated(it) => self.preferences = it.preferences.clone(),
            UserEvent::Subscribed(it) => drop(self.declined.remove(&it.topic)),
            UserEvent::Unsubscribed(it) => drop(self.declined.insert(it.topic.clone())),
            UserEvent::Created(_) | UserEvent::RolesChanged(_) | UserEvent::Erased(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{registered, sealed, user};
    use events::users::{
        UserErased, UserPreferencesUpdated, UserProfileUpdated, UserSubscribed, UserUnsubscribed,
    };

    fn told(events: &[UserEvent]) -> RecipientState {
        let created = UserEvent::from(registered(1));
        std::iter::once(&created).chain(events).fold(RecipientState::default(), Recipient::evolve)
    }

    fn wants_mail(events: &[UserEvent]) -> bool {
        matches!(told(events), RecipientState::Known(known) if known.wants_mail())
    }

    fn no(topic: &str) -> UserEvent {
        UserUnsubscribed { user_id: user(1), topic: topic.parse().unwrap() }.into()
    }

    fn yes(topic: &str) -> UserEvent {
        UserSubscribed { user_id: user(1), topic: topic.parse().unwrap() }.into()
    }

    fn by(channels: Vec<Channel>) -> UserEvent {
        let preferences = Preferences { channels, ..Preferences::default() };
        UserPreferencesUpdated { user_id: user(1), preferences }.into()
    }

    #[test]
    fn everybody_hears_of_his_orders_who_did_not_say_no() {
        assert!(wants_mail(&[]));
        assert!(wants_mail(&[no("news")]));
        assert!(!wants_mail(&[no(TOPIC)]));
        assert!(wants_mail(&[no(TOPIC), yes(TOPIC)]));
        assert!(!wants_mail(&[yes(TOPIC), no(TOPIC)]));
    }

    #[test]
    fn the_channel_has_to_be_preferred() {
        assert!(!wants_mail(&[by(vec![])]));
        assert!(!wants_mail(&[by(vec![Channel::Push, Channel::Sms])]));
        assert!(wants_mail(&[by(vec![]), by(vec![Channel::Email])]));
    }

    #[test]
    fn the_newest_address_counts_and_nothing_is_left_of_who_is_erased() {
        let moved = UserProfileUpdated {
            user_id: user(1),
            name: None,
            email: Some(sealed(&"new@example.com".to_owned())),
            email_hash: None,
            addresses: None,
        };
        let RecipientState::Known(known) = told(&[moved.into()]) else { panic!("known") };
        assert_eq!(known.email, sealed(&"new@example.com".to_owned()));
        assert_eq!(known.name, registered(1).name);
        let erased = UserErased { user_id: user(1), topics: vec![] }.into();
        assert_eq!(told(&[erased, yes(TOPIC)]), RecipientState::Erased);
    }
}
