//! The matrix of crash points: the executable is killed at every place that stores, sends or acknowledges, before and
//! after it, while orders of every kind are under way. Whatever the place, every order ends once, what was done is done or
//! undone as a whole, stock and money are conserved, nobody is told twice, and the read models are the fold of the log.
//!
//! One nats-server for all cells: what one cell leaves behind is part of the next one's work. The ordinary suite has a cell
//! for every kind of place and workflow; all of them take a quarter of an hour (`--include-ignored`, see CONTRIBUTING.md).

#![cfg(debug_assertions)]
#![expect(clippy::unwrap_used, reason = "a helper of a test that unwraps is a test that fails")]

mod cell;
mod dead_letters;
mod elsewhere;
mod endpoint;
mod steps;
mod table;

use cell::Shop;
use endpoint::Endpoint;
use nats::{Connection, From};
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    time::{Duration, Instant},
};
use table::Table;
use waybill::audit::Audit;
use waybill_tests::{Process, Trap, Verdict, eventually, settled, told};

/// How orders are carried through, and the flags that say so.
const CHOREOGRAPHY: (&str, &[&str]) = ("choreography", &["--log", "error"]);
const ORCHESTRATION: (&str, &[&str]) =
    ("orchestration", &["--log", "error", "--workflow", "orchestration", "--step-deadline", "5s"]);

/// A point is passed, or never will be, after so long.
const REACHED_WITHIN: Duration = Duration::from_secs(45);

/// The names of all crash points in the sources.
fn in_sources() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut folders: Vec<_> =
        ["nats/src", "commands/src", "projections/src"].map(|folder| root.join(folder)).to_vec();
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(path).unwrap();
            let names = text.split("crash_point(\"").skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(names.map(str::to_owned));
        }
    }
    assert!(found.len() > 8, "the points are as this test knows them: {found:?}");
    found
}

/// Every point that orders pass, with who passes it: noted by a run in which nobody dies.
async fn passed(process: &mut Process, shop: &Shop, flags: &[&str], list: &Path) -> BTreeSet<String> {
    process.kill().await.unwrap();
    let env = [("WAYBILL_CRASH_LIST", list.to_str().unwrap())];
    assert!(process.again_with(flags, &env).await.unwrap());
    shop.moved(process);
    shop.customer("discovery").await.unwrap();
    let connection = Connection::connect(&process.nats_url, "test").await.unwrap();
    settled(&connection, &process.api).await.unwrap();
    let listed = fs::read_to_string(list).expect("the executable has crash points: build it with them");
    listed.lines().map(str::to_owned).collect()
}

/// It runs no more.
async fn end(process: &mut Process) {
    if !process.has_ended() {
        process.kill().await.unwrap();
    }
}

/// Runs until it is killed at a point; whether it was there.
async fn killed(process: &mut Process, trap: &Trap, what: impl Future<Output = ()>) -> Verdict {
    let started = Instant::now();
    let mut what = std::pin::pin!(what);
    let mut over = false;
    while !process.has_ended() && started.elapsed() < REACHED_WITHIN {
        tokio::select! {
            () = &mut what, if !over => over = true,
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
    trap.verdict(process.status())
}

/// Those points that are asked for.
fn asked_for(points: &BTreeSet<String>) -> BTreeSet<String> {
    points.iter().filter(|point| is_asked_for(point)).cloned().collect()
}

/// Whether `WAYBILL_ONLY_AT` is in the name of a cell; without it all are asked for. Where none is, the table says so.
fn is_asked_for(name: &str) -> bool {
    name.contains(&env::var("WAYBILL_ONLY_AT").unwrap_or_default())
}

/// One point of every kind: where one service passes it that of this service, else the last one.
fn one_of_each_kind(points: &BTreeSet<String>, service: &str) -> BTreeSet<String> {
    let of_it = format!("@{service}");
    let mut kinds = BTreeMap::new();
    for point in points {
        let kind = point.split('@').next().unwrap_or_default();
        let known: &mut &String = kinds.entry(kind).or_insert(point);
        if !known.to_lowercase().contains(&of_it) {
            *known = point;
        }
    }
    kinds.into_values().cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_a_place_of_every_kind_every_order_ends_once() {
    matrix(CHOREOGRAPHY, |points| one_of_each_kind(points, "inventory")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_a_place_of_every_kind_every_order_of_a_saga_ends_once() {
    matrix(ORCHESTRATION, |points| one_of_each_kind(points, "fulfilment")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: every place, of which the ordinary suite has one of every kind"]
async fn wherever_it_is_killed_every_order_ends_once() {
    matrix(CHOREOGRAPHY, asked_for).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: every place, of which the ordinary suite has one of every kind"]
async fn wherever_it_is_killed_every_order_of_a_saga_ends_once() {
    matrix(ORCHESTRATION, asked_for).await;
}

/// Kills at the chosen ones of all points that orders pass.
async fn matrix((workflow, flags): (&str, &[&str]), choose: impl Fn(&BTreeSet<String>) -> BTreeSet<String>) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let endpoint = Endpoint::start(folder.path()).await;
    let flags = &*endpoint.with(flags);
    let mut process = Process::dev(&data, flags).await.unwrap();
    let shop = Shop::open(&process).await;
    let points = passed(&mut process, &shop, flags, &folder.path().join("points")).await;
    let names: BTreeSet<_> = points.iter().filter_map(|point| point.split('@').next()).collect();
    let never = in_sources().into_iter().filter(|name| !names.contains(&**name));
    let never: Vec<_> = never.filter(|name| !elsewhere::has(name) && !steps::has(name)).collect();
    assert_eq!(never, [""; 0], "points at which nobody is killed");
    let points = choose(&points);

    let mut cells = Vec::new();
    for point in &points {
        let trap = Trap::at(&format!("{point}:1")).unwrap();
        end(&mut process).await;
        let started = Instant::now();
        let ready = process.again_with(flags, &trap.env()).await.unwrap();
        if ready {
            shop.moved(&process);
        }
        let customer = shop.customer(point);
        let verdict = killed(&mut process, &trap, async {}).await;
        cells.push((point, customer, verdict, started.elapsed()));
    }
    end(&mut process).await;
    process.again(flags).await.unwrap();
    shop.moved(&process);

    let mut table = Table::new(&format!("{workflow}: killed at"));
    for (point, customer, verdict, took) in cells {
        let orders = customer.await.unwrap();
        table.note(format!("{point:<50} {orders:>4} orders  {:>5.1} s", took.as_secs_f64()), verdict);
    }
    let connection = Connection::connect(&process.nats_url, "test").await.unwrap();
    let verdict = eventually("everything settles, or never will", Duration::from_mins(2), async || {
        let audit = Audit::of_log(&connection, From::Start).await.ok()?;
        let mut faults = audit.faults();
        faults.extend(audit.differences(&process.api).await.ok()?);
        faults.is_empty().then_some(audit)
    })
    .await;
    let orders = cell::ORDERS * (points.len() + 1);
    assert_eq!(verdict.orders(), orders, "every key has an order of its own");
    told(&process.nats_url, &endpoint::CHANNELS).await;
    assert_eq!(steps::faults(&connection).await, [""; 0]);
    assert_eq!(endpoint.faults(orders), [""; 0]);
    steps::verify(&process.api, &connection, &data.join("views"), &folder.path().join("scratch")).await;
    table.demand();
    process.stop().await.unwrap();
}
