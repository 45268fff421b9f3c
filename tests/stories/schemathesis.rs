//! Schemathesis asks the gateway what its OpenAPI document says can be asked, and much that cannot, with a token and without:
//! nothing is answered with 5xx, nothing with what is not documented.
//!
//! It is a Python package, installed into `target/` when it is first needed.

use crate::READ_MODELS;
use serde_json::Value;
use std::{fs, path::Path};
use tokio::process::Command;
use waybill_tests::{Process, installed, python};

const PACKAGE: &str = "schemathesis==4.32.5";

/// The same cases in every run, as far as the time goes.
const SEED: &str = "1";
/// Cases for each operation and phase.
const EXAMPLES: &str = "8";

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance";

#[tokio::test]
async fn answers_are_as_documented_whatever_is_asked() {
    let packages = installed(PACKAGE).await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let routes = folder.path().join("gateway.toml");
    // Whoever is refused for asking too often has not been answered.
    let usual = fs::read_to_string(root().join("gateway/routes.toml")).unwrap();
    fs::write(&routes, usual.replace("quota = 100\n", "quota = 1000000\n")).unwrap();
    let flags = ["--durability", "interval", "--gateway-config", routes.to_str().unwrap()];
    let kept = READ_MODELS.kept();
    let process = Process::dev(&data, &kept.flags(&flags)).await.unwrap();
    let file: Value = serde_json::from_slice(&fs::read(data.join("dev.json")).unwrap()).unwrap();
    let gateway = file["gateway"].as_str().unwrap();

    let token = Command::new(Process::executable())
        .args(["token", "--role", "operator", "--data", data.to_str().unwrap()])
        .output()
        .await
        .unwrap();
    let token = format!("Authorization: Bearer {}", String::from_utf8(token.stdout).unwrap().trim());
    run(&packages, gateway, &["--max-time", "60", "--header", &token], folder.path()).await;
    run(&packages, gateway, &["--max-time", "30"], folder.path()).await;
    assert!(process.stop().await.unwrap().success());
}

async fn run(packages: &Path, gateway: &str, more: &[&str], folder: &Path) {
    let output = python(packages, &[root().join("tests/schemathesis")])
        .arg(packages.join("bin/schemathesis"))
        .args(["run", &format!("{gateway}/openapi.json"), "--url", gateway, "--seed", SEED])
        .args(["--max-examples", EXAMPLES, "--phases", "examples,coverage,fuzzing", "--checks", CHECKS])
        .args(["--continue-on-failure", "--no-shrink", "--no-color"])
        .args(more)
        .env("SCHEMATHESIS_HOOKS", "hooks")
        // It keeps what it finds where it runs.
        .current_dir(folder)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let tested = said.lines().find_map(|line| line.trim().strip_prefix("Tested: "));
    let tested: usize = tested.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    assert!(tested > 30, "only {tested} operations were tested:\n{said}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
