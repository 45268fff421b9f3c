//! Forgets what is kept beside the log of somebody who is erased: the key of the personal data, the password and the
//! sessions. The fact is delivered until all of it is gone, however often a process dies on the way.

use super::{credentials::Credentials, sessions::Sessions};
use events::{Context, Fact, UserId, users::UserEvent};
use nats::{Handler, KeyRing, Retry};

/// The types of facts that the users service answers, by the context that records them.
pub const INTERESTS: &[(Context, &[&str])] = &[(Context::Users, &["user.erased"])];

pub(super) fn handler(keys: KeyRing, credentials: Credentials, sessions: Sessions) -> Handler {
    std::sync::Arc::new(move |recorded| {
        let (keys, credentials, sessions) = (keys.clone(), credentials.clone(), sessions.clone());
        Box::pin(async move {
            let Fact::User(UserEvent::Erased(erased)) = &recorded.fact else { return Ok("ignored") };
            forget(&keys, &credentials, &sessions, erased.user_id).await.map(|()| "forgotten")
        })
    })
}

async fn forget(
    keys: &KeyRing,
    credentials: &Credentials,
    sessions: &Sessions,
    user: UserId,
) -> Result<(), Retry> {
    keys.destroy(user).await?;
    credentials.remove(user).await?;
    sessions.end_all(user).await?;
    Ok(())
}
