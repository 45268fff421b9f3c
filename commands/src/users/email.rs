//! An e-mail address: whose it is. Its guard makes two registrations of one address impossible.

use crate::{Aggregate, Refusal};
use events::{
    UserId,
    users::{EmailClaimed, EmailEvent, EmailHash, EmailReleased},
};

/// The aggregate, named by a digest of the address.
#[derive(Debug)]
pub struct Email;

/// What can be asked of an address.
#[derive(Clone, Debug)]
pub enum EmailCommand {
    /// Be this user's.
    Claim {
        /// The address.
        email_hash: EmailHash,
        /// Whose.
        user_id: UserId,
    },
    /// Be nobody's, if it is this user's.
    Release {
        /// The address.
        email_hash: EmailHash,
        /// Whose it is.
        user_id: UserId,
    },
}

/// Why an address can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmailRejection {
    /// It is somebody else's.
    #[error("this e-mail address is in use")]
    Taken,
}

impl From<EmailRejection> for Refusal {
    fn from(rejection: EmailRejection) -> Self {
        let EmailRejection::Taken = rejection;
        Self { field: Some("email".to_owned()), ..Self::conflict("email-taken", rejection.to_string()) }
    }
}

impl Aggregate for Email {
    const KIND: events::Aggregate = events::Aggregate::Email;
    const SCHEMA: &'static str = "email/1";
    /// Whose it is.
    type State = Option<UserId>;
    type Command = EmailCommand;
    type Event = EmailEvent;
    type Rejection = EmailRejection;

    fn decide(owner: &Self::State, command: EmailCommand) -> Result<Vec<EmailEvent>, EmailRejection> {
        Ok(match command {
            EmailCommand::Claim { email_hash, user_id } => match *owner {
                None => vec![EmailClaimed { email_hash, user_id }.into()],
                Some(owner) if owner == user_id => vec![],
                Some(_) => return Err(EmailRejection::Taken),
            },
            EmailCommand::Release { email_hash, user_id } if *owner == Some(user_id) => {
                vec![EmailReleased { email_hash, user_id }.into()]
            }
            EmailCommand::Release { .. } => vec![],
        })
    }

    fn evolve(_: Self::State, event: &EmailEvent) -> Self::State {
        match event {
            EmailEvent::Claimed(claimed) => Some(claimed.user_id),
            EmailEvent::Released(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aggregate::testing::given,
        fixtures::{email_hash, user},
    };

    fn claim(n: u128) -> EmailCommand {
        EmailCommand::Claim { email_hash: email_hash(1), user_id: user(n) }
    }

    fn release(n: u128) -> EmailCommand {
        EmailCommand::Release { email_hash: email_hash(1), user_id: user(n) }
    }

    fn claimed(n: u128) -> EmailEvent {
        EmailClaimed { email_hash: email_hash(1), user_id: user(n) }.into()
    }

    fn released(n: u128) -> EmailEvent {
        EmailReleased { email_hash: email_hash(1), user_id: user(n) }.into()
    }

    #[test]
    fn an_address_is_one_users() {
        given::<Email>([]).when(claim(1)).then([claimed(1)]);
        given::<Email>([claimed(1)]).when(claim(1)).then_nothing();
        given::<Email>([claimed(1)]).when(claim(2)).then_refused("email-taken");
    }

    #[test]
    fn a_released_address_can_be_claimed_again() {
        given::<Email>([claimed(1)]).when(release(1)).then([released(1)]);
        given::<Email>([claimed(1), released(1)]).when(claim(2)).then([claimed(2)]);
    }

    #[test]
    fn only_its_user_releases_it() {
        given::<Email>([claimed(1)]).when(release(2)).then_nothing();
        given::<Email>([]).when(release(1)).then_nothing();
    }
}
