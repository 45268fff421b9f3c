//! Stopping in phases: first others are told, then nothing new begins, then what has begun ends, up to a deadline.

use std::{io, time::Duration};
use tokio::{
    signal::unix::{SignalKind, signal as listen},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The end of a process or of a part of it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    leaving: CancellationToken,
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Nothing is stopping.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the stop is near: say so to whoever sends work, but go on to take it.
    pub fn leaving(&self) -> CancellationToken {
        self.leaving.clone()
    }

    /// Announces the stop.
    pub fn leave(&self) {
        self.leaving.cancel();
    }

    /// Cancelled when the stop begins: take no new work, finish what has begun.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Starts a task that [`drain`](Self::drain) waits for. It must end soon after the token is cancelled.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Begins the stop and waits for the tasks. Says whether all ended within `deadline`.
    pub async fn drain(&self, deadline: Duration) -> bool {
        self.leaving.cancel();
        self.token.cancel();
        self.tasks.close();
        tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok()
    }
}

/// Resolves when the process is asked to stop: Ctrl-C or SIGTERM. Names which.
pub async fn signal() -> io::Result<&'static str> {
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_tasks_that_end_and_gives_up_on_one_that_does_not() {
        let shutdown = Shutdown::new();
        let token = shutdown.token();
        let polite = shutdown.spawn(async move { token.cancelled().await });
        shutdown.leave();
        assert!(shutdown.leaving().is_cancelled() && !shutdown.token().is_cancelled());
        assert!(shutdown.drain(Duration::from_secs(10)).await);
        assert!(polite.is_finished());

        let shutdown = Shutdown::new();
        let stubborn = shutdown.spawn(std::future::pending::<()>());
        assert!(!shutdown.drain(Duration::from_millis(10)).await);
        assert!(shutdown.token().is_cancelled() && !stubborn.is_finished());
    }
}
