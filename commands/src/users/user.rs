//! A user: profile, preferences, subscriptions, roles; erased once and for ever. What is personal stays sealed here.

use crate::{Aggregate, Refusal};
use events::{
    Address, Personal, UserId,
    users::{
        EmailHash, Preferences, Role, Topic, UserCreated, UserErased, UserEvent, UserPreferencesUpdated,
        UserProfileUpdated, UserRolesChanged, UserSubscribed, UserUnsubscribed,
    },
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Topics that one user may subscribe to.
pub const MAX_TOPICS: usize = 100;
/// Characters of a language tag.
const MAX_LANGUAGE: usize = 35;

/// The aggregate.
#[derive(Debug)]
pub struct User;

/// What is known of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserState {
    /// Nobody registered under this id.
    #[default]
    Unknown,
    /// Somebody did.
    Registered(Box<Registered>),
    /// Somebody did, and is forgotten.
    Erased,
}

/// A user as its events tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    user_id: UserId,
    /// Which `email` aggregate guards the e-mail address.
    pub email_hash: EmailHash,
    preferences: Preferences,
    /// What the user may do.
    pub roles: Vec<Role>,
    topics: BTreeSet<Topic>,
    /// What the user does not want to hear of, and said so. Some topics are told to everybody who did not.
    declined: BTreeSet<Topic>,
    /// Counts the events.
    pub version: u64,
}

/// What changes of a profile; what is missing stays.
#[derive(Clone, Debug, Default)]
pub struct ProfileChange {
    /// The new name.
    pub name: Option<Personal<String>>,
    /// The new e-mail address, and which aggregate guards it.
    pub email: Option<(EmailHash, Personal<String>)>,
    /// All postal addresses.
    pub addresses: Option<Personal<Vec<Address>>>,
}

/// What can be asked of a user.
#[derive(Clone, Debug)]
pub enum UserCommand {
    /// Register.
    Register(Box<UserCreated>),
    /// Change the profile.
    UpdateProfile {
        /// What changes.
        change: Box<ProfileChange>,
        /// Only if this is the user's version.
        version: Option<u64>,
    },
    /// Prefer this.
    SetPreferences(Preferences),
    /// Hear of a topic.
    Subscribe(Topic),
    /// No longer hear of a topic.
    Unsubscribe(Topic),
    /// Be allowed this.
    ChangeRoles(Vec<Role>),
    /// Be forgotten.
    Erase,
}

/// Why a user can refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserRejection {
    /// The id was used before.
    #[error("this user exists already")]
    Exists,
    /// There is no such user.
    #[error("there is no such user")]
    Unknown,
    /// The user is forgotten.
    #[error("this user is erased")]
    Erased,
    /// The change is meant for another version.
    #[error("the user has changed: version {expected} was expected, it is {found}. Read it again")]
    Changed {
        /// What the client has seen.
        expected: u64,
        /// What is recorded.
        found: u64,
    },
    /// The language is no language tag.
    #[error("a language is a BCP 47 tag such as de-AT")]
    Language,
    /// Too many topics.
    #[error("a user subscribes to at most {MAX_TOPICS} topics")]
    TooManyTopics,
    /// A user without a role could do nothing.
    #[error("a user has at least one role")]
    NoRole,
}

impl From<UserRejection> for Refusal {
    fn from(rejection: UserRejection) -> Self {
        use UserRejection as R;
        let detail = rejection.to_string();
        match rejection {
            R::Exists => Self::conflict("user-exists", detail),
            R::Unknown => Self::not_found("user-not-found", detail),
            R::Erased => Self::conflict("user-erased", detail),
            R::Changed { .. } => Self { slug: "user-changed", status: 412, detail, field: None },
            R::Language => Self::invalid("language-invalid", "language", detail),
            R::TooManyTopics => Self::conflict("too-many-topics", detail),
            R::NoRole => Self::invalid("role-missing", "roles", detail),
        }
    }
}

impl Aggregate for User {
    const KIND: events::Aggregate = events::Aggregate::User;
    const SCHEMA: &'static str = "user/2";
    type State = UserState;
    type Command = UserCommand;
    type Event = UserEvent;
    type Rejection = UserRejection;

