//! How many may follow read models, and how long they may be away, by flags and environment.

use crate::settings::Flag;
use nats::FeedOptions;
use projections::LiveOptions;
use service::config::{Settings, Span};
use std::time::Duration;

/// Flags of subscriptions.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Subscriptions")]
pub struct SubscriptionArgs {
    /// How long a client may be away and go on where it was: so long changed rows are kept [default: 5m]
    #[arg(long, value_name = "TIME", env = "WAYBILL_FEED_RETENTION")]
    feed_retention: Option<String>,
    /// Subscriptions of each service at most [default: 20000]
    #[arg(long, value_name = "COUNT", env = "WAYBILL_SUBSCRIPTIONS")]
    subscriptions: Option<String>,
    /// Subscriptions of one user and service at most [default: 100]
    #[arg(long, value_name = "COUNT", env = "WAYBILL_SUBSCRIPTIONS_PER_USER")]
    subscriptions_per_user: Option<String>,
}

/// What subscriptions may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subscriptions {
    /// What change feeds keep.
    pub feed: FeedOptions,
    /// How many may follow.
    pub live: LiveOptions,
}

impl SubscriptionArgs {
    /// The flags by name, to be read together with those of the command.
    pub(crate) fn flags(&self) -> [Flag; 3] {
        [
            ("--feed-retention", self.feed_retention.clone()),
            ("--subscriptions", self.subscriptions.clone()),
            ("--subscriptions-per-user", self.subscriptions_per_user.clone()),
        ]
    }
}

impl Subscriptions {
    /// The subscriptions as the flags want them.
    pub(crate) fn read(flags: &mut Settings) -> Self {
        let usual = Self::default();
        let retention = flags.optional("--feed-retention").map_or(usual.feed.retention, |Span(time)| time);
        // The server keeps nothing for less, and nothing for ever would be a second log.
        let times = Duration::from_secs(1)..=Duration::from_hours(24);
        if !times.contains(&retention) {
            flags.faults().add("--feed-retention", "expected a time from 1s to 24h");
        }
        let mut count = |key: &str, usual| flags.optional(key).unwrap_or(usual);
        let most = count("--subscriptions", usual.live.most);
        let most_per_user = count("--subscriptions-per-user", usual.live.most_per_user);
        Self {
            feed: FeedOptions { retention, ..usual.feed },
            live: LiveOptions { most, most_per_user, ..usual.live },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::flags;

    #[test]
    fn what_is_said_is_taken_and_the_rest_is_as_usual() {
        let said = SubscriptionArgs {
            feed_retention: Some("90s".to_owned()),
            subscriptions_per_user: Some("3".to_owned()),
            ..SubscriptionArgs::default()
        };
        let mut settings = flags(said.flags());
        let read = Subscriptions::read(&mut settings);
        assert!(settings.finish(Some(())).is_ok());
        assert_eq!(read.feed.retention, Duration::from_secs(90));
        assert_eq!((read.live.most_per_user, read.live.most), (3, LiveOptions::default().most));
        for bad in ["0s", "25h", "soon"] {
            let said =
                SubscriptionArgs { feed_retention: Some(bad.to_owned()), ..SubscriptionArgs::default() };
            let mut settings = flags(said.flags());
            Subscriptions::read(&mut settings);
            assert!(settings.finish(Some(())).is_err(), "{bad}");
        }
    }
}
