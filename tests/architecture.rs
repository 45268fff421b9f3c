//! The house rules that a program can check: who may import whom, and where things are.

#![expect(clippy::unwrap_used, reason = "a helper of a test that unwraps is a test that fails")]

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Which crates of the house each crate may import.
const ARROWS: &[(&str, &[&str])] = &[
    ("events", &[]),
    ("service", &[]),
    ("nats", &["events", "service"]),
    ("commands", &["events", "nats", "service"]),
    ("projections", &["events", "nats", "service"]),
    ("gateway", &["nats", "service"]),
    ("waybill", &["events", "nats", "service", "commands", "projections", "gateway"]),
    ("waybill-tests", &["events", "nats", "service", "commands", "projections", "gateway", "waybill"]),
];

/// Other people's crates that only some may import.
const RESERVED: &[(&str, &[&str])] = &[("async-nats", &["nats"]), ("sqlx", &["projections"])];

/// The vocabulary is pure: nothing that waits, sends or stores.
const NOT_IN_EVENTS: &[&str] = &["tokio", "tokio-util", "futures", "axum", "reqwest", "service"];

/// Lines of a file, without its tests.
const BUDGET: usize = 400;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Value {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    serde_json::from_slice(&metadata.stdout).unwrap()
}

/// Every crate of the house with everything it imports, for tests and builds too.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let name = |of: &Value| of["name"].as_str().unwrap().to_owned();
    let imports = |package: &Value| package["dependencies"].as_array().unwrap().iter().map(name).collect();
    metadata["packages"].as_array().unwrap().iter().map(|package| (name(package), imports(package))).collect()
}

#[test]
fn imports_point_left() {
    let imports = imports();
    let house: BTreeSet<_> = imports.keys().cloned().collect();
    let known: BTreeSet<_> = ARROWS.iter().map(|(of, _)| (*of).to_owned()).collect();
    assert_eq!(house, known, "every crate has its place in ARROWS");
    for (of, allowed) in ARROWS {
        let allowed: BTreeSet<_> = allowed.iter().map(|of| (*of).to_owned()).collect();
        let imported: BTreeSet<_> = imports[*of].intersection(&house).cloned().collect();
        let wrong: Vec<_> = imported.difference(&allowed).collect();
        assert!(wrong.is_empty(), "{of} must not import {wrong:?}");
    }
}

#[test]
fn databases_and_brokers_have_one_importer() {
    let imports = imports();
    for (reserved, owners) in RESERVED {
        let importers = imports.iter().filter(|(_, imports)| imports.contains(*reserved));
        let importers: Vec<_> = importers.map(|(of, _)| of.as_str()).collect();
        assert_eq!(importers, *owners, "who imports {reserved}");
    }
}

#[test]
fn the_vocabulary_is_pure() {
    let imports = &imports()["events"];
    let found: Vec<_> = NOT_IN_EVENTS.iter().filter(|name| imports.contains(**name)).collect();
    assert!(found.is_empty(), "events must not import {found:?}");
}

/// Crash points are nothing where debug assertions are off, and no profile but that of development has them on.
#[test]
fn a_release_has_no_crash_points() {
    let release = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(release.contains("[profile.release]"));
    assert!(!release.contains("debug-assertions"), "a release has no debug assertions");
    let points = fs::read_to_string(root().join("service/src/crash.rs")).unwrap();
    let nothing =
        "#[cfg(not(debug_assertions))]\n#[inline]\npub fn crash_point(_point: &'static str, _scope: &str) {}";
    assert!(points.contains(nothing));
    assert!(points.contains("#[cfg(debug_assertions)]\nmod armed {"));
}

/// Every Rust file of the house.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let crates =
        ["events", "service", "nats", "commands", "projections", "gateway", "waybill", "tests", "contracts"];
    let mut folders: Vec<_> = crates.map(|name| root().join(name)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 50, "the sources are where they are looked for");
    found
}

#[test]
fn modules_are_files_beside_their_folder() {
    let wrong: Vec<_> = sources().into_iter().filter(|path| path.ends_with("mod.rs")).collect();
    assert!(wrong.is_empty(), "foo.rs + foo/, never mod.rs: {wrong:?}");
}

#[test]
fn files_say_what_they_are_for_and_stay_small() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let shown = path.display();
        assert!(text.starts_with("//!"), "{shown} does not begin with what it is for");
        let code = text.split("\n#[cfg(test)]").next().unwrap();
        let only_tests = ["#[test]", "#[tokio::test", "proptest!"].iter().any(|test| code.contains(test));
        let lines = if only_tests { 0 } else { code.lines().count() };
        assert!(lines <= BUDGET, "{shown} has {lines} lines without its tests, more than {BUDGET}");
    }
}

/// Names of problems and refusals in a source: the first text of each of their constructors.
fn problems(source: &str) -> BTreeSet<String> {
    let code = source.split("\n#[cfg(test)]").next().unwrap();
    let of_a_kind =
        ["::bad_request(", "::not_found(", "::conflict(", "::invalid(", "::unavailable(", "slug: "]
            .into_iter()
            .flat_map(|constructor| code.split(constructor).skip(1));
    let of_a_status =
        code.split("::new(").skip(1).filter(|rest| rest.trim_start().starts_with("StatusCode::"));
    let of_a_status = of_a_status.filter_map(|rest| rest.split_once(',')).map(|(_, rest)| rest);
    of_a_kind
        .chain(of_a_status)
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_problem_is_documented() {
    let answering = ["service", "commands", "projections", "gateway", "waybill"]
        .map(|name| root().join(name).join("src"));
    let answering = sources().into_iter().filter(|path| answering.iter().any(|src| path.starts_with(src)));
    let used: BTreeSet<_> = answering.flat_map(|path| problems(&fs::read_to_string(path).unwrap())).collect();
    assert!(used.len() > 50, "the constructors are as this test knows them: {used:?}");

    // The first column of every table of the page.
    let page = fs::read_to_string(root().join("docs/problems.md")).unwrap();
    let names = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let documented: BTreeSet<_> =
        names.flat_map(|names| names.split(", ").map(|name| name.trim_matches('`').to_owned())).collect();
    assert_eq!(used, documented, "docs/problems.md lists what the code answers");
}

/// Every story is told on both databases, or it is said where they are listed why it is told once.
#[test]
fn every_story_is_told_on_both_databases() {
    let text = |of: &str| fs::read_to_string(root().join("tests").join(of).join("main.rs")).unwrap();
    let modules = |text: &str| -> BTreeSet<String> {
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("mod ")?.strip_suffix(';'));
        names.map(str::to_owned).collect()
    };
    let again = text("stories_on_postgresql");
    let excused = again.lines().filter_map(|line| line.strip_prefix("//! - ")?.split_once(": "));
    let excused =
        excused.flat_map(|(names, _)| names.split(", ").map(|name| name.trim_matches('`').to_owned()));
    let (again, excused) = (modules(&again), excused.collect::<BTreeSet<_>>());
    assert!(again.is_disjoint(&excused), "told again, though it is excused");
    assert_eq!(&again | &excused, modules(&text("stories")));
}
