//! What every database has to do, asked of each.

use super::*;
use crate::{
    table::{Key, Table, Type},
    testing::{Place, on_both},
};
use jiff::Timestamp;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use std::collections::BTreeMap;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

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
        things: &[],
        routes: OpenApiRouter::new,
        live: crate::Live::NOTHING,
    }
}

static OLD: View = view(&[&THINGS]);
static NEW: View = view(&[&CHANGED]);

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

async fn of_two_writers_at_one_checkpoint_one_wins_and_the_other_writes_nothing(place: &Place) {
    let database = Database::open(&place.storage(), &OLD, 1).await.unwrap();
    let (mut one, mut two) = (database.writer().await.unwrap(), database.writer().await.unwrap());
    assert_eq!(one.commit(thing(1, "one"), &step(0, 5)).await.unwrap(), Commit::Done);
    assert_eq!(two.commit(thing(1, "two"), &step(0, 4)).await.unwrap(), Commit::Lost);
    assert_eq!(notes(&database).await, [Some("one".to_owned())]);
    assert_eq!(two.checkpoints().await.unwrap()[0].to_string(), "ORDERS:5");
    assert_eq!(two.commit(thing(2, "two"), &step(5, 6)).await.unwrap(), Commit::Done);
    assert_eq!(notes(&database).await.len(), 2);
}

async fn a_generation_belongs_to_one_declaration_and_takes_no_commits_while_it_is_closed(place: &Place) {
    let storage = place.storage();
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
    assert_eq!(notes(&Database::open(&storage, &OLD, 1).await.unwrap()).await.len(), 0);
}

async fn a_build_begins_where_it_is_told_and_makes_its_indexes_when_it_is_done(place: &Place) {
    let storage = place.storage();
    let since = ["ORDERS:5".parse().unwrap()];
    let database = Database::build(&storage, &OLD, 1, &since).await.unwrap();
    let mut writer = database.writer().await.unwrap();
    assert_eq!(writer.checkpoints().await.unwrap()[0].to_string(), "ORDERS:4");
    assert_eq!(database.moment().await.unwrap().since().await.unwrap(), since);
    let indexes = async || {
        let sql = match place {
            Place::Sqlite(_) => "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL",
            Place::Postgres(_) => {
                "SELECT 1 FROM pg_indexes WHERE schemaname = current_schema() AND indexname = 'things_note_a'"
            }
        };
        database.rows(sql, vec![]).await.unwrap().len()
    };
    assert_eq!(indexes().await, 0);
    writer.finish().await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(indexes().await, 1);
}

