//! Users: who somebody is, what somebody may do, and how somebody proves it.
//!
//! - `user`, `email`: the aggregates. What concerns both is decided here, at once or not at all.
//! - `credentials`, `sessions`, `throttle`: what is kept beside the log: passwords, logins, attempts to log in
//! - [`tokens`]: access tokens and the keys that sign them
//! - `http`: the endpoints; `reactor`: forgets what is kept beside the log of somebody who is erased

mod address;
mod credentials;
mod email;
mod http;
mod reactor;
mod sessions;
mod throttle;
pub mod tokens;
mod user;

pub use email::{Email, EmailCommand, EmailRejection};
pub use reactor::INTERESTS;
pub use user::{MAX_TOPICS, ProfileChange, Registered, User, UserCommand, UserRejection, UserState};

use crate::{
    Decision, Key, Stop,
    environment::{Build, BuildError, WriteSide},
};
use address::Digester;
use aws_lc_rs::hmac;
use credentials::Credentials;
use events::{UserId, users::UserCreated};
use nats::{BucketConfig, MasterKey};
use sessions::Sessions;
use throttle::Throttle;
use tokens::{Issuer, Keys};

/// The write side of users.
pub(crate) async fn write_side(build: Build) -> Result<WriteSide, BuildError> {
    let (connection, clock, replicas) = (&build.connection, &build.clock, build.replicas);
    // The service looks after them, whoever made the bucket.
    let keys = Keys::open(connection, &build.master_key, replicas, clock).await?;
    let credentials = Credentials::open(connection, replicas).await?;
    let refreshing = derived(&build.master_key, "refresh tokens");
    let sessions = Sessions::open(connection, refreshing, replicas, clock.clone()).await?;
    let users = http::Users {
        api: build.api().into(),
        keys: build.keys.clone(),
        digester: Digester::new(derived(&build.master_key, "e-mail addresses")),
        credentials: credentials.clone(),
        sessions: sessions.clone(),
        throttle: Throttle::open(connection, replicas, clock.clone()).await?,
        proxies: build.proxies.clone(),
        issuer: Issuer::new(keys.clone(), clock.clone()),
    };
    let handler = reactor::handler(build.keys.clone(), credentials, sessions);
    let keeping = keys.keep(clock.clone());
    Ok(build.finish(http::routes(users), INTERESTS, &handler).beside(keeping))
}

/// The buckets that users keep beside the log.
pub fn buckets(replicas: usize) -> [BucketConfig; 4] {
    [
        credentials::config(replicas),
        sessions::config(replicas),
        throttle::config(replicas),
        tokens::config(replicas),
    ]
}

/// A key of its own for each purpose.
fn derived(master: &MasterKey, purpose: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &*master.derive(purpose))
}

/// Somebody registers: the user comes into being together with the claim on the e-mail address.
pub fn register(decision: &mut Decision, user: &UserCreated) -> Result<(), Stop> {
    let (key, email) = (Key::<User>::new(user.user_id), Key::<Email>::new(&user.email_hash));
    decision.need([key.likely_new(), email.likely_new()])?;
    let (email_hash, user_id) = (user.email_hash.clone(), user.user_id);
    decision.apply(&email, EmailCommand::Claim { email_hash, user_id })?;
    decision.apply(&key, UserCommand::Register(Box::new(user.clone())))
}

/// A profile changes; another e-mail address is claimed and the one before released.
pub fn update_profile(
    decision: &mut Decision,
    user_id: UserId,
    change: &ProfileChange,
    version: Option<u64>,
) -> Result<(), Stop> {
    let key = Key::<User>::new(user_id);
    let before = match decision.state(&key)? {
        UserState::Registered(user) => Some(user.email_hash.clone()),
        UserState::Unknown | UserState::Erased => None,
    };
    let command = UserCommand::UpdateProfile { change: Box::new(change.clone()), version };
    if let (Some(before), Some((after, _))) = (before, &change.email)
        && before != *after
    {
        let (old, new) = (Key::<Email>::new(&before), Key::<Email>::new(after));
        decision.need([old.load(), new.load()])?;
        decision.apply(&key, command)?;
        decision.apply(&new, EmailCommand::Claim { email_hash: after.clone(), user_id })?;
        return decision.apply(&old, EmailCommand::Release { email_hash: before, user_id });
    }
    decision.apply(&key, command)
}

