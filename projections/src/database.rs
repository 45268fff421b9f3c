//! The seam between read models and their database: what is particular to one is in the module that has its name.
//!
//! Queries are written once. A connection sees exactly one set of tables, so that SQL names them as they are declared; and
//! what it says means the same on every database.

mod generation;
mod moment;
mod row;
mod sqlite;

pub(crate) use generation::Shelf;
pub use moment::{Difference, Disagreement, Moment};
pub use row::{Row, Stored};

use crate::{change::Changes, table::Value, view::View};
use events::{Context, Position, Subject};
use std::{collections::HashSet, path::PathBuf};

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct DatabaseError {
    action: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl DatabaseError {
    pub(crate) fn new(
        action: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { action, source: source.into() }
    }
}

/// Where the read models of a service are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// On SQLite, in files in this folder.
    Sqlite(PathBuf),
}

/// What came of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Changes and checkpoints are in the database.
    Done,
    /// Somebody else moved a checkpoint meanwhile. Nothing was written.
    Lost,
}

/// Moves the checkpoint of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Whose stream.
    pub context: Context,
    /// Where the checkpoint has to be.
    pub from: u64,
    /// Where it goes.
    pub to: u64,
}

/// The events of an aggregate that wait, from one on that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The aggregate.
    pub subject: Subject,
    /// Sequence of the event that could not be read.
    pub sequence: u64,
    /// Why.
    pub error: String,
    /// Up to where in the stream of operations it was looked at what operators ask for.
    pub asked: u64,
}

/// What a batch passes over.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// Aggregates that waited before it and have events in it.
    pub(crate) held: HashSet<Subject>,
    /// Aggregates that begin to wait in it.
    pub(crate) parked: Vec<Parked>,
}

/// The database of one service, for reading. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Database(Reading);

#[derive(Clone, Debug)]
enum Reading {
    Sqlite(sqlite::Database),
}

/// The one connection that writes. Who holds it need not be alone: commits compare and set the checkpoint.
#[derive(Debug)]
pub struct Writer(Writing);

#[derive(Debug)]
enum Writing {
    Sqlite(sqlite::Writer),
}

impl Database {
    /// Opens this generation of the tables of `view`, or creates it. An error where it is one of another version of the
    /// program.
    pub async fn open(
        storage: &Storage,
        view: &'static View,
        generation: u32,
    ) -> Result<Self, DatabaseError> {
        Ok(Self(match storage {
            Storage::Sqlite(folder) => {
                Reading::Sqlite(sqlite::Database::open(folder, view, generation, None).await?)
            }
        }))
    }

    /// A connection that writes. An error when the tables are by now those of another version of the program.
    pub async fn writer(&self) -> Result<Writer, DatabaseError> {
        Ok(Writer(match &self.0 {
            Reading::Sqlite(database) => Writing::Sqlite(database.writer().await?),
        }))
    }

    /// Every row that a query finds. Parameters are written `$1`, `$2`, …
    pub async fn rows(&self, sql: &'static str, values: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        match &self.0 {
            Reading::Sqlite(database) => database.rows(sql, values).await,
        }
    }

    /// The one row that a query finds, if there is one.
    pub async fn row(&self, sql: &'static str, values: Vec<Value>) -> Result<Option<Row>, DatabaseError> {
        match &self.0 {
            Reading::Sqlite(database) => database.row(sql, values).await,
        }
    }

    /// The tables as they are now.
    pub async fn moment(&self) -> Result<Moment, DatabaseError> {
        match &self.0 {
            Reading::Sqlite(database) => database.moment().await,
        }
    }

    /// Lets go of its connections.
    pub async fn close(&self) {
        match &self.0 {
            Reading::Sqlite(database) => database.close().await,
        }
    }
}

impl Writer {
    /// Up to where each stream of the view is in the tables.
    pub async fn checkpoints(&mut self) -> Result<Vec<Position>, DatabaseError> {
        match &mut self.0 {
            Writing::Sqlite(writer) => writer.checkpoints().await,
        }
    }

