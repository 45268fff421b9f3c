//! Whether a consumer on the server is what [`Consumer`](super::Consumer) would make.

use super::{ACK_WAIT, IN_DELIVERY, IN_FLIGHT};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, Info};

/// Setting by setting, what it is and what it has to be.
pub(crate) fn weaknesses(info: &Info) -> Vec<String> {
    let config = &info.config;
    let mut found = Vec::new();
    let mut check = |holds: bool, what: String| {
        if !holds {
            found.push(what);
        }
    };
    let explicit = config.ack_policy == AckPolicy::Explicit;
    check(explicit, format!("ack_policy is {:?}, needs Explicit", config.ack_policy));
    let again = config.max_deliver <= 0;
    check(again, format!("max_deliver is {}, needs no limit: messages would be skipped", config.max_deliver));
    let waits = config.ack_wait >= ACK_WAIT;
    check(waits, format!("ack_wait is {:?}, needs {ACK_WAIT:?}", config.ack_wait));
    // Those that tell the world outside begin with what comes after they were made; no others do.
    let needed = if config.deliver_policy == DeliverPolicy::New { IN_DELIVERY } else { IN_FLIGHT };
    let room = config.max_ack_pending <= 0 || config.max_ack_pending >= needed;
    check(room, format!("max_ack_pending is {}, needs {needed}", config.max_ack_pending));
    let stays = config.inactive_threshold.is_zero();
    check(
        stays,
        format!("inactive_threshold is {:?}, needs none: it would be forgotten", config.inactive_threshold),
    );
    check(!config.memory_storage, "memory_storage is set, needs a file".to_owned());
    check(!info.paused, "it is paused".to_owned());
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::jetstream::consumer::Config;
    use std::time::Duration;

    #[test]
    fn what_would_skip_or_forget_is_named() {
        let info = |config: Config| -> Info {
            let sequence = serde_json::json!({ "consumer_seq": 0, "stream_seq": 0 });
            serde_json::from_value(serde_json::json!({
                "stream_name": "S", "name": "d", "created": "2026-01-01T00:00:00Z", "config": config,
                "delivered": sequence, "ack_floor": sequence, "num_ack_pending": 0, "num_redelivered": 0,
                "num_waiting": 0, "num_pending": 0,
            }))
            .unwrap()
        };
        let good = Config { ack_wait: ACK_WAIT, max_ack_pending: IN_FLIGHT, ..Config::default() };
        assert!(weaknesses(&info(good.clone())).is_empty());
        let telling =
            Config { deliver_policy: DeliverPolicy::New, max_ack_pending: IN_DELIVERY, ..good.clone() };
        assert!(weaknesses(&info(telling.clone())).is_empty());
        let narrow = Config { max_ack_pending: IN_FLIGHT, ..telling };
        assert_eq!(weaknesses(&info(narrow)), ["max_ack_pending is 1024, needs 4096"]);
        let bad = Config {
            ack_policy: AckPolicy::None,
            max_deliver: 5,
            ack_wait: Duration::from_secs(1),
            max_ack_pending: 1,
            inactive_threshold: Duration::from_mins(1),
            memory_storage: true,
            ..good
        };
        let found = weaknesses(&info(bad)).join("; ");
        for setting in [
            "ack_policy",
            "max_deliver",
            "ack_wait",
            "max_ack_pending",
            "inactive_threshold",
            "memory_storage",
        ] {
            assert!(found.contains(setting), "{setting} is missing in {found}");
        }
    }
}
