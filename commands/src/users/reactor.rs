//! Forgets what is kept beside the log of somebody who is erased: the key of the personal data, the password and the
//! sessions. The fact is delivered until all of it is gone, however often a process dies on the way.

use super::{credentials::Credentials, sessions::Sessions};
use events::{Context, Fact, UserId, users::UserEvent};
use nats::{Handler, KeyRing, Retry};
use std::error::Error;

/// The types of facts that the users service answers, by the context that records them.
pub const INTERESTS: &[(Context, &[&str])] = &[(Context::Users, &["user.erased"])];

pub(super) fn handler(keys: KeyRing, credentials: Credentials, sessions: Sessions) -> Handler {
    std::sync::Arc::new(move |recorded| {
        let (keys, credentials, sessions) = (keys.clone(), credentials.clone(), sessions.clone());
        Box::pin(async move {
            let Fact::User(UserEvent::Erased(erased)) = &recorded.fact else { return Ok("ignored") };
            let forgotten = forget(&keys, &credentials, &sessions, erased.user_id).await;
            forgotten.map(|()| "forgotten").map_err(|error| Retry(error.to_string()))
        })
    })
}

async fn forget(
    keys: &KeyRing,
    credentials: &Credentials,
    sessions: &Sessions,
    user: UserId,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    keys.destroy(user).await?;
    credentials.remove(user).await?;
    sessions.end_all(user).await?;
    Ok(())
}
