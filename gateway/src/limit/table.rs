//! What this gateway knows of its clients: 32 bytes for each, in a table of fixed capacity.
//!
//! The truth is in the shared records, so a client that is evicted costs a round trip when it comes again, and nothing
//! is forgotten. Only while the records cannot be reached the table is all there is; then those who have the least
//! left are kept longest.

use nats::{Known, Lease, QuotaKey};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Clients that share a set, and a lock.
const WAYS: usize = 16;

/// The table. Every set of it is locked by itself, for the time of a look.
#[derive(Debug)]
pub(super) struct Table {
    sets: Box<[Mutex<Vec<Entry>>]>,
    /// What evicted clients have not spent, until it is given back.
    orphans: Mutex<HashMap<Held, u32>>,
}

/// What is known of one client and one window.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: QuotaKey,
    /// When the window ends: milliseconds since 1970.
    ends: i64,
    standing: Standing,
    /// How much this gateway may spend without asking.
    own: u32,
    /// How much is left for everybody, as last heard.
    left: u32,
}

/// How an entry stands to the shared record, in 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing(u64);

impl Standing {
    /// Others may hold some too: the record must be read.
    const SHARED: Self = Self(0);
    /// Everything is spent, by everybody.
    const SPENT: Self = Self(u64::MAX);
    /// Marks what this gateway gave out alone.
    const ALONE: u64 = 1 << 63;

    fn sole(revision: Option<u64>) -> Self {
        revision.filter(|revision| revision & Self::ALONE == 0).map_or(Self::SHARED, Self)
    }

    fn alone(self) -> u32 {
        let alone = self != Self::SPENT && self.0 & Self::ALONE != 0;
        if alone { u32::try_from(self.0 & !Self::ALONE).unwrap_or(u32::MAX) } else { 0 }
    }

    fn one_more_alone(self) -> Self {
        Self(Self::ALONE | (u64::from(self.alone()) + 1))
    }

    fn revision(self) -> Option<u64> {
        (self != Self::SHARED && self.0 & Self::ALONE == 0).then_some(self.0)
    }
}

/// The answer of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) verdict: Verdict,
    /// How much is left, of what is one's own and of what is everybody's.
    pub(super) remaining: u32,
    /// When the window ends: milliseconds since 1970.
    pub(super) ends: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One was spent.
    Admitted,
    /// Everything is spent until the window ends.
    Refused,
    /// Ask for a lease.
    Ask,
}

/// A window of a client of which something may be unspent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Held {
    pub(super) key: QuotaKey,
    /// When the window ends: milliseconds since 1970.
    pub(super) ends: i64,
}

impl Table {
    /// A table for about so many clients. Memory is taken as they come.
    pub(super) fn new(capacity: usize) -> Self {
        let sets = capacity.div_ceil(WAYS).max(1);
        let sets = std::iter::repeat_with(Mutex::default).take(sets).collect();
        Self { sets, orphans: Mutex::default() }
    }

