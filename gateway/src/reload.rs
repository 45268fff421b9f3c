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
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// How often the file is looked at. Its content is compared and not its time: so it does not matter how the file is
/// replaced, which for a mounted `ConfigMap` is by a link, and no notice of the system can be missed.
const LOOK: Duration = Duration::from_secs(2);

/// Follows the file until `stop`: on a hangup (SIGHUP), and when its content has changed.
pub(crate) async fn follow(
    file: PathBuf,
    current: Arc<ArcSwap<Config>>,
    counters: Counters,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = std::fs::read_to_string(&file).ok();
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            _ = look.tick() => false,
            () = stop.cancelled() => return Ok(()),
        };
        let text = std::fs::read_to_string(&file);
        let changed = text.as_ref().ok() != known.as_ref();
        if asked || changed {
            take(&file, text.as_deref(), &current, &counters);
            known = text.ok();
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
            if config.connections != current.load().connections {
                tracing::warn!(%file, "what is said of connections takes effect at the next start");
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