/// A user is erased, and the e-mail address is free for others.
pub fn erase(decision: &mut Decision, user_id: UserId) -> Result<(), Stop> {
    let key = Key::<User>::new(user_id);
    if let UserState::Registered(user) = decision.state(&key)? {
        let email_hash = user.email_hash.clone();
        let email = Key::<Email>::new(&email_hash);
        decision.apply(&email, EmailCommand::Release { email_hash, user_id })?;
    }
    decision.apply(&key, UserCommand::Erase)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{email_hash, registered, sealed, user};
    use events::users::{EmailClaimed, EmailEvent, EmailReleased, UserErased, UserEvent, UserProfileUpdated};

    fn of(n: u128) -> Key<User> {
        Key::new(user(n))
    }

    fn address(n: u128) -> Key<Email> {
        Key::new(email_hash(n))
    }

    fn claimed(n: u128, by: u128) -> EmailEvent {
        EmailClaimed { email_hash: email_hash(n), user_id: user(by) }.into()
    }

    fn released(n: u128, by: u128) -> EmailEvent {
        EmailReleased { email_hash: email_hash(n), user_id: user(by) }.into()
    }

    /// User 1 with address 1, and address 2 with this history.
    fn given(other: &[EmailEvent]) -> Decision {
        Decision::default()
            .given(&of(1), &[registered(1).into()])
            .given(&address(1), &[claimed(1, 1)])
            .given(&address(2), other)
    }

    fn moving_to(n: u128) -> ProfileChange {
        ProfileChange {
            email: Some((email_hash(n), sealed(&"a@example.com".to_owned()))),
            ..ProfileChange::default()
        }
    }

    fn refused(result: Result<(), Stop>) -> &'static str {
        match result {
            Err(Stop::Refused(refusal)) => refusal.slug,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_registration_claims_its_address() {
        let mut decision = Decision::default().given(&of(1), &[]).given(&address(1), &[]);
        register(&mut decision, &registered(1)).unwrap();
        assert_eq!(decision.then(&of(1)), [registered(1).into()]);
        assert_eq!(decision.then(&address(1)), [claimed(1, 1)]);
        let mut decision = Decision::default().given(&of(2), &[]).given(&address(1), &[claimed(1, 1)]);
        let second = UserCreated { user_id: user(2), ..registered(1) };
        assert_eq!(refused(register(&mut decision, &second)), "email-taken");
    }

    #[test]
    fn another_address_is_claimed_and_the_old_one_released() {
        let mut decision = given(&[]);
        update_profile(&mut decision, user(1), &moving_to(2), Some(1)).unwrap();
        assert_eq!(decision.then(&address(1)), [released(1, 1)]);
        assert_eq!(decision.then(&address(2)), [claimed(2, 1)]);
        let [UserEvent::ProfileUpdated(UserProfileUpdated { email_hash: Some(hash), .. })] =
            &decision.then(&of(1))[..]
        else {
            panic!("one change")
        };
        assert_eq!(*hash, email_hash(2));
    }

    #[test]
    fn an_address_of_somebody_else_is_refused_and_the_same_one_touches_nothing() {
        let mut decision = given(&[claimed(2, 2)]);
        assert_eq!(refused(update_profile(&mut decision, user(1), &moving_to(2), None)), "email-taken");
        let mut decision = given(&[]);
        update_profile(&mut decision, user(1), &moving_to(1), None).unwrap();
        assert_eq!((decision.then(&address(1)), decision.then(&of(1)).len()), (vec![], 1));
        let mut decision = given(&[]);
        assert_eq!(refused(update_profile(&mut decision, user(1), &moving_to(2), Some(7))), "user-changed");
    }

    #[test]
    fn erasing_releases_the_address_once() {
        let mut decision = given(&[]);
        for _ in 0..2 {
            erase(&mut decision, user(1)).unwrap();
        }
        assert_eq!(decision.then(&address(1)), [released(1, 1)]);
        assert_eq!(decision.then(&of(1)), [UserErased { user_id: user(1), topics: vec![] }.into()]);
        let mut decision = Decision::default().given(&of(3), &[]);
        assert_eq!(refused(erase(&mut decision, user(3))), "user-not-found");
    }
}