    fn set(&self, key: QuotaKey) -> MutexGuard<'_, Vec<Entry>> {
        // The high bits of key * sets are a number below sets, as evenly spread as the key is.
        let index = (u128::from(key.number()) * self.sets.len() as u128) >> 64;
        let index = usize::try_from(index).unwrap_or_default();
        // Entries are whole between any two statements.
        lock(&self.sets[index])
    }

    /// Spends one, if there is one to spend. The path of almost every request.
    pub(super) fn spend(&self, key: QuotaKey, now: i64) -> Look {
        let mut set = self.set(key);
        let Some(entry) = live(&mut set, key, now) else {
            return Look { verdict: Verdict::Ask, remaining: 0, ends: now };
        };
        let verdict = if entry.own > 0 {
            entry.own -= 1;
            Verdict::Admitted
        } else if entry.standing == Standing::SPENT {
            Verdict::Refused
        } else {
            Verdict::Ask
        };
        entry.look(verdict)
    }

    /// How things stand with a client of whom it is known that everything is spent.
    pub(super) fn spent(&self, key: QuotaKey, now: i64) -> Option<Look> {
        let mut set = self.set(key);
        let entry = live(&mut set, key, now)?;
        let all = entry.standing == Standing::SPENT || entry.standing.alone() > 0;
        (all && entry.own == 0 && entry.left == 0).then(|| entry.look(Verdict::Refused))
    }

    /// Whether there is nothing to spend, and perhaps more to be had.
    pub(super) fn needs_lease(&self, key: QuotaKey, now: i64) -> bool {
        let mut set = self.set(key);
        live(&mut set, key, now).is_none_or(|entry| entry.own == 0 && entry.standing != Standing::SPENT)
    }

    /// Spends one of what is left as last heard, while the records cannot be reached. Says too how much an evicted
    /// client loses, since it cannot be given back.
    pub(super) fn spend_alone(&self, key: QuotaKey, fresh: Look, now: i64) -> (Look, u32) {
        let mut set = self.set(key);
        let mut entry = live(&mut set, key, now).copied().unwrap_or(Entry {
            key,
            ends: fresh.ends,
            standing: Standing::SHARED,
            own: 0,
            left: fresh.remaining,
        });
        let verdict = if entry.own > 0 {
            entry.own -= 1;
            Verdict::Admitted
        } else if entry.left > 0 {
            entry.left -= 1;
            entry.standing = entry.standing.one_more_alone();
            Verdict::Admitted
        } else {
            Verdict::Refused
        };
        let evicted = put(&mut set, entry, now);
        (entry.look(verdict), evicted.map_or(0, |evicted| evicted.own))
    }

    /// What the record has to be told, and what spares reading it.
    pub(super) fn known(&self, key: QuotaKey, quota: u32, now: i64) -> Option<Known> {
        let mut set = self.set(key);
        let entry = live(&mut set, key, now)?;
        Some(Known {
            ends: entry.ends,
            taken: quota.saturating_sub(entry.left),
            alone: entry.standing.alone(),
            sole: entry.standing.revision(),
        })
    }

    /// Adds what a lease brought. Whoever has to make room for it and has something unspent is to be given back.
    pub(super) fn grant(&self, key: QuotaKey, lease: &Lease, now: i64) -> Option<Held> {
        let standing = if lease.granted == 0 && lease.left == 0 && lease.others.is_empty() {
            Standing::SPENT
        } else {
            Standing::sole(lease.sole)
        };
        let (ends, left) = (lease.ends, lease.left);
        let mut set = self.set(key);
        // What is one's own of another window ends with it.
        let own = live(&mut set, key, now).filter(|entry| entry.ends == ends).map_or(0, |entry| entry.own);
        let own = own.saturating_add(lease.granted);
        let evicted = put(&mut set, Entry { key, ends, standing, own, left }, now)?;
        let held = Held { key: evicted.key, ends: evicted.ends };
        // While the set is locked: what is called back is always found in one place or the other.
        let mut orphans = lock(&self.orphans);
        (evicted.own > 0).then(|| {
            *orphans.entry(held).or_default() += evicted.own;
            held
        })
    }

    /// Gives up what is unspent, and says how much it was.
    pub(super) fn surrender(&self, held: Held) -> u32 {
        let mut set = self.set(held.key);
        let orphaned = lock(&self.orphans).remove(&held).unwrap_or(0);
        let entry = set.iter_mut().find(|entry| entry.key == held.key && entry.ends == held.ends);
        orphaned + entry.map_or(0, Entry::surrender)
    }

    /// Where something is unspent.
    pub(super) fn held(&self, now: i64) -> Vec<Held> {
        let mut held: Vec<_> = lock(&self.orphans).keys().copied().collect();
        for set in &self.sets {
            let set = lock(set);
            let entries = set.iter().filter(|entry| entry.own > 0 && entry.ends > now);
            held.extend(entries.map(|entry| Held { key: entry.key, ends: entry.ends }));
        }
        held
    }

    /// Revisions mean nothing any more: the server may have lost the records and count anew.
    pub(super) fn forget_revisions(&self) {
        for set in &self.sets {
            for entry in lock(set).iter_mut().filter(|entry| entry.standing.revision().is_some()) {
                entry.standing = Standing::SHARED;
            }
        }
    }
}

