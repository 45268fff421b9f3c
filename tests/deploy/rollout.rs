//! How an image comes into a cluster, `deploy/ci/rollout.py`: with a `kubectl` that notes what it is asked and plays a
//! cluster, as there is none where the tests run.

use crate::file;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
};

/// The cluster: one deployment and its canary; `REFUSES` is what fails, `READY`, `RESTARTS` and `METRICS` are the canary's.
const KUBECTL: &str = r#"#!/usr/bin/env python3
import json, os, sys
words = sys.argv[3:]
line = " ".join(words)
given = sys.stdin.read() if words[0] == "apply" else ""
with open(os.environ["CALLS"], "a") as calls:
    calls.write(line + (" " + given if given else "") + "\n")
refuses = os.environ.get("REFUSES")
if refuses and refuses in line:
    sys.exit("no: " + refuses)
labels = {"app": "orders-service", "track": "stable"}
container = {"name": "waybill", "image": "waybill:old"}
if words[:2] == ["get", "deployment"]:
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": 3, "selector": {"matchLabels": labels}, "template": template}
    print(json.dumps({"apiVersion": "apps/v1", "kind": "Deployment",
                      "metadata": {"name": words[2], "resourceVersion": "7"}, "spec": spec, "status": {}}))
elif words[:2] == ["get", "pods"]:
    state = {"ready": os.environ.get("READY", "1") == "1", "restartCount": int(os.environ.get("RESTARTS", "0"))}
    print(json.dumps({"items": [{"metadata": {"name": "canary-x"}, "status": {"containerStatuses": [state]}}]}))
elif words[:2] == ["get", "--raw"]:
    print(os.environ.get("METRICS", 'waybill_commands_total{outcome="recorded"} 100'))
"#;

/// Rolls an image out into such a cluster; what came of it, and what kubectl was asked.
fn roll_out(cluster: &[(&str, &str)]) -> (Output, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let (kubectl, calls) = (folder.path().join("kubectl"), folder.path().join("calls"));
    fs::write(&kubectl, KUBECTL).unwrap();
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::join_paths(
        [folder.path().to_owned()]
            .into_iter()
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let output = Command::new("python3")
        .arg(file("deploy/ci/rollout.py"))
        .args(["orders", "waybill:new", "--watch", "0.02"])
        .env("PATH", path.unwrap())
        .env("CALLS", &calls)
        .envs(cluster.iter().copied())
        .output()
        .unwrap();
    let calls = fs::read_to_string(calls).unwrap_or_default();
    (output, calls.lines().map(str::to_owned).collect())
}

fn position(calls: &[String], what: &str) -> Option<usize> {
    calls.iter().position(|call| call.starts_with(what))
}

#[test]
fn an_image_that_does_well_serves_and_its_canary_goes() {
    let (output, calls) = roll_out(&[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let canary = position(&calls, "apply").unwrap();
    let body: serde_json::Value =
        serde_json::from_str(calls[canary].strip_prefix("apply --filename - ").unwrap()).unwrap();
    assert_eq!(body["metadata"]["name"], "orders-service-canary");
    assert_eq!(body["spec"]["replicas"], 1);
    assert_eq!(body["spec"]["template"]["spec"]["containers"][0]["image"], "waybill:new");
    let labels = &body["spec"]["selector"]["matchLabels"];
    assert_eq!((labels["app"].as_str(), labels["track"].as_str()), (Some("orders-service"), Some("canary")));
    assert!(body["metadata"].get("resourceVersion").is_none() && body.get("status").is_none());
    let watched = position(&calls, "get --raw").unwrap();
    let promoted = position(&calls, "set image deployment/orders-service *=waybill:new").unwrap();
    let gone = position(&calls, "delete deployment orders-service-canary").unwrap();
    assert!(canary < watched && watched < promoted && promoted < gone, "{calls:#?}");
}

#[test]
fn a_canary_that_does_badly_goes_and_nothing_else_changes() {
    let failing =
        "waybill_commands_total{outcome=\"failed\"} 5\nwaybill_commands_total{outcome=\"recorded\"} 95";
    let errors = "waybill_gateway_requests_total{route=\"/api/orders\",method=\"GET\",status=\"502\"} 30";
    for cluster in [
        [("REFUSES", "rollout status deployment/orders-service-canary")],
        [("READY", "0")],
        [("RESTARTS", "1")],
        [("METRICS", failing)],
        [("METRICS", errors)],
    ] {
        let (output, calls) = roll_out(&cluster);
        assert_eq!(output.status.code(), Some(1), "{cluster:?}");
        assert!(position(&calls, "delete deployment orders-service-canary").is_some(), "{calls:#?}");
        assert!(
            position(&calls, "set image").is_none() && position(&calls, "rollout undo").is_none(),
            "{calls:#?}"
        );
    }
}

#[test]
fn a_deployment_that_cannot_take_the_image_takes_its_old_one_again() {
    let (output, calls) = roll_out(&[("REFUSES", "rollout status deployment/orders-service --timeout")]);
    assert_ne!(output.status.code(), Some(0));
    let promoted = position(&calls, "set image").unwrap();
    assert!(promoted < position(&calls, "rollout undo deployment/orders-service").unwrap(), "{calls:#?}");
    assert!(position(&calls, "delete deployment orders-service-canary").is_some(), "{calls:#?}");
}

#[test]
fn without_a_deployment_nothing_begins() {
    let (output, calls) = roll_out(&[("REFUSES", "get deployment")]);
    assert_eq!((output.status.code(), calls.len()), (Some(2), 1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("get deployment"));
}
