//! Where a client is in a feed: the first part of the `id` of every event, which it gives back to go on there.

use std::{fmt, str::FromStr};

/// A place in a feed: which feed, behind which sequence, and when that was all there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Tells the feed, and the shape of its documents, from others.
    pub(crate) epoch: u64,
    /// Everything up to here is known.
    pub(crate) sequence: u64,
    /// Seconds since 1970.
    pub(crate) time: i64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}-{:x}", self.epoch, self.sequence, self.time)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let mut part = || parts.next().ok_or(());
        let (epoch, sequence, time) = (part()?, part()?, part()?);
        let cursor = Self {
            epoch: u64::from_str_radix(epoch, 16).map_err(|_| ())?,
            sequence: sequence.parse().map_err(|_| ())?,
            time: i64::from_str_radix(time, 16).map_err(|_| ())?,
        };
        // One way of writing each.
        if cursor.to_string() == text { Ok(cursor) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_nothing_else_does() {
        let cursor = Cursor { epoch: 0xabc, sequence: 42, time: 0x10 };
        assert_eq!(cursor.to_string(), "abc-42-10");
        assert_eq!("abc-42-10".parse(), Ok(cursor));
        for bad in ["", "abc", "abc-42", "abc-42-10-1", "ABC-42-10", "abc-042-10", "g-1-1", "-1-1-1"] {
            assert_eq!(bad.parse::<Cursor>(), Err(()), "{bad}");
        }
    }
}