    fn decide(state: &UserState, command: UserCommand) -> Result<Vec<UserEvent>, UserRejection> {
        let user = match (state, command) {
            (UserState::Unknown, UserCommand::Register(created)) => return register(*created),
            (UserState::Unknown, _) => return Err(UserRejection::Unknown),
            (_, UserCommand::Register(_)) => return Err(UserRejection::Exists),
            (UserState::Erased, UserCommand::Erase) => return Ok(vec![]),
            (UserState::Erased, _) => return Err(UserRejection::Erased),
            (UserState::Registered(user), command) => (user, command),
        };
        let (user, command) = user;
        user.decide(command)
    }

    fn evolve(state: UserState, event: &UserEvent) -> UserState {
        match (state, event) {
            (_, UserEvent::Created(created)) => UserState::Registered(Box::new(Registered {
                user_id: created.user_id,
                email_hash: created.email_hash.clone(),
                preferences: created.preferences.clone(),
                roles: created.roles.clone(),
                topics: BTreeSet::new(),
                declined: BTreeSet::new(),
                version: 1,
            })),
            (_, UserEvent::Erased(_)) => UserState::Erased,
            (UserState::Registered(mut user), event) => {
                user.evolve(event);
                UserState::Registered(user)
            }
            (state, _) => state,
        }
    }
}

fn register(created: UserCreated) -> Result<Vec<UserEvent>, UserRejection> {
    let preferences = checked(created.preferences)?;
    Ok(vec![UserCreated { preferences, roles: one_of_each(created.roles)?, ..created }.into()])
}

impl Registered {
    fn decide(&self, command: UserCommand) -> Result<Vec<UserEvent>, UserRejection> {
        let user_id = self.user_id;
        Ok(match command {
            UserCommand::Register(_) => return Err(UserRejection::Exists),
            UserCommand::UpdateProfile { change, version } => self.update_profile(*change, version)?,
            UserCommand::SetPreferences(preferences) => {
                let preferences = checked(preferences)?;
                if preferences == self.preferences {
                    return Ok(vec![]);
                }
                vec![UserPreferencesUpdated { user_id, preferences }.into()]
            }
            UserCommand::Subscribe(topic) if self.topics.contains(&topic) => vec![],
            UserCommand::Subscribe(_) if self.topics.len() >= MAX_TOPICS => {
                return Err(UserRejection::TooManyTopics);
            }
            UserCommand::Subscribe(topic) => vec![UserSubscribed { user_id, topic }.into()],
            UserCommand::Unsubscribe(topic) if self.declined.contains(&topic) => vec![],
            UserCommand::Unsubscribe(topic)
                if !self.topics.contains(&topic) && self.declined.len() >= MAX_TOPICS =>
            {
                return Err(UserRejection::TooManyTopics);
            }
            UserCommand::Unsubscribe(topic) => vec![UserUnsubscribed { user_id, topic }.into()],
            UserCommand::ChangeRoles(roles) => {
                let roles = one_of_each(roles)?;
                if roles == self.roles { vec![] } else { vec![UserRolesChanged { user_id, roles }.into()] }
            }
            UserCommand::Erase => {
                vec![UserErased { user_id, topics: self.topics.iter().cloned().collect() }.into()]
            }
        })
    }

    fn update_profile(
        &self,
        change: ProfileChange,
        version: Option<u64>,
    ) -> Result<Vec<UserEvent>, UserRejection> {
        if let Some(expected) = version.filter(|version| *version != self.version) {
            return Err(UserRejection::Changed { expected, found: self.version });
        }
        let ProfileChange { name, email, addresses } = change;
        if name.is_none() && email.is_none() && addresses.is_none() {
            return Ok(vec![]);
        }
        let (email_hash, email) = email.unzip();
        // The same address, perhaps written in another way, stays guarded as it is.
        let email_hash = email_hash.filter(|hash| *hash != self.email_hash);
        Ok(vec![UserProfileUpdated { user_id: self.user_id, name, email, email_hash, addresses }.into()])
    }

