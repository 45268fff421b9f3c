//! Which services a change touches: `deploy/ci/changed_services.py`, asked about files as they are.

use crate::file;
use std::process::Command;
use waybill::system::Service;

/// The services that are deployed again when these files change, or what these flags name.
fn touched(words: &[&str]) -> Vec<String> {
    let output = Command::new("python3").arg(file("deploy/ci/changed_services.py")).args(words).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn everything() -> Vec<String> {
    let mut all: Vec<_> = Service::ALL.iter().map(ToString::to_string).collect();
    all.push("gateway".to_owned());
    all.sort_unstable();
    all
}

#[test]
fn a_change_inside_a_service_touches_only_it() {
    for (path, service) in [
        ("commands/src/orders.rs", "orders"),
        ("commands/src/orders/http.rs", "orders"),
        ("projections/src/orders/queries.rs", "orders"),
        ("commands/src/inventory/item.rs", "inventory"),
        ("commands/src/fraud/rules.rs", "payments"),
        ("commands/src/ops/http.rs", "operations"),
        ("gateway/src/proxy.rs", "gateway"),
        ("gateway/routes.toml", "gateway"),
    ] {
        assert_eq!(touched(&[path]), [service], "{path}");
    }
    assert_eq!(touched(&["commands/src/orders.rs", "gateway/src/proxy.rs"]), ["gateway", "orders"]);
}

#[test]
fn what_others_rest_on_touches_them_too() {
    // Refunds and dispatches ask the order, orders keep a copy of products.
    let order = touched(&["commands/src/orders/order.rs"]);
    assert!(
        ["orders", "payments", "shipping"].iter().all(|one| order.contains(&(*one).to_owned())),
        "{order:?}"
    );
    assert!(!order.contains(&"users".to_owned()) && !order.contains(&"inventory".to_owned()), "{order:?}");
    assert!(touched(&["commands/src/inventory/product.rs"]).contains(&"orders".to_owned()));
}

#[test]
fn a_shared_crate_touches_its_dependents() {
    for path in ["events/src/orders.rs", "nats/src/store.rs", "service/src/http.rs", "waybill/src/system.rs"]
    {
        assert_eq!(touched(&[path]), everything(), "{path}");
    }
    for path in ["commands/src/executor.rs", "projections/src/projector.rs"] {
        let mut services = everything();
        services.retain(|service| service != "gateway");
        assert_eq!(touched(&[path]), services, "{path}");
    }
}

#[test]
fn what_is_in_every_image_touches_all_and_prose_and_tests_touch_none() {
    for path in ["Cargo.lock", "Cargo.toml", "rust-toolchain.toml", "Dockerfile", "a/file/nobody/knows.x"] {
        assert_eq!(touched(&[path]), everything(), "{path}");
    }
    // Which is served.
    assert_eq!(touched(&["docs/asyncapi.json"]), everything());
    let nothing = ["README.md", "docs/api.md", "tests/stories/order.rs", "commands/tests/http/main.rs"];
    for path in nothing.into_iter().chain(["rivals/src/main.rs", "nats/conf/cluster.conf", ".ci/run"]) {
        assert!(touched(&[path]).is_empty(), "{path}");
    }
}

/// Where nothing was deployed yet, what runs is the empty tree, which is no commit.
#[test]
fn before_anything_was_deployed_everything_is_new() {
    let empty = Command::new("git").args(["hash-object", "-t", "tree", "/dev/null"]).output().unwrap();
    let empty = String::from_utf8(empty.stdout).unwrap();
    for flag in ["--deployed", "--base"] {
        assert_eq!(touched(&[flag, empty.trim()]), everything(), "{flag}");
        assert!(touched(&[flag, "HEAD"]).is_empty(), "{flag}");
    }
}