impl Entry {
    fn look(&self, verdict: Verdict) -> Look {
        Look { verdict, remaining: self.own.saturating_add(self.left), ends: self.ends }
    }

    fn surrender(&mut self) -> u32 {
        if self.standing.revision().is_some() {
            self.standing = Standing::SHARED;
        }
        std::mem::take(&mut self.own)
    }
}

/// Whole between any two statements, whatever panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The entry of a key, if its window has not ended.
fn live(set: &mut [Entry], key: QuotaKey, now: i64) -> Option<&mut Entry> {
    set.iter_mut().find(|entry| entry.key == key && entry.ends > now)
}

/// Puts an entry in place of the one with the same key, or of one that has ended, or into a free place, or of the one
/// that has the most left, which comes out.
fn put(set: &mut Vec<Entry>, entry: Entry, now: i64) -> Option<Entry> {
    if let Some(same) = set.iter_mut().find(|other| other.key == entry.key) {
        *same = entry;
        return None;
    }
    if let Some(ended) = set.iter_mut().find(|other| other.ends <= now) {
        *ended = entry;
        return None;
    }
    if set.len() < WAYS {
        // All its places at once: sets that grow leave holes behind that no other set fills.
        if set.is_empty() {
            set.reserve_exact(WAYS);
        }
        set.push(entry);
        return None;
    }
    let victim = set.iter_mut().max_by_key(|other| other.own.saturating_add(other.left))?;
    Some(std::mem::replace(victim, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000;

    fn key(number: usize) -> QuotaKey {
        QuotaKey::new(&[&number.to_be_bytes()])
    }

    fn lease(granted: u32, left: u32, sole: Option<u64>) -> Lease {
        Lease { ends: NOW + 100, granted, left, sole, others: Vec::new() }
    }

    fn spend(table: &Table, key: QuotaKey) -> (Verdict, u32) {
        let look = table.spend(key, NOW);
        (look.verdict, look.remaining)
    }

    #[test]
    fn a_lease_is_spent_one_by_one_and_ends_with_its_window() {
        let table = Table::new(100);
        assert_eq!(spend(&table, key(1)), (Verdict::Ask, 0));
        assert_eq!(table.grant(key(1), &lease(2, 5, Some(3)), NOW), None);
        assert_eq!(spend(&table, key(1)), (Verdict::Admitted, 6));
        assert_eq!(spend(&table, key(1)), (Verdict::Admitted, 5));
        assert_eq!(spend(&table, key(1)), (Verdict::Ask, 5));
        let known = Known { ends: NOW + 100, taken: 5, alone: 0, sole: Some(3) };
        assert_eq!(table.known(key(1), 10, NOW), Some(known));
        table.grant(key(1), &lease(5, 0, None), NOW);
        assert_eq!(table.spend(key(1), NOW + 99).verdict, Verdict::Admitted);
        assert_eq!(table.spend(key(1), NOW + 100).verdict, Verdict::Ask, "the window is over");
        assert_eq!(table.known(key(1), 10, NOW + 100), None);
    }

    #[test]
    fn who_has_spent_everything_is_refused_without_asking() {
        let table = Table::new(100);
        table.grant(key(1), &lease(0, 0, Some(9)), NOW);
        assert_eq!(spend(&table, key(1)), (Verdict::Refused, 0));
        let others = Lease { others: vec!["b".to_owned()], ..lease(0, 0, None) };
        table.grant(key(2), &others, NOW);
        assert_eq!(spend(&table, key(2)), (Verdict::Ask, 0), "others may hold some");
    }

    #[test]
    fn what_is_surrendered_is_not_spent() {
        let table = Table::new(100);
        table.grant(key(1), &lease(4, 5, Some(3)), NOW);
        let held = |ends| Held { key: key(1), ends };
        assert_eq!(table.surrender(held(NOW + 99)), 0, "another window");
        assert_eq!(table.surrender(held(NOW + 100)), 4);
        assert_eq!(spend(&table, key(1)).0, Verdict::Ask);
        assert_eq!(table.known(key(1), 10, NOW).unwrap().sole, None, "the record has changed");
        table.grant(key(1), &lease(3, 5, Some(4)), NOW);
        table.grant(key(2), &lease(0, 5, Some(4)), NOW);
        assert_eq!(table.held(NOW), [held(NOW + 100)]);
        assert_eq!(table.held(NOW + 100), [], "the window is over");
    }

    #[test]
    fn alone_it_counts_to_the_quota_and_remembers_what_it_gave() {
        let table = Table::new(100);
        let fresh = Look { verdict: Verdict::Ask, remaining: 2, ends: NOW + 100 };
        let alone = || table.spend_alone(key(1), fresh, NOW).0;
        assert_eq!((alone().verdict, alone().verdict, alone().verdict), {
            (Verdict::Admitted, Verdict::Admitted, Verdict::Refused)
        });
        let known = table.known(key(1), 2, NOW).unwrap();
        assert_eq!((known.taken, known.alone, known.sole), (2, 2, None));
        table.grant(key(2), &lease(1, 1, Some(7)), NOW);
        for admitted in [Verdict::Admitted, Verdict::Admitted, Verdict::Refused] {
            assert_eq!(table.spend_alone(key(2), fresh, NOW).0.verdict, admitted);
        }
        assert_eq!(table.known(key(2), 2, NOW).unwrap().alone, 1, "one of two was leased");
    }

    #[test]
    fn revisions_are_forgotten_and_nothing_else() {
        let table = Table::new(100);
        table.grant(key(1), &lease(1, 5, Some(3)), NOW);
        table.grant(key(2), &lease(0, 0, Some(3)), NOW);
        table.forget_revisions();
        assert_eq!(table.known(key(1), 10, NOW).unwrap().sole, None);
        assert_eq!(spend(&table, key(1)).0, Verdict::Admitted);
        assert_eq!(spend(&table, key(2)).0, Verdict::Refused);
    }

    #[test]
    fn a_full_table_keeps_those_who_have_the_least_left() {
        let table = Table::new(WAYS);
        for client in 0..WAYS {
            table.grant(key(client), &lease(0, u32::try_from(client).unwrap(), None), NOW);
        }
        table.grant(key(99), &lease(2, 50, None), NOW);
        assert!(table.known(key(WAYS - 1), 100, NOW).is_none(), "it had the most left");
        let held = Held { key: key(99), ends: NOW + 100 };
        assert_eq!(table.grant(key(100), &lease(0, 1, None), NOW), Some(held));
        assert_eq!(table.held(NOW), [held], "it is gone, but not what it held");
        assert_eq!(table.surrender(held), 2);
        assert_eq!(table.held(NOW), []);
        assert!((0..WAYS - 1).all(|client| table.known(key(client), 100, NOW).is_some()));
        // Later the windows have ended, and there is room for all.
        let later = Lease { ends: NOW + 200, ..lease(1, 1, None) };
        assert!((200..200 + WAYS).all(|client| table.grant(key(client), &later, NOW + 100).is_none()));
        assert!((200..200 + WAYS).all(|client| table.known(key(client), 100, NOW + 100).is_some()));
    }

    #[test]
    fn an_entry_is_32_bytes_and_the_table_never_grows_beyond_its_capacity() {
        assert_eq!(size_of::<Entry>(), 32);
        let table = Table::new(1 << 10);
        for client in 0..10_000 {
            table.grant(key(client), &lease(0, 99, None), NOW);
        }
        let (mut entries, mut places) = (0, 0);
        for set in &table.sets {
            let set = set.lock().unwrap();
            entries += set.len();
            places += set.capacity();
        }
        assert_eq!((entries, places), (1 << 10, 1 << 10), "every set is full");
    }
}