    fn evolve(&mut self, event: &UserEvent) {
        self.version += 1;
        match event {
            UserEvent::ProfileUpdated(UserProfileUpdated { email_hash: Some(hash), .. }) => {
                self.email_hash = hash.clone();
            }
            UserEvent::PreferencesUpdated(updated) => self.preferences = updated.preferences.clone(),
            UserEvent::Subscribed(subscribed) => {
                self.declined.remove(&subscribed.topic);
                self.topics.insert(subscribed.topic.clone());
            }
            UserEvent::Unsubscribed(unsubscribed) => {
                self.topics.remove(&unsubscribed.topic);
                self.declined.insert(unsubscribed.topic.clone());
            }
            UserEvent::RolesChanged(changed) => self.roles.clone_from(&changed.roles),
            UserEvent::ProfileUpdated(_) | UserEvent::Created(_) | UserEvent::Erased(_) => {}
        }
    }
}

/// Preferences in one form: each channel once, in order.
pub(super) fn checked(mut preferences: Preferences) -> Result<Preferences, UserRejection> {
    let mut tags = preferences.language.split('-');
    let letters = |tag: &str| (2..=3).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphabetic());
    let subtag = |tag: &str| (1..=8).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphanumeric());
    let fits = preferences.language.len() <= MAX_LANGUAGE;
    if !(fits && tags.next().is_some_and(letters) && tags.all(subtag)) {
        return Err(UserRejection::Language);
    }
    preferences.channels.sort_unstable();
    preferences.channels.dedup();
    Ok(preferences)
}

