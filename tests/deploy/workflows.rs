//! The workflows: whose code they run is pinned, what they may do is said, and the files they name are there.

use crate::file;
use std::fs;

fn workflows() -> Vec<(String, String)> {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap())
    };
    fs::read_dir(file(".github/workflows")).unwrap().map(read).collect()
}

#[test]
fn actions_are_pinned_by_hash_with_their_version_beside_it() {
    let workflows = workflows();
    assert!(workflows.len() >= 3, "workflows are where this test looks");
    for (name, text) in workflows {
        for line in
            text.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("uses: "))
        {
            if line.starts_with("./") {
                continue;
            }
            let (_, pin) = line.split_once('@').unwrap_or_else(|| panic!("{name}: {line}"));
            let (hash, version) =
                pin.split_once(" # v").unwrap_or_else(|| panic!("{name}: no version: {line}"));
            assert!(hash.len() == 40 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}: {line}");
            assert!(version.starts_with(|digit: char| digit.is_ascii_digit()), "{name}: {line}");
        }
    }
}

#[test]
fn workflows_ask_for_no_more_than_they_need_and_end() {
    for (name, text) in workflows() {
        assert!(
            text.contains("\npermissions:\n  contents: read\n"),
            "{name}: read only, unless a job says more"
        );
        let jobs = text.split("\njobs:\n").nth(1).unwrap();
        let count = |what: &str| jobs.matches(what).count();
        let (own, reused) = (count("\n    runs-on: "), count("\n    uses: ./"));
        assert!(
            own + reused > 0 && count("\n    timeout-minutes: ") == own,
            "{name}: every job has a time limit"
        );
    }
}

#[test]
fn what_workflows_run_is_there() {
    for (name, text) in workflows() {
        let named =
            text.split_whitespace().filter(|word| word.starts_with("deploy/") || word.starts_with(".ci/"));
        for path in named.map(|word| word.trim_matches(|char| "\"'`,)".contains(char))) {
            assert!(file(path).exists(), "{name} names {path}");
        }
    }
}
