//! Which services a change touches: `deploy/ci/changed_services.py`, asked about files as they are.

use crate::file;
use commands::reactions;
use projections::View;
use std::{collections::BTreeSet, process::Command};
use waybill::system::Service;

/// The services that are deployed again when these files change, or what these flags name.
fn touched(words: &[&str]) -> Vec<String> {
    let output = Command::new("python3").arg(file("deploy/ci/changed_services.py")).args(words).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// All of them, in the order in which they are deployed.
const EVERYTHING: [&str; 9] = [
    "notifications",
    "operations",
    "shipping",
    "payments",
    "inventory",
    "fulfilment",
    "orders",
    "users",
    "gateway",
];

/// All but the gateway, which runs neither side.
fn services() -> &'static [&'static str] {
    let (gateway, services) = EVERYTHING.split_last().unwrap();
    assert_eq!(*gateway, "gateway");
    services
}

#[test]
fn a_change_inside_a_service_touches_only_it() {
    for (path, service) in [
        ("commands/src/orders.rs", "orders"),
        ("commands/src/orders/http.rs", "orders"),
        ("projections/src/orders/queries.rs", "orders"),
        ("commands/src/inventory/item.rs", "inventory"),
        ("commands/src/fraud/assessment.rs", "payments"),
        ("commands/src/ops/http.rs", "operations"),
        ("gateway/src/proxy.rs", "gateway"),
        ("gateway/routes.toml", "gateway"),
    ] {
        assert_eq!(touched(&[path]), [service], "{path}");
    }
    assert_eq!(touched(&["gateway/src/proxy.rs", "commands/src/orders.rs"]), ["orders", "gateway"]);
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
        assert_eq!(touched(&[path]), EVERYTHING, "{path}");
    }
    for path in ["commands/src/executor.rs", "projections/src/projector.rs"] {
        assert_eq!(touched(&[path]), services(), "{path}");
    }
}

/// Every service checks tokens with the keys that belong to users, and is given what the rules of payments are made of.
#[test]
fn what_the_executable_takes_of_a_service_touches_all() {
    for path in ["commands/src/users/tokens/keys.rs", "commands/src/fraud/rules.rs"] {
        assert_eq!(touched(&[path]), services(), "{path}");
    }
}

/// Who reads the facts of a service comes before it, unless that one rests on him too: then the way that an order goes decides.
#[test]
fn who_reads_is_deployed_before_who_records_and_the_gateway_last() {
    let mut all: Vec<_> = Service::ALL.iter().map(|service| service.name()).chain(["gateway"]).collect();
    let mut deployed = EVERYTHING.to_vec();
    all.sort_unstable();
    deployed.sort_unstable();
    assert_eq!(deployed, all);
    let place = |service: &str| EVERYTHING.iter().position(|one| *one == service).unwrap();
    let reads = |reader: Service, of: Service| {
        let context = reader.context();
        let consumed = reactions::durables(context, &["email".to_owned()]).into_iter().map(|one| one.context);
        let looked_up = reactions::looked_up(context).iter().map(|aggregate| aggregate.context());
        let shown = View::of(reader.name()).into_iter().flat_map(View::contexts);
        consumed.chain(looked_up).chain(shown).any(|one| one == of.context())
    };
    // Who rests on whom, by way of others too: the saga and the services that it asks all rest on each other.
    let mut rests: BTreeSet<_> = Service::ALL
        .into_iter()
        .flat_map(|reader| Service::ALL.into_iter().map(move |of| (reader.name(), of.name())))
        .filter(|(reader, of)| reads(reader.parse().unwrap(), of.parse().unwrap()))
        .collect();
    while {
        let known = rests.len();
        let further = |(reader, by): &(_, _)| {
            rests
                .iter()
                .filter(move |(next, _)| next == by)
                .map(move |(_, of)| (*reader, *of))
                .collect::<Vec<_>>()
        };
        let further: Vec<_> = rests.iter().flat_map(further).collect();
        rests.extend(further);
        rests.len() > known
    } {}
    for (reader, of) in rests.iter().filter(|(reader, of)| !rests.contains(&(*of, *reader))) {
        assert!(place(reader) < place(of), "{reader} reads what {of} records");
    }
    let round: BTreeSet<_> = rests
        .iter()
        .filter(|(reader, of)| reader != of && rests.contains(&(*of, *reader)))
        .map(|(one, _)| *one)
        .collect();
    assert_eq!(round, BTreeSet::from(["fulfilment", "inventory", "orders", "payments", "shipping"]));
    let way = ["users", "orders", "inventory", "payments", "shipping", "notifications"];
    assert!(way.map(place).into_iter().rev().is_sorted(), "against the way of an order");
}

#[test]
fn what_is_in_every_image_touches_all_and_prose_and_tests_touch_none() {
    for path in ["Cargo.lock", "Cargo.toml", "rust-toolchain.toml", "Dockerfile", "a/file/nobody/knows.x"] {
        assert_eq!(touched(&[path]), EVERYTHING, "{path}");
    }
    // Which is served.
    assert_eq!(touched(&["docs/asyncapi.json"]), EVERYTHING);
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
        assert_eq!(touched(&[flag, empty.trim()]), EVERYTHING, "{flag}");
        assert!(touched(&[flag, "HEAD"]).is_empty(), "{flag}");
    }
}