    /// Writes changes and moves checkpoints, all or nothing. Checkpoints go first: who loses has written nothing yet.
    pub async fn commit(&mut self, changes: Changes, moves: &[Move]) -> Result<Commit, DatabaseError> {
        self.commit_past(changes, moves, &Past::default()).await
    }

    /// The same, past events that wait.
    pub(crate) async fn commit_past(
        &mut self,
        changes: Changes,
        moves: &[Move],
        past: &Past,
    ) -> Result<Commit, DatabaseError> {
        match &mut self.0 {
            Writing::Sqlite(writer) => writer.commit(changes, moves, past).await,
        }
    }

    /// Everything that waits.
    pub async fn parked(&mut self) -> Result<Vec<Parked>, DatabaseError> {
        match &mut self.0 {
            Writing::Sqlite(writer) => writer.parked().await,
        }
    }

    /// Applies what waited and ends its record, or moves it to `after`, all or nothing. Lost where the record or the
    /// checkpoint is no longer the one that was read.
    pub async fn bring_back(
        &mut self,
        changes: Changes,
        checkpoint: Position,
        parked: &Parked,
        after: Option<&Parked>,
    ) -> Result<Commit, DatabaseError> {
        match &mut self.0 {
            Writing::Sqlite(writer) => writer.bring_back(changes, checkpoint, parked, after).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Key, Table, Type};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use utoipa_axum::router::OpenApiRouter;

    const THINGS: Table = Table {
        name: "things",
        key: &[("id", Type::Int), ("kind", Type::Text)],
        columns: &[("a", Type::Int), ("b", Type::Int), ("note", Type::Text)],
        indexes: &[&["note", "a"]],
    };

    const CHANGED: Table =
        Table { columns: &[("a", Type::Int), ("b", Type::Int), ("note", Type::Int)], ..THINGS };

    const fn view(tables: &'static [&'static Table]) -> View {
        View {
            name: "things",
            version: 1,
            tables,
            aggregates: &[events::Aggregate::Order, events::Aggregate::Payment],
            project: |_, _| (),
            routes: OpenApiRouter::new,
            live: crate::Live::NOTHING,
        }
    }

    static OLD: View = view(&[&THINGS]);
    static NEW: View = view(&[&CHANGED]);

    fn storage(folder: &tempfile::TempDir) -> Storage {
        Storage::Sqlite(folder.path().to_owned())
    }

    fn step(from: u64, to: u64) -> [Move; 1] {
        [Move { context: Context::Orders, from, to }]
    }

    fn thing(id: i64, note: &'static str) -> Changes {
        let mut changes = Changes::default();
        changes.upsert(&THINGS, [id.into(), "x".into()], [(0, id.into()), (2, note.into())]);
        changes
    }

    async fn notes(database: &Database) -> Vec<Option<String>> {
        let rows = database.rows("SELECT note FROM things ORDER BY id, kind", Vec::new()).await.unwrap();
        rows.iter().map(|row| row.find("note").unwrap()).collect()
    }