/// Roles in one form: each once, in order.
fn one_of_each(mut roles: Vec<Role>) -> Result<Vec<Role>, UserRejection> {
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { Err(UserRejection::NoRole) } else { Ok(roles) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aggregate::testing::given,
        fixtures::{email_hash, registered, sealed, user},
    };
    use events::users::Channel;

    fn topic(name: &str) -> Topic {
        name.parse().unwrap()
    }

    fn subscribed(name: &str) -> UserEvent {
        UserSubscribed { user_id: user(1), topic: topic(name) }.into()
    }

    fn erased(topics: &[&str]) -> UserEvent {
        let topics = topics.iter().map(|name| topic(name)).collect();
        UserErased { user_id: user(1), topics }.into()
    }

    fn rename(version: Option<u64>) -> UserCommand {
        let change = ProfileChange { name: Some(sealed(&"Ada L.".to_owned())), ..ProfileChange::default() };
        UserCommand::UpdateProfile { change: Box::new(change), version }
    }

    fn updated() -> UserProfileUpdated {
        UserProfileUpdated { user_id: user(1), name: None, email: None, email_hash: None, addresses: None }
    }

    #[test]
    fn a_user_registers_once() {
        let register = || UserCommand::Register(Box::new(registered(1)));
        given::<User>([]).when(register()).then([registered(1).into()]);
        given::<User>([registered(1).into()]).when(register()).then_refused("user-exists");
        given::<User>([]).when(rename(None)).then_refused("user-not-found");
    }

    #[test]
    fn a_change_is_made_to_the_version_it_is_meant_for() {
        let history = [registered(1).into(), subscribed("news")];
        let renamed = UserProfileUpdated { name: Some(sealed(&"Ada L.".to_owned())), ..updated() };
        given::<User>(history.clone()).when(rename(Some(2))).then([renamed.clone().into()]);
        given::<User>(history.clone()).when(rename(None)).then([renamed.into()]);
        let refusal = given::<User>(history).when(rename(Some(1))).then_refused("user-changed");
        assert_eq!(refusal.status, 412);
    }

    #[test]
    fn the_guard_is_named_only_where_it_changes() {
        let change = |n| {
            let email = Some((email_hash(n), sealed(&"ada@example.com".to_owned())));
            let change = Box::new(ProfileChange { email, ..ProfileChange::default() });
            UserCommand::UpdateProfile { change, version: None }
        };
        let email = Some(sealed(&"ada@example.com".to_owned()));
        let same = UserProfileUpdated { email: email.clone(), ..updated() };
        let other = UserProfileUpdated { email, email_hash: Some(email_hash(2)), ..updated() };
        given::<User>([registered(1).into()]).when(change(1)).then([same.into()]);
        given::<User>([registered(1).into()]).when(change(2)).then([other.clone().into()]);
        let UserState::Registered(user) =
            [registered(1).into(), other.into()].iter().fold(UserState::default(), User::evolve)
        else {
            panic!("a user")
        };
        assert_eq!((user.email_hash, user.version), (email_hash(2), 2));
    }

    #[test]
    fn what_changes_nothing_records_nothing() {
        let nothing = UserCommand::UpdateProfile { change: Box::default(), version: None };
        let roles = UserCommand::ChangeRoles(vec![Role::Customer, Role::Customer]);
        let same = UserCommand::SetPreferences(Preferences::default());
        for command in [nothing, roles, same] {
            given::<User>([registered(1).into()]).when(command).then_nothing();
        }
        let again = UserCommand::Subscribe(topic("news"));
        given::<User>([registered(1).into(), subscribed("news")]).when(again).then_nothing();
    }

    #[test]
    fn who_does_not_want_to_hear_of_something_says_so_once_subscribed_or_not() {
        let no = || UserCommand::Unsubscribe(topic("news"));
        let said: UserEvent = UserUnsubscribed { user_id: user(1), topic: topic("news") }.into();
        given::<User>([registered(1).into()]).when(no()).then([said.clone()]);
        given::<User>([registered(1).into(), subscribed("news")]).when(no()).then([said.clone()]);
        given::<User>([registered(1).into(), said.clone()]).when(no()).then_nothing();
        let again = UserCommand::Subscribe(topic("news"));
        given::<User>([registered(1).into(), said.clone()]).when(again).then([subscribed("news")]);
        let changed = [registered(1).into(), said.clone(), subscribed("news")];
        given::<User>(changed).when(no()).then([said]);
    }

    #[test]
    fn preferences_and_roles_have_one_form() {
        let channels = vec![Channel::Push, Channel::Email, Channel::Push];
        let preferences = Preferences { language: "de-AT".to_owned(), channels, currency: None };
        let expected = Preferences { channels: vec![Channel::Email, Channel::Push], ..preferences.clone() };
        let event = UserPreferencesUpdated { user_id: user(1), preferences: expected };
        let command = UserCommand::SetPreferences(preferences);
        given::<User>([registered(1).into()]).when(command).then([event.into()]);
        for language in ["", "d", "german", "de_AT", "de-", "1e", "de-österreich", &"de-".repeat(12)] {
            let preferences = Preferences { language: language.to_owned(), ..Preferences::default() };
            let command = UserCommand::SetPreferences(preferences);
            given::<User>([registered(1).into()]).when(command).then_refused("language-invalid");
        }
        let roles = vec![Role::Admin, Role::Operator, Role::Admin];
        let changed = UserRolesChanged { user_id: user(1), roles: vec![Role::Operator, Role::Admin] };
        given::<User>([registered(1).into()]).when(UserCommand::ChangeRoles(roles)).then([changed.into()]);
        let none = UserCommand::ChangeRoles(vec![]);
        given::<User>([registered(1).into()]).when(none).then_refused("role-missing");
    }

    #[test]
    fn topics_are_bounded() {
        let topics = (0..MAX_TOPICS).map(|n| subscribed(&format!("t{n}")));
        let history: Vec<_> = [registered(1).into()].into_iter().chain(topics).collect();
        let one_more = UserCommand::Subscribe(topic("one-more"));
        given::<User>(history.clone()).when(one_more).then_refused("too-many-topics");
        given::<User>(history).when(UserCommand::Subscribe(topic("t7"))).then_nothing();
    }

    #[test]
    fn an_erased_user_stays_erased() {
        let history = [registered(1).into(), subscribed("news")];
        given::<User>(history.clone()).when(UserCommand::Erase).then([erased(&["news"])]);
        let gone: Vec<_> = history.into_iter().chain([erased(&["news"])]).collect();
        given::<User>(gone.clone()).when(UserCommand::Erase).then_nothing();
        given::<User>(gone.clone()).when(rename(None)).then_refused("user-erased");
        given::<User>(gone).when(UserCommand::Register(Box::new(registered(1)))).then_refused("user-exists");
    }
}
