//! How far a projection is, for those who wait for it and those who watch it.

use events::{Context, Position};
use jiff::{SignedDuration, Timestamp};
use std::fmt;

/// How far the read model of a service is in each of its streams.
#[derive(Clone, Debug)]
pub struct Progress {
    /// One entry per stream.
    pub streams: Vec<StreamProgress>,
    /// Why nothing is written at all.
    pub fault: Option<String>,
}

/// How far a read model is in one stream.
#[derive(Clone, Debug)]
pub struct StreamProgress {
    /// Everything up to here is in the tables.
    pub position: Position,
    /// The last sequence known to be in the stream; `None` until the stream could be read.
    pub end: Option<u64>,
    /// Since when the tables are behind the stream: the time of the last event in them.
    pub behind_since: Option<Timestamp>,
    /// Why the stream stands still.
    pub fault: Option<String>,
}

/// How old the oldest event not in the tables may be before the service says that it is not ready.
const LAG_LIMIT: SignedDuration = SignedDuration::from_secs(10);

impl Progress {
    pub(crate) fn new(checkpoints: &[Position]) -> Self {
        let stream = |position: &Position| StreamProgress {
            position: *position,
            end: None,
            behind_since: None,
            fault: None,
        };
        Self { streams: checkpoints.iter().map(stream).collect(), fault: None }
    }

    /// The same streams, read up to here: other tables than before.
    pub(crate) fn reset(&mut self, checkpoints: &[Position]) {
        for &checkpoint in checkpoints {
            if let Some(stream) = self.stream_mut(checkpoint.context) {
                let end = stream.end.map(|end| end.max(checkpoint.sequence));
                *stream = StreamProgress { position: checkpoint, end, behind_since: None, fault: None };
            }
        }
    }

    /// The entry of a stream, where the read model is made of it.
    pub fn stream(&self, context: Context) -> Option<&StreamProgress> {
        self.streams.iter().find(|stream| stream.position.context == context)
    }

    pub(crate) fn stream_mut(&mut self, context: Context) -> Option<&mut StreamProgress> {
        self.streams.iter_mut().find(|stream| stream.position.context == context)
    }

    /// Whether an event is in the tables. `None` when the read model is not made of its stream.
    pub fn has(&self, position: Position) -> Option<bool> {
        self.stream(position.context).map(|stream| stream.position.sequence >= position.sequence)
    }

    /// Whether the tables are as good as up to date; else what is behind and why.
    pub fn check(&self, now: Timestamp) -> Result<(), String> {
        let faults = self.streams.iter().filter_map(|stream| stream.complaint(now));
        let faults: Vec<_> = self.fault.iter().cloned().chain(faults).collect();
        if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
    }
}

impl StreamProgress {
    /// Events of the stream that are not in the tables yet.
    pub fn lag(&self) -> u64 {
        self.end.unwrap_or(0).saturating_sub(self.position.sequence)
    }

    fn complaint(&self, now: Timestamp) -> Option<String> {
        let stream = self.position.context.stream();
        if let Some(fault) = &self.fault {
            return Some(format!("{stream} stands at {}: {fault}", self.position.sequence));
        }
        if self.end.is_none() {
            return Some(format!("{stream} has not been read yet"));
        }
        let late = match self.behind_since {
            Some(since) => now.duration_since(since) > LAG_LIMIT,
            // Just started: how old the first event is will be known when it is read.
            None => self.lag() > 0,
        };
        late.then(|| format!("{stream} is {} events behind", self.lag()))
    }
}

/// The positions, as the header `Waybill-Position` has them.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, stream) in self.streams.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{}", stream.position)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_well_once_read_and_not_far_behind() {
        let now = Timestamp::from_second(1000).unwrap();
        let mut progress = Progress::new(&["ORDERS:4".parse().unwrap()]);
        assert_eq!(progress.check(now), Err("ORDERS has not been read yet".to_owned()));
        progress.streams[0].end = Some(4);
        assert_eq!(progress.check(now), Ok(()));
        progress.streams[0].end = Some(9);
        assert_eq!(progress.check(now), Err("ORDERS is 5 events behind".to_owned()));
        progress.streams[0].behind_since = Some(Timestamp::from_second(991).unwrap());
        assert_eq!(progress.check(now), Ok(()), "that is soon enough");
        progress.streams[0].behind_since = Some(Timestamp::from_second(980).unwrap());
        assert_eq!(progress.check(now), Err("ORDERS is 5 events behind".to_owned()));
        progress.fault = Some("cannot open the database".to_owned());
        let complaint = progress.check(now).unwrap_err();
        assert_eq!(complaint, "cannot open the database; ORDERS is 5 events behind");
        progress.fault = None;
        progress.streams[0].fault = Some("unknown event type x".to_owned());
        assert_eq!(progress.check(now), Err("ORDERS stands at 4: unknown event type x".to_owned()));
    }
}
