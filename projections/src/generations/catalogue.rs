//! Which generations of a read model there are, as a document: what may become of it is decided here, without a database.
//! It is kept beside the tables and changed by compare-and-set, so that every process decides on what is.

use crate::{View, database::DatabaseError};
use events::Position;
use jiff::Timestamp;
use nats::{Build, Generation, Refused, State};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The version of this form of the document.
const FORMAT: u32 = 1;

/// The generations of the read model of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Catalogue {
    format: u32,
    /// The number of the next generation.
    next: u32,
    /// Sequence in the stream of operations of the last request that was seen to.
    pub(crate) asked: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<Refused>,
    /// The oldest first.
    pub(crate) generations: Vec<Entry>,
    /// Those whose tables are still to be removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) dropped: Vec<u32>,
}

/// One generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    #[serde(flatten)]
    pub(crate) shown: Generation,
    /// Where the other tables stood when they were copied, where one is built again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) copied: Option<Vec<Position>>,
    /// It is about to take over: the commits of the live generation are closed with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) closing: Option<u64>,
    /// Who builds it, or keeps it up to date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lease: Option<Lease>,
}

/// A process that works on a generation. Whoever sees the same beat for too long may take its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) holder: Uuid,
    pub(crate) beat: u64,
}

/// The declaration that this program has.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    /// The same for the same declaration.
    pub(crate) model: String,
    pub(crate) version: u32,
    tables: Vec<&'static str>,
}

/// What is to be built.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) table: Option<String>,
    pub(crate) since: Vec<Position>,
    pub(crate) asked: Option<u64>,
}

impl Own {
    /// That of tables from before there were generations.
    pub(crate) fn before() -> Self {
        Self { model: "before".to_owned(), version: 0, tables: vec![] }
    }

    pub(crate) fn of(view: &View) -> Self {
        let tables = view.tables.iter().map(|table| table.name).collect();
        Self { model: view.fingerprint(), version: view.version, tables }
    }
}

impl Catalogue {
    /// That of a service which has no tables yet: the first generation serves at once, and catches up.
    pub(crate) fn first(own: &Own, number: u32, asked: u64, now: Timestamp) -> Self {
        let mut first =
            Self { format: FORMAT, next: number, asked, refused: None, generations: vec![], dropped: vec![] };
        first.add(own, Wanted::default(), now);
        first.generations[0].shown.state = State::Live;
        first.generations[0].shown.served = Some(now);
        first
    }