    #[tokio::test]
    async fn of_two_writers_at_one_checkpoint_one_wins_and_the_other_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&storage(&folder), &OLD, 1).await.unwrap();
        let (mut one, mut two) = (database.writer().await.unwrap(), database.writer().await.unwrap());
        assert_eq!(one.commit(thing(1, "one"), &step(0, 5)).await.unwrap(), Commit::Done);
        assert_eq!(two.commit(thing(1, "two"), &step(0, 4)).await.unwrap(), Commit::Lost);
        assert_eq!(notes(&database).await, [Some("one".to_owned())]);
        assert_eq!(two.checkpoints().await.unwrap()[0].to_string(), "ORDERS:5");
        assert_eq!(two.commit(thing(2, "two"), &step(5, 6)).await.unwrap(), Commit::Done);
        assert_eq!(notes(&database).await.len(), 2);
    }

    #[tokio::test]
    async fn a_generation_belongs_to_one_declaration_and_takes_no_commits_while_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let storage = storage(&folder);
        let old = Database::open(&storage, &OLD, 1).await.unwrap();
        let mut writer = old.writer().await.unwrap();
        writer.commit(thing(1, "{}"), &step(0, 5)).await.unwrap();
        let again = Database::open(&storage, &OLD, 1).await.unwrap();
        assert_eq!(notes(&again).await.len(), 1, "an unchanged one stays");
        assert!(Database::open(&storage, &NEW, 1).await.is_err(), "another is refused");
        assert_eq!(notes(&Database::open(&storage, &NEW, 2).await.unwrap()).await.len(), 0);

        let closed = storage.close("things", 1, 7).await.unwrap();
        assert_eq!(closed[0].to_string(), "ORDERS:5");
        assert_eq!(writer.commit(thing(2, "{}"), &step(5, 6)).await.unwrap(), Commit::Lost);
        assert!(writer.is_closed().await.unwrap());
        storage.reopen("things", 1, Some(8)).await.unwrap();
        assert_eq!(storage.closed("things", 1).await.unwrap(), Some(7), "that was another switch");
        storage.reopen("things", 1, Some(7)).await.unwrap();
        assert_eq!(writer.commit(thing(2, "{}"), &step(5, 6)).await.unwrap(), Commit::Done);
        storage.remove("things", 1).await.unwrap();
        assert_eq!(notes(&old).await.len(), 2, "whoever has it open reads on");
        assert_eq!(notes(&Database::open(&storage, &OLD, 1).await.unwrap()).await.len(), 0);
    }

    #[tokio::test]
    async fn a_build_begins_where_it_is_told_and_makes_its_indexes_when_it_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let storage = storage(&folder);
        let since = ["ORDERS:5".parse().unwrap()];
        let database = Database::build(&storage, &OLD, 1, &since).await.unwrap();
        let mut writer = database.writer().await.unwrap();
        assert_eq!(writer.checkpoints().await.unwrap()[0].to_string(), "ORDERS:4");
        assert_eq!(database.moment().await.unwrap().since().await.unwrap(), since);
        let indexes = async || {
            let sql = "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL";
            database.rows(sql, vec![]).await.unwrap().len()
        };
        assert_eq!(indexes().await, 0);
        writer.finish().await.unwrap();
        writer.finish().await.unwrap();
        assert_eq!(indexes().await, 1);
    }

    #[tokio::test]
    async fn a_digest_is_the_same_for_the_same_rows_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let storage = storage(&folder);
        let digest = async |number, changes: Vec<Changes>| {
            let database = Database::open(&storage, &OLD, number).await.unwrap();
            for changes in changes {
                database.writer().await.unwrap().commit(changes, &[]).await.unwrap();
            }
            database.moment().await.unwrap().digest().await.unwrap()
        };
        let one = digest(1, vec![thing(1, "a"), thing(2, "b")]).await;
        assert_eq!(one, digest(2, vec![thing(2, "b"), thing(1, "a")]).await);
        assert_ne!(one, digest(3, vec![thing(1, "a"), thing(2, "c")]).await);
        assert_ne!(one, digest(4, vec![thing(1, "a")]).await);
    }

    #[tokio::test]
    async fn tables_are_copied_as_they_are_at_one_moment() {
        let folder = tempfile::tempdir().unwrap();
        let storage = storage(&folder);
        let live = Database::open(&storage, &OLD, 1).await.unwrap();
        live.writer().await.unwrap().commit(thing(1, "a"), &step(0, 5)).await.unwrap();
        let copy = Database::build(&storage, &OLD, 2, &[]).await.unwrap();
        let mut writer = copy.writer().await.unwrap();
        for _ in 0..2 {
            let at = writer.copy(&storage, 1, &[&THINGS]).await.unwrap();
            assert_eq!(at[0].to_string(), "ORDERS:5");
        }
        assert_eq!(notes(&copy).await, [Some("a".to_owned())]);
        assert_eq!(writer.checkpoints().await.unwrap()[0].sequence, 0, "that is for the build to do");
    }

    #[tokio::test]
    async fn several_processes_may_open_a_new_file_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let storage = storage(&folder);
        let opened = futures::future::join_all((0..4).map(|_| Database::open(&storage, &OLD, 1))).await;
        for database in opened {
            database.unwrap().writer().await.unwrap();
        }
    }

    #[tokio::test]
    async fn moments_do_not_move_and_tell_where_they_differ() {
        let folder = tempfile::tempdir().unwrap();
        let open = async |name: &str| {
            Database::open(&Storage::Sqlite(folder.path().join(name)), &OLD, 1).await.unwrap()
        };
        let (left, right) = (open("left").await, open("right").await);
        let (mut to_left, mut to_right) = (left.writer().await.unwrap(), right.writer().await.unwrap());
        for (at, changes) in
            [thing(1, "same"), thing(2, "left"), thing(3, "only left")].into_iter().enumerate()
        {
            to_left.commit(changes, &step(at as u64, at as u64 + 1)).await.unwrap();
        }
        for (at, changes) in
            [thing(1, "same"), thing(2, "right"), thing(4, "only right")].into_iter().enumerate()
        {
            to_right.commit(changes, &step(at as u64, at as u64 + 1)).await.unwrap();
        }
        let mut moment = left.moment().await.unwrap();
        to_left.commit(thing(1, "later"), &step(3, 4)).await.unwrap();
        let found = moment.differences(&mut right.moment().await.unwrap()).await.unwrap();
        let found: Vec<_> = found.into_iter().map(|one| (one.key, one.kind)).collect();
        assert_eq!(
            found,
            [
                ("2 x".to_owned(), Disagreement::Differs(vec!["note"])),
                ("3 x".to_owned(), Disagreement::Unexpected),
                ("4 x".to_owned(), Disagreement::Missing),
            ]
        );
        assert_eq!(moment.differences(&mut left.moment().await.unwrap()).await.unwrap().len(), 1);
    }

    /// What to do to a row, and which: upsert, patch, increment or delete.
    type Op = (u8, i64, usize, i64);

    fn apply(
        changes: &mut Changes,
        model: &mut BTreeMap<i64, [Option<i64>; 2]>,
        (what, id, column, value): Op,
    ) {
        let key: Key = [id.into(), "x".into()].into();
        match what {
            0 => {
                changes.upsert(&THINGS, key, [(column, value.into())]);
                model.insert(id, std::array::from_fn(|place| (place == column).then_some(value)));
            }
            1 => {
                changes.patch(&THINGS, key, [(column, value.into())]);
                model.entry(id).or_default()[column] = Some(value);
            }
            2 => {
                changes.increment(&THINGS, key, column, value);
                let cell = &mut model.entry(id).or_default()[column];
                *cell = Some(cell.unwrap_or(0) + value);
            }
            _ => {
                changes.delete(&THINGS, key);
                model.remove(&id);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_database_does_what_the_changes_say(
            batches in prop::collection::vec(
                prop::collection::vec((0..4_u8, 0..200_i64, 0..2_usize, -9..9_i64), 0..400), 1..4)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let folder = tempfile::tempdir().unwrap();
                let database = Database::open(&storage(&folder), &OLD, 1).await.unwrap();
                let mut writer = database.writer().await.unwrap();
                let mut model = BTreeMap::new();
                for ops in batches {
                    let mut changes = Changes::default();
                    for op in ops {
                        apply(&mut changes, &mut model, op);
                    }
                    writer.commit(changes, &[]).await.unwrap();
                }
                let rows = database.rows("SELECT id, a, b FROM things ORDER BY id", Vec::new()).await.unwrap();
                let rows = rows.iter().map(|row| {
                    (row.get("id").unwrap(), [row.find("a").unwrap(), row.find("b").unwrap()])
                });
                prop_assert_eq!(rows.collect::<BTreeMap<i64, _>>(), model);
                Ok(())
            })?;
        }
    }
}
