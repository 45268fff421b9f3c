//! The `id` of every event: a place in the feed, and which documents the client has that the feed tells only behind it.
//!
//! A document is sometimes told before the feed has told everything in it (see [`tail`](super::tail)). Whoever goes on from
//! there would be told the same state once more, with the change that it contained already. So the id names what was told
//! so: the client itself says what it has, to whichever instance it comes.

use super::cursor::Cursor;
use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    str::FromStr,
};

/// Documents named in one id at most, of 25 bytes each; of more than these the oldest may be told twice.
const MOST: usize = 32;

/// What a client that was told a document's end has of it.
pub(crate) const GONE: u64 = 0;

/// Where a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bookmark {
    /// Everything up to here it has.
    pub(crate) cursor: Cursor,
    /// And this.
    pub(crate) ahead: Ahead,
}

/// Documents that a client has as the feed tells them later: their keys and what tells their states apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ahead(Vec<(u32, u64)>);

impl Ahead {
    /// The client has this of it.
    pub(crate) fn note(&mut self, key: &str, digest: u64) {
        self.forget(key);
        if self.0.len() == MOST {
            self.0.remove(0);
        }
        self.0.push((short(key), digest));
    }

    /// What the client has of it is what the feed has told.
    pub(crate) fn forget(&mut self, key: &str) {
        let key = short(key);
        self.0.retain(|(known, _)| *known != key);
    }

    /// Whether the client has just this of it.
    pub(crate) fn has(&self, key: &str, digest: u64) -> bool {
        !self.0.is_empty() && self.0.contains(&(short(key), digest))
    }
}

/// Tells the few keys of one id apart.
fn short(key: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let [a, b, c, d, ..] = hasher.finish().to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

impl fmt::Display for Bookmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cursor.fmt(f)?;
        self.ahead.0.iter().try_for_each(|(key, digest)| write!(f, ".{key:08x}{digest:016x}"))
    }
}

impl FromStr for Bookmark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let cursor = parts.next().ok_or(())?.parse()?;
        let read = |part: &str| {
            let (key, digest) = part.split_at_checked(8).ok_or(())?;
            let key = u32::from_str_radix(key, 16).map_err(|_| ())?;
            Ok((key, u64::from_str_radix(digest, 16).map_err(|_| ())?))
        };
        let ahead = parts.take(MOST + 1).map(read).collect::<Result<Vec<_>, ()>>()?;
        let bookmark = Self { cursor, ahead: Ahead(ahead) };
        // One way of writing each.
        if bookmark.ahead.0.len() <= MOST && bookmark.to_string() == text { Ok(bookmark) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURSOR: Cursor = Cursor { epoch: 0xabc, sequence: 42, time: 0x10 };

    #[test]
    fn bookmarks_read_back_and_nothing_else_does() {
        let mut bookmark = Bookmark { cursor: CURSOR, ahead: Ahead::default() };
        assert_eq!(bookmark.to_string(), "abc-42-10");
        assert_eq!("abc-42-10".parse(), Ok(bookmark.clone()));
        bookmark.ahead.note("a", 7);
        bookmark.ahead.note("b", u64::MAX);
        let text = bookmark.to_string();
        assert_eq!(text.len(), "abc-42-10".len() + 2 * 25);
        assert_eq!(text.parse(), Ok(bookmark));
        let long = format!("abc-42-10{}", ".0000000000000000000000ab".repeat(MOST + 1));
        for bad in
            ["", ".", "abc-42-10.", "abc-42-10.1", &text[..text.len() - 1], &text.to_uppercase(), &long]
        {
            assert_eq!(bad.parse::<Bookmark>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn a_state_that_comes_back_is_told_when_another_was_told_between() {
        let mut ahead = Ahead::default();
        ahead.note("a", 1);
        assert!(ahead.has("a", 1) && !ahead.has("a", 2) && !ahead.has("b", 1));
        // Another state, ahead or not, is what the client has then.
        ahead.note("a", 2);
        assert!(!ahead.has("a", 1) && ahead.has("a", 2));
        ahead.forget("a");
        assert!(!ahead.has("a", 1) && !ahead.has("a", 2));
    }

    #[test]
    fn an_id_does_not_grow_without_end() {
        let mut ahead = Ahead::default();
        for number in 0..2 * MOST as u64 {
            ahead.note(&number.to_string(), number);
        }
        assert_eq!(ahead.0.len(), MOST);
        assert!(ahead.has("40", 40) && !ahead.has("3", 3));
    }
}