    /// Reads what [`Self::text`] wrote. Whatever a newer program wrote is refused.
    pub(crate) fn read(text: &str) -> Result<Self, DatabaseError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let unreadable = |error| DatabaseError::new("read the catalogue of generations", error);
        let Format { format } = serde_json::from_str(text).map_err(unreadable)?;
        if format > FORMAT {
            let why = format!("it is of format {format}, this program knows {FORMAT}: run the newer program");
            return Err(DatabaseError::new("read the catalogue of generations", why));
        }
        serde_json::from_str(text).map_err(unreadable)
    }

    pub(crate) fn text(&self) -> Result<String, DatabaseError> {
        serde_json::to_string(self)
            .map_err(|error| DatabaseError::new("write the catalogue of generations", error))
    }

    pub(crate) fn find(&self, number: u32) -> Option<&Entry> {
        self.generations.iter().find(|entry| entry.shown.number == number)
    }

    fn find_mut(&mut self, number: u32) -> Option<&mut Entry> {
        self.generations.iter_mut().find(|entry| entry.shown.number == number)
    }

    /// The one that serves.
    pub(crate) fn live(&self) -> Option<&Entry> {
        self.generations.iter().find(|entry| entry.shown.state == State::Live)
    }

    /// The one that this program builds.
    pub(crate) fn building(&self, own: &Own) -> Option<&Entry> {
        self.of(own).find(|entry| entry.shown.state == State::Building)
    }

    fn of<'a>(&'a self, own: &Own) -> impl DoubleEndedIterator<Item = &'a Entry> + use<'a> {
        let model = own.model.clone();
        self.generations.iter().filter(move |entry| entry.shown.model == model)
    }

    /// The one that this program serves: the live one if it is of its declaration, else one that was. Where there is none,
    /// nothing can be answered until one is built.
    pub(crate) fn serves(&self, own: &Own) -> Option<u32> {
        let live = self.of(own).find(|entry| entry.shown.state == State::Live);
        // A kept one that is built further has served before.
        let kept = || self.of(own).rev().find(|entry| entry.shown.served.is_some());
        live.or_else(kept).map(|entry| entry.shown.number)
    }

    fn add(&mut self, own: &Own, Wanted { table, since, asked }: Wanted, begun: Timestamp) -> u32 {
        let (number, model, version) = (self.next, own.model.clone(), own.version);
        self.next += 1;
        let (state, served, mark, build) = (State::Building, None, vec![], None);
        let shown =
            Generation { number, state, model, version, table, since, asked, begun, served, mark, build };
        self.generations.push(Entry { shown, copied: None, closing: None, lease: None });
        number
    }

    /// Sees to it that there is a generation of the program's declaration, now or later. `fresh`: the program has just
    /// started, and what was started last is what serves; `alone`: nobody keeps the live generation up to date.
    pub(crate) fn ensure(
        &mut self,
        own: &Own,
        fresh: bool,
        alone: bool,
        now: Timestamp,
    ) -> Result<(), DatabaseError> {
        let Some(live) = self.live() else { return Ok(()) };
        let (version, ours) = (live.shown.version, live.shown.model == own.model);
        if ours || self.building(own).is_some() {
            return Ok(());
        }
        let Some(number) = self.serves(own) else {
            if version > own.version {
                let why = format!(
                    "it is of version {version}, this program knows {}: run the newer program",
                    own.version
                );
                return Err(DatabaseError::new("serve the read model", why));
            }
            self.add(own, Wanted::default(), now);
            return Ok(());
        };
        if (fresh && own.version >= version) || alone {
            self.revive(number, None);
        }
        Ok(())
    }

    /// Begins a generation beside the live one.
    pub(crate) fn begin(&mut self, own: &Own, wanted: Wanted, now: Timestamp) -> Result<u32, String> {
        self.may_change(own)?;
        if let Some(table) = &wanted.table
            && !own.tables.contains(&table.as_str())
        {
            return Err(format!("there is no model {table}: expected {}", own.tables.join(", ")));
        }
        if wanted.table.is_some() && !wanted.since.is_empty() {
            return Err("one model alone cannot begin later than the others".to_owned());
        }
        Ok(self.add(own, wanted, now))
    }

    /// Gives up what is being built.
    pub(crate) fn cancel(&mut self) -> Result<(), String> {
        let live = self.live().map(|live| live.shown.model.clone());
        let place = self.generations.iter().position(|entry| entry.shown.state == State::Building);
        let Some(place) = place else { return Err("nothing is being built".to_owned()) };
        let entry = &mut self.generations[place];
        if live.as_ref() != Some(&entry.shown.model) {
            return Err("it is built because the program has changed, which cannot be called off".to_owned());
        }
        if entry.shown.served.is_some() {
            (entry.shown.state, entry.closing, entry.lease) = (State::Kept, None, None);
            entry.shown.build = None;
        } else {
            self.dropped.push(entry.shown.number);
            self.generations.remove(place);
        }
        Ok(())
    }

    /// Has the generation brought up to date and switched to that served before.
    pub(crate) fn roll_back(&mut self, own: &Own, asked: u64) -> Result<(), String> {
        self.may_change(own)?;
        let kept = self.generations.iter().rev().find(|entry| entry.shown.state == State::Kept);
        let kept = kept.ok_or("no generation is kept")?;
        if kept.shown.model != own.model {
            return Err("the kept generation is of another version of the program: start that one".to_owned());
        }
        let number = kept.shown.number;
        self.revive(number, Some(asked));
        Ok(())
    }

    /// Keeps no generation but the live one and one that is being built.
    pub(crate) fn drop_kept(&mut self) -> Result<(), String> {
        let before = self.generations.len();
        self.forget(|entry| entry.shown.state == State::Kept);
        if self.generations.len() == before { Err("no generation is kept".to_owned()) } else { Ok(()) }
    }

    fn may_change(&self, own: &Own) -> Result<(), String> {
        if self.live().is_none_or(|live| live.shown.model != own.model) {
            return Err("the live generation is of another version of the program".to_owned());
        }
        match self.generations.iter().find(|entry| entry.shown.state == State::Building) {
            Some(entry) => Err(format!("generation {} is being built", entry.shown.number)),
            None => Ok(()),
        }
    }

    fn revive(&mut self, number: u32, asked: Option<u64>) {
        if let Some(entry) = self.find_mut(number) {
            (entry.shown.state, entry.shown.asked) = (State::Building, asked.or(entry.shown.asked));
            (entry.lease, entry.closing) = (None, None);
        }
    }

    fn forget(&mut self, which: impl Fn(&Entry) -> bool) {
        self.dropped.extend(self.generations.iter().filter(|entry| which(entry)).map(|e| e.shown.number));
        self.generations.retain(|entry| !which(entry));
    }

    /// Works on a generation for another while, with how far it is. False where it is gone, or somebody else's whose
    /// lease is not the one that was `seen` for too long.
    pub(crate) fn hold(
        &mut self,
        number: u32,
        holder: Uuid,
        seen: Option<Lease>,
        build: Option<Build>,
    ) -> bool {
        let Some(entry) = self.find_mut(number) else { return false };
        let mine = entry.lease.is_none_or(|lease| lease.holder == holder || Some(lease) == seen);
        if mine {
            let beat = entry.lease.map_or(0, |lease| lease.beat) + 1;
            entry.lease = Some(Lease { holder, beat });
            entry.shown.build = build;
        }
        mine
    }

    /// Notes where the other tables stood when they were copied.
    pub(crate) fn copied(&mut self, number: u32, at: Vec<Position>) {
        if let Some(entry) = self.find_mut(number) {
            entry.copied = Some(at);
        }
    }

    /// Whoever builds a generation is about to switch to it.
    pub(crate) fn close(&mut self, number: u32, holder: Uuid, token: u64) -> bool {
        let mine = |lease: Lease| lease.holder == holder;
        match self.find_mut(number) {
            Some(entry) if entry.shown.state == State::Building && entry.lease.is_some_and(mine) => {
                entry.closing = Some(token);
                true
            }
            _ => false,
        }
    }

    /// The switch closed with this token is off. False where it was made, or is off already.
    pub(crate) fn reopen(&mut self, token: u64) -> bool {
        let entry = self.generations.iter_mut().find(|entry| entry.closing == Some(token));
        entry.and_then(|entry| entry.closing.take()).is_some()
    }

    /// Switches, unless that is off: from then on this generation serves, the one before is kept, and none before that.
    /// Gives the number of the one before.
    pub(crate) fn switch(
        &mut self,
        number: u32,
        token: u64,
        mark: Vec<Position>,
        now: Timestamp,
    ) -> Option<u32> {
        let previous = self.live()?.shown.number;
        if self.find(number)?.closing != Some(token) {
            return None;
        }
        self.forget(|entry| entry.shown.state == State::Kept);
        let live = self.find_mut(previous)?;
        (live.shown.state, live.lease) = (State::Kept, None);
        let entry = self.find_mut(number)?;
        (entry.shown.state, entry.shown.served, entry.shown.mark) = (State::Live, Some(now), mark);
        (entry.closing, entry.shown.build, entry.lease) = (None, None, None);
        Some(previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(model: &str, version: u32) -> Own {
        Own { model: model.to_owned(), version, tables: vec!["orders", "progress"] }
    }

    fn now() -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    const ME: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn states(catalogue: &Catalogue) -> Vec<(u32, State)> {
        catalogue.generations.iter().map(|entry| (entry.shown.number, entry.shown.state)).collect()
    }

    /// Builds and switches to what is being built.
    fn switched(catalogue: &mut Catalogue, own: &Own, token: u64) -> u32 {
        let number = catalogue.building(own).unwrap().shown.number;
        assert!(catalogue.hold(number, ME, None, None) && catalogue.close(number, ME, token));
        catalogue.switch(number, token, vec![], now()).unwrap()
    }

    #[test]
    fn what_was_built_serves_the_one_before_is_kept_and_comes_back() {
        let own = own("a", 1);
        let mut catalogue = Catalogue::first(&own, 1, 0, now());
        assert_eq!(catalogue.serves(&own), Some(1));
        assert_eq!(catalogue.begin(&own, Wanted::default(), now()), Ok(2));
        assert!(catalogue.begin(&own, Wanted::default(), now()).is_err(), "one at a time");
        assert_eq!((catalogue.serves(&own), switched(&mut catalogue, &own, 7)), (Some(1), 1));
        assert_eq!(states(&catalogue), [(1, State::Kept), (2, State::Live)]);
        catalogue.roll_back(&own, 9).unwrap();
        assert_eq!(catalogue.serves(&own), Some(2), "until it has caught up");
        switched(&mut catalogue, &own, 8);
        assert_eq!(states(&catalogue), [(1, State::Live), (2, State::Kept)]);
        catalogue.begin(&own, Wanted::default(), now()).unwrap();
        switched(&mut catalogue, &own, 9);
        assert_eq!(states(&catalogue), [(1, State::Kept), (3, State::Live)]);
        assert_eq!(catalogue.dropped, [2]);
        catalogue.drop_kept().unwrap();
        assert!(catalogue.drop_kept().is_err() && catalogue.roll_back(&own, 9).is_err());
        assert_eq!(Catalogue::read(&catalogue.text().unwrap()).unwrap(), catalogue);
    }

    #[test]
    fn a_switch_that_is_off_is_not_made_and_one_that_was_made_is_not_taken_back() {
        let own = own("a", 1);
        let mut catalogue = Catalogue::first(&own, 1, 0, now());
        catalogue.begin(&own, Wanted::default(), now()).unwrap();
        assert!(catalogue.hold(2, ME, None, None) && !catalogue.hold(2, OTHER, None, None));
        assert!(!catalogue.close(2, OTHER, 5) && catalogue.close(2, ME, 5));
        assert!(catalogue.reopen(5) && !catalogue.reopen(5));
        assert_eq!(catalogue.switch(2, 5, vec![], now()), None);
        let seen = catalogue.find(2).unwrap().lease;
        assert!(catalogue.hold(2, OTHER, seen, None), "whoever stands still is replaced");
        assert!(
            !catalogue.hold(2, ME, None, None) && !catalogue.close(2, ME, 6) && catalogue.close(2, OTHER, 6)
        );
        assert_eq!(catalogue.switch(2, 6, vec![], now()), Some(1));
        assert!(!catalogue.reopen(6));
    }

    #[test]
    fn changed_code_builds_its_own_and_the_old_goes_on_with_its_own() {
        let (old, new) = (own("a", 1), own("b", 1));
        let mut catalogue = Catalogue::first(&old, 1, 0, now());
        catalogue.ensure(&new, true, false, now()).unwrap();
        catalogue.ensure(&new, true, false, now()).unwrap();
        assert_eq!(states(&catalogue), [(1, State::Live), (2, State::Building)]);
        assert_eq!((catalogue.serves(&old), catalogue.serves(&new)), (Some(1), None));
        assert!(catalogue.cancel().is_err(), "the new program cannot do without it");
        switched(&mut catalogue, &new, 5);
        catalogue.ensure(&old, false, false, now()).unwrap();
        assert_eq!((catalogue.serves(&old), catalogue.serves(&new)), (Some(1), Some(2)));
        assert_eq!(states(&catalogue), [(1, State::Kept), (2, State::Live)]);
        catalogue.ensure(&old, false, true, now()).unwrap();
        assert_eq!(states(&catalogue)[0], (1, State::Building), "the new program is gone");
        switched(&mut catalogue, &old, 6);
        catalogue.ensure(&new, true, false, now()).unwrap();
        switched(&mut catalogue, &new, 7);
        assert_eq!(states(&catalogue), [(1, State::Kept), (2, State::Live)]);
    }

    #[test]
    fn what_is_newer_than_the_program_is_refused_unless_it_has_a_generation_of_its_own() {
        let (old, new) = (own("a", 1), own("b", 2));
        let mut catalogue = Catalogue::first(&new, 1, 0, now());
        let refused = catalogue.ensure(&old, true, false, now()).unwrap_err();
        let why = std::error::Error::source(&refused).unwrap().to_string();
        assert!(why.contains("version 2, this program knows 1"), "{why}");
        let mut catalogue = Catalogue::first(&old, 1, 0, now());
        catalogue.ensure(&new, true, false, now()).unwrap();
        switched(&mut catalogue, &new, 5);
        catalogue.ensure(&old, true, false, now()).unwrap();
        assert_eq!(
            states(&catalogue),
            [(1, State::Kept), (2, State::Live)],
            "it serves its own, and no more"
        );
        let text = catalogue.text().unwrap().replace("\"format\":1", "\"format\":2");
        let refused = Catalogue::read(&text).unwrap_err();
        let why = std::error::Error::source(&refused).unwrap().to_string();
        assert!(why.contains("format 2, this program knows 1"), "{why}");
    }

    #[test]
    fn requests_that_make_no_sense_are_refused_with_a_reason() {
        let (own, other) = (own("a", 1), own("b", 1));
        let mut catalogue = Catalogue::first(&own, 1, 0, now());
        let wanted = Wanted { table: Some("carts".to_owned()), ..Wanted::default() };
        assert_eq!(
            catalogue.begin(&own, wanted, now()).unwrap_err(),
            "there is no model carts: expected orders, progress"
        );
        assert!(catalogue.begin(&other, Wanted::default(), now()).is_err());
        assert_eq!(catalogue.cancel().unwrap_err(), "nothing is being built");
        catalogue.begin(&own, Wanted::default(), now()).unwrap();
        catalogue.cancel().unwrap();
        assert_eq!((states(&catalogue), &catalogue.dropped[..]), (vec![(1, State::Live)], &[2][..]));
        assert_eq!(catalogue.begin(&own, Wanted::default(), now()), Ok(3), "no number twice");
    }
}
