//! Waiting for a condition.

use std::time::Duration;
use tokio::time::{Instant, sleep};

const POLL: Duration = Duration::from_millis(10);

/// Asks again and again until there is something, and gives it.
///
/// # Panics
/// When there is nothing after `within`; the message says what was waited for.
pub async fn eventually<T>(what: &str, within: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        sleep(POLL).await;
    }
}