async fn a_digest_is_the_same_for_the_same_rows_and_no_others(place: &Place) {
    let storage = place.storage();
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

async fn tables_are_copied_as_they_are_at_one_moment(place: &Place) {
    let storage = place.storage();
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

async fn several_processes_may_open_a_new_file_at_once(place: &Place) {
    let storage = place.storage();
    let opened = futures::future::join_all((0..4).map(|_| Database::open(&storage, &OLD, 1))).await;
    for database in opened {
        database.unwrap().writer().await.unwrap();
    }
}

async fn moments_do_not_move_and_tell_where_they_differ(place: &Place) {
    let open = async || Database::open(&place.storage(), &OLD, 1).await.unwrap();
    let (left, right) = (open().await, open().await);
    let (mut to_left, mut to_right) = (left.writer().await.unwrap(), right.writer().await.unwrap());
    for (at, changes) in [thing(1, "same"), thing(2, "left"), thing(3, "only left")].into_iter().enumerate() {
        to_left.commit(changes, &step(at as u64, at as u64 + 1)).await.unwrap();
    }
    for (at, changes) in [thing(1, "same"), thing(2, "right"), thing(4, "only right")].into_iter().enumerate()
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

fn apply(changes: &mut Changes, model: &mut BTreeMap<i64, [Option<i64>; 2]>, (what, id, column, value): Op) {
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

async fn the_database_does_what_the_changes_say(place: &Place) {
    // One table for all cases: each begins by emptying it.
    let database = Database::open(&place.storage(), &OLD, 1).await.unwrap();
    let mut writer = database.writer().await.unwrap();
    let op = (0..4_u8, 0..200_i64, 0..2_usize, -9..9_i64);
    let batches = prop::collection::vec(prop::collection::vec(op, 0..400), 1..4);
    let mut runner = TestRunner::new(ProptestConfig::default());
    for _ in 0..32 {
        let batches = batches.new_tree(&mut runner).unwrap().current();
        let mut changes = Changes::default();
        (0..200_i64).for_each(|id| changes.delete(&THINGS, [id.into(), "x".into()]));
        writer.commit(changes, &[]).await.unwrap();
        let mut model = BTreeMap::new();
        for ops in &batches {
            let mut changes = Changes::default();
            for op in ops {
                apply(&mut changes, &mut model, *op);
            }
            writer.commit(changes, &[]).await.unwrap();
        }
        let rows = database.rows("SELECT id, a, b FROM things ORDER BY id", Vec::new()).await.unwrap();
        let rows =
            rows.iter().map(|row| (row.get("id").unwrap(), [row.find("a").unwrap(), row.find("b").unwrap()]));
        assert_eq!(rows.collect::<BTreeMap<i64, _>>(), model, "{batches:?}");
    }
}

const EVERY: Table = Table {
    name: "every_type",
    key: &[("text", Type::Text)],
    columns: &[
        ("id", Type::Uuid),
        ("number", Type::Int),
        ("time", Type::Timestamp),
        ("document", Type::Json),
        ("flag", Type::Bool),
    ],
    indexes: &[],
};

static TYPES: View = View { name: "types", ..view(&[&EVERY]) };

/// Every type comes back as it was written, empty or not, and text is sorted by its bytes. Also where many rows are written
/// at once, which goes another way.
async fn every_type_is_read_as_it_was_written(place: &Place) {
    for others in [0, 300] {
        types_are_read_among(place, others).await;
    }
}

async fn types_are_read_among(place: &Place, others: i64) {
    let database = Database::open(&place.storage(), &TYPES, 1).await.unwrap();
    let times = ["-004712-01-02T01:59:59Z", "1969-12-31T23:59:59.999999Z", "9999-12-30T21:59:59.999999Z"];
    let times: Vec<Timestamp> = times.iter().map(|time| time.parse().unwrap()).collect();
    let (texts, numbers) = (["Z", "a", "a\0b", "\u{e4}", "\u{10ffff}"], [i64::MIN, -1, 0, 1, i64::MAX]);
    let mut changes = Changes::default();
    for (at, text) in texts.iter().enumerate() {
        let document = serde_json::json!({ "b\0": [text, at, null, 1.5], "a": { "\\u0000": "\\" } });
        let row = [
            (0, Value::Uuid(Uuid::from_u128(at as u128))),
            (1, Value::Int(numbers[at])),
            (2, times[at % 3].into()),
            (3, Value::json(&document)),
            (4, (at % 2 == 0).into()),
        ];
        changes.upsert(&EVERY, Value::from((*text).to_owned()), row);
    }
    changes.upsert(&EVERY, Value::from("empty"), []);
    for other in 0..others {
        changes.upsert(&EVERY, Value::from(format!("other {other}")), []);
    }
    database.writer().await.unwrap().commit(changes, &[]).await.unwrap();
    let sql = "SELECT * FROM every_type WHERE text <> $1 AND text NOT LIKE 'other%' ORDER BY text";
    let rows = database.rows(sql, vec!["empty".into()]).await.unwrap();
    assert_eq!(rows.len(), texts.len());
    for (at, row) in rows.iter().enumerate() {
        let text = texts[at].replace('\0', "\u{fffd}");
        assert_eq!(row.get::<String>("text").unwrap(), text);
        assert_eq!(row.get::<Uuid>("id").unwrap(), Uuid::from_u128(at as u128));
        assert_eq!(row.get::<i64>("number").unwrap(), numbers[at]);
        assert_eq!(row.get::<Timestamp>("time").unwrap(), times[at % 3]);
        assert_eq!(row.get::<bool>("flag").unwrap(), at % 2 == 0);
        let document: serde_json::Value = row.json("document").unwrap();
        let expected = serde_json::json!({ "b\u{fffd}": [text, at, null, 1.5], "a": { "\\u0000": "\\" } });
        assert_eq!(document, expected);
    }
    let sql = "SELECT * FROM every_type WHERE text = $1";
    let row = database.row(sql, vec!["empty".into()]).await.unwrap().unwrap();
    assert_eq!((row.find::<Uuid>("id").unwrap(), row.find::<Timestamp>("time").unwrap()), (None, None));
    assert_eq!(row.find_json::<serde_json::Value>("document").unwrap(), None);
    assert!(row.get::<bool>("flag").is_err());
    let sql = "SELECT text FROM every_type WHERE number > $1";
    assert_eq!(database.rows(sql, vec![Value::Null]).await.unwrap().len(), 0, "nothing is below nothing");
}

/// Of many whole rows some are there already, others are not: all are as they are said to be, as is what else the commit does.
async fn many_rows_are_written_whether_they_are_there_or_not(place: &Place) {
    let database = Database::open(&place.storage(), &OLD, 1).await.unwrap();
    let mut writer = database.writer().await.unwrap();
    let rows = |ids: std::ops::Range<i64>, a: i64| {
        let mut changes = Changes::default();
        for id in ids {
            changes.upsert(&THINGS, [id.into(), "x".into()], [(0, a.into())]);
        }
        changes
    };
    let sums = async || {
        let sql =
            "SELECT count(*) AS rows, CAST(sum(a) AS bigint) AS sum, CAST(sum(b) AS bigint) AS b FROM things";
        let row = database.row(sql, Vec::new()).await.unwrap().unwrap();
        (row.get::<i64>("rows").unwrap(), row.get::<i64>("sum").unwrap(), row.find::<i64>("b").unwrap())
    };
    assert_eq!(writer.commit(rows(0..500, 1), &step(0, 1)).await.unwrap(), Commit::Done);
    assert_eq!(sums().await, (500, 500, None));
    let mut mixed = rows(400..1000, 3);
    // Once, however often the commit is tried.
    mixed.increment(&THINGS, [Value::Int(7), "x".into()], 1, 9);
    assert_eq!(writer.commit(mixed, &step(1, 2)).await.unwrap(), Commit::Done);
    assert_eq!(sums().await, (1000, 400 + 600 * 3, Some(9)));
    assert_eq!(writer.commit(rows(1000..1500, 1), &step(2, 3)).await.unwrap(), Commit::Done);
    assert_eq!(sums().await, (1500, 400 + 600 * 3 + 500, Some(9)));
    assert_eq!(writer.checkpoints().await.unwrap()[0].to_string(), "ORDERS:3");
}

/// A read model in one database is compared with the same one in another.
async fn the_same_rows_in_another_database_are_the_same(place: &Place) {
    let scratch = Place::sqlite();
    let here = Database::open(&place.storage(), &TYPES, 1).await.unwrap();
    let there = Database::open(&scratch.storage(), &TYPES, 1).await.unwrap();
    let write = async |to: &Database, number: i64, document: &'static str| {
        let mut changes = Changes::default();
        for text in ["Z", "a", "\u{e4}"] {
            let document = Value::Json(document.to_owned());
            let row = [(0, Uuid::from_u128(7).into()), (1, number.into()), (3, document), (4, true.into())];
            changes.upsert(&EVERY, Value::from(text), row);
        }
        to.writer().await.unwrap().commit(changes, &[]).await.unwrap();
    };
    let differ = async || {
        let (mut left, mut right) = (here.moment().await.unwrap(), there.moment().await.unwrap());
        left.differences(&mut right).await.unwrap()
    };
    write(&here, 5, r#"{"b": 1, "a": [2]}"#).await;
    assert_eq!(differ().await.len(), 3);
    write(&there, 5, r#"{"a":[2],"b":1}"#).await;
    assert_eq!(differ().await, [], "the order of the fields says nothing");
    write(&there, 6, r#"{"a":[2],"b":2}"#).await;
    assert_eq!(differ().await[2].kind, Disagreement::Differs(vec!["number", "document"]));
}

on_both! {
    of_two_writers_at_one_checkpoint_one_wins_and_the_other_writes_nothing,
    a_generation_belongs_to_one_declaration_and_takes_no_commits_while_it_is_closed,
    a_build_begins_where_it_is_told_and_makes_its_indexes_when_it_is_done,
    a_digest_is_the_same_for_the_same_rows_and_no_others,
    tables_are_copied_as_they_are_at_one_moment,
    several_processes_may_open_a_new_file_at_once,
    moments_do_not_move_and_tell_where_they_differ,
    the_database_does_what_the_changes_say,
    every_type_is_read_as_it_was_written,
    many_rows_are_written_whether_they_are_there_or_not,
    the_same_rows_in_another_database_are_the_same,
}
