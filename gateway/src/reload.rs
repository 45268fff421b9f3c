//! The configuration in use, and how it is exchanged while requests pass.

use crate::{Config, metrics::Counters};
use arc_swap::ArcSwap;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// How often the file is looked at. Its content is compared and not its time: so it does not matter how the file is
/// replaced, which for a mounted `ConfigMap` is by a link, and no notice of the system can be missed.
const LOOK: Duration = Duration::from_secs(2);

/// When the configuration is read again, and from where.
#[derive(Debug)]
pub struct Reload {
    file: Option<PathBuf>,
    hangup: Signal,
}

impl Reload {
    /// Follows `file`, if there is one. From here on a hangup (SIGHUP) does not end the process any more, so make this
    /// before anything that takes time.
    ///
    /// # Errors
    /// Where the system takes no handler.
    pub fn new(file: Option<PathBuf>) -> io::Result<Self> {
        Ok(Self { file, hangup: signal(SignalKind::hangup())? })
    }

    /// Follows until `stop`: on a hangup, and when the file's content has changed.
    pub(crate) async fn follow(
        mut self,
        current: Arc<ArcSwap<Config>>,
        counters: Counters,
        stop: CancellationToken,
    ) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = self.file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        loop {
            let asked = tokio::select! {
                _ = self.hangup.recv() => true,
                _ = look.tick(), if self.file.is_some() => false,
                () = stop.cancelled() => return,
            };
            let Some(file) = &self.file else {
                tracing::info!(
                    "there is nothing to read again: the gateway was started without a configuration file"
                );
                continue;
            };
            let text = std::fs::read_to_string(file);
            let changed = text.as_ref().ok() != known.as_ref();
            if asked || changed {
                take(file, text.as_deref(), &current, &counters);
                known = text.ok();
            }
        }
    }
}

/// Takes a new configuration, if it is one. Requests that have begun go on under the old one.
fn take(file: &Path, text: Result<&str, &io::Error>, current: &ArcSwap<Config>, counters: &Counters) {
    let read = text
        .map_err(ToString::to_string)
        .and_then(|text| Config::parse(text).map_err(|faults| faults.to_string()));
    let file = file.display();
    match read {
        Ok(config) => {
            let before = current.load();
            if config.connections != before.connections || config.upstreams != before.upstreams {
                tracing::warn!(%file, "what is said of connections, breakers, health and ejection takes effect at the next start");
            }
            current.store(Arc::new(config));
            counters.reload("taken");
            tracing::info!(%file, "the configuration has been read again");
        }
        Err(why) => {
            counters.reload("refused");
            tracing::error!(%file, why, "the configuration is faulty, the old one stays");
        }
    }
}
