//! Whether something failed because of NATS.

use crate::{
    AppendError, BucketError, ConnectError, ConsumerError, FeedError, KeyError, KeyRingError, LedgerError,
    LoadError, ParkingError, RawError, ReadModelsError, RelayError, ReplayError, TopologyError,
    restore::RestoreError,
};
use std::error::Error;

/// Whether an error is one of NATS, or was caused by one.
pub fn is_of_nats(error: &(dyn Error + 'static)) -> bool {
    is_one(error) || error.source().is_some_and(is_of_nats)
}

fn is_one(error: &(dyn Error + 'static)) -> bool {
    error.is::<AppendError>()
        || error.is::<BucketError>()
        || error.is::<ConnectError>()
        || error.is::<ConsumerError>()
        || error.is::<FeedError>()
        || matches!(error.downcast_ref(), Some(KeyError::Away(_)))
        || matches!(error.downcast_ref(), Some(KeyRingError::Topology(_) | KeyRingError::Away(_)))
        || error.is::<LedgerError>()
        || error.is::<LoadError>()
        || error.is::<ParkingError>()
        || error.is::<RawError>()
        || error.is::<ReadModelsError>()
        || error.is::<RelayError>()
        || error.is::<ReplayError>()
        || error.is::<RestoreError>()
        || error.is::<TopologyError>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("what was tried")]
    struct Because(#[source] Box<dyn Error + Send + Sync>);

    #[test]
    fn whatever_caused_it_counts_and_a_file_does_not() {
        let nats: [Box<dyn Error + Send + Sync>; 3] = [
            Box::new(AppendError::Unknown),
            Box::new(ParkingError::from(AppendError::Unknown)),
            Box::new(ConnectError::NoJetStream { url: String::new() }),
        ];
        for error in nats {
            assert!(is_of_nats(&*error), "{error}");
            assert!(is_of_nats(&Because(error)));
        }
        let file = io::Error::other("no such file");
        assert!(!is_of_nats(&file));
        assert!(!is_of_nats(&Because(Box::new(file))));
        assert!(!is_of_nats(&KeyError::Erased(events::UserId::new(uuid::Uuid::nil()))));
    }
}
