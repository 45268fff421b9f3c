//! How an image comes into a cluster, `deploy/ci/provision.py`, `schema_gate.py`, `apply.py` and `rollout.py`: with a `kubectl` that notes what it is asked and
//! plays a cluster, as there is none where the tests run.

use crate::file;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
};

/// The cluster: one deployment and its canary; `REFUSES` is what fails, `READY`, `RESTARTS`, `METRICS` and `ENV` are the canary's,
/// `OLDER` what its image does not know. `MANIFESTS` is what kustomize makes, `JOB` how a job ends. `MISSING` does not run yet,
/// `CHANGED` is changed by what is applied.
const KUBECTL: &str = r#"#!/usr/bin/env python3
import json, os, sys
words = sys.argv[3:]
line = " ".join(words)
given = sys.stdin.read() if words[0] == "apply" else ""
with open(os.environ["CALLS"], "a") as calls:
    calls.write(line + (" " + given.replace("\n", "\\n") if given else "") + "\n")
refuses = os.environ.get("REFUSES")
if refuses and refuses in line:
    sys.exit("no: " + refuses)
older = os.environ.get("OLDER")
if older and older in words:
    sys.exit(f"error: unexpected argument '{older}' found\ncommand terminated with exit code 64")
container = {"name": "waybill", "image": "waybill:old", "env": [{"name": os.environ.get("ENV", "X"), "value": "x"}]}
if words[0] == "kustomize":
    print(open(os.environ["MANIFESTS"]).read())
elif words[:2] == ["get", "deployment"]:
    labels = {"app": words[2], "track": "stable"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": 3, "selector": {"matchLabels": labels}, "template": template}
    print(json.dumps({"apiVersion": "apps/v1", "kind": "Deployment",
                      "metadata": {"name": words[2], "resourceVersion": "7",
                                   "generation": 2 if words[2] == os.environ.get("CHANGED") else 1}, "spec": spec, "status": {}}))
elif words[:2] == ["get", "deployments"]:
    names = "notifications operations shipping payments inventory fulfilment orders users".split()
    names = [name + "-service" for name in names] + ["gateway"]
    spec = {"replicas": 5, "template": {"spec": {"containers": [container]}}}
    print(json.dumps({"items": [{"metadata": {"name": name, "generation": 1}, "spec": spec}
                                for name in names if name != os.environ.get("MISSING")]}))
elif words[:2] == ["get", "job"]:
    end = {"type": os.environ.get("JOB", "Complete"), "status": "True"}
    print(json.dumps({"status": {"conditions": [{"type": "SuccessCriteriaMet", "status": "True"}, end]}}))
elif words[0] == "logs":
    print("has no version 3")
elif words[:2] == ["get", "pods"]:
    state = {"ready": os.environ.get("READY", "1") == "1", "restartCount": int(os.environ.get("RESTARTS", "0"))}
    labels = dict(one.split("=") for one in words[words.index("--selector") + 1].split(","))
    print(json.dumps({"items": [{"metadata": {"name": "canary-x", "labels": labels}, "spec": {"containers": [container]},
                                 "status": {"containerStatuses": [state]}}]}))
elif words[:2] == ["get", "--raw"] or words[0] == "exec":
    print(os.environ.get("METRICS", 'waybill_commands_total{outcome="recorded"} 100'))
"#;

/// Runs a script with such a cluster; what came of it, and what kubectl was asked.
fn run(script: &str, words: &[&str], cluster: &[(&str, &str)]) -> (Output, Vec<String>) {
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
        .arg(file("deploy/ci").join(script))
        .args(words)
        .env("PATH", path.unwrap())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("CALLS", &calls)
        .env("MANIFESTS", file("deploy/kubernetes/waybill-tls.yaml"))
        .envs(cluster.iter().copied())
        .output()
        .unwrap();
    let calls = fs::read_to_string(calls).unwrap_or_default();
    (output, calls.lines().map(str::to_owned).collect())
}

/// Rolls an image of orders out.
fn roll_out(cluster: &[(&str, &str)]) -> (Output, Vec<String>) {
    run("rollout.py", &["orders", "waybill:new", "--watch", "0.02"], cluster)
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
    // By its own executable, which has the certificate that the service wants to see.
    let asked = "exec canary-x --container waybill -- waybill health --metrics";
    let watched = position(&calls, asked).unwrap();
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

/// One goes back to it: how to ask for what is counted came later.
#[test]
fn an_older_image_that_does_not_say_what_it_counts_is_watched_by_whether_it_is_ready() {
    let older = ("OLDER", "--metrics");
    let (output, calls) = run("rollout.py", &["orders", "waybill:old", "--watch", "1"], &[older]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.matches("too old to say what it counts: only whether it is ready").count(), 1, "{said}");
    let asked =
        |how: &str| calls.iter().filter(|call| call.ends_with(&format!("waybill health {how}"))).count();
    assert!(asked("--metrics") == 1 && asked("--ready") > 0, "{calls:#?}");
    assert!(position(&calls, "set image deployment/orders-service *=waybill:old").is_some(), "{calls:#?}");

    let (output, calls) = roll_out(&[older, ("REFUSES", "health --ready")]);
    assert_eq!(output.status.code(), Some(1), "{calls:#?}");
    assert!(position(&calls, "delete deployment orders-service-canary").is_some(), "{calls:#?}");
    assert!(position(&calls, "set image").is_none(), "{calls:#?}");
}

/// Each is judged by itself: many commands do not cover up that queries fail, or what nobody asked for.
#[test]
fn a_canary_is_judged_by_all_that_it_does() {
    let many = "waybill_commands_total{outcome=\"recorded\"} 9000\n";
    for (what, counted) in [
        (
            "requests",
            "waybill_http_requests_total{status=\"200\"} 90\nwaybill_http_requests_total{status=\"500\"} 10",
        ),
        (
            "reactions",
            "waybill_reaction_seconds_count{durable=\"orders-users\"} 10\n\
             waybill_reaction_failures_total{durable=\"orders-users\",cause=\"message\"} 10",
        ),
        (
            "commits",
            "waybill_projection_commit_seconds_count{projection=\"orders\"} 10\n\
             waybill_projection_failures_total{projection=\"orders\",kind=\"commit\"} 10",
        ),
    ] {
        let (output, calls) = roll_out(&[("METRICS", &format!("{many}{counted}"))]);
        assert_eq!(output.status.code(), Some(1), "{what}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            told.contains(&format!(" {what} failed")) && position(&calls, "set image").is_none(),
            "{told}"
        );
    }
    // Of a world that is away, and of a race that another projector won, an image is not guilty.
    let innocent = "waybill_reaction_seconds_count{durable=\"orders-users\"} 30\n\
        waybill_reaction_failures_total{durable=\"orders-users\",cause=\"world\"} 30\n\
        waybill_projection_commit_seconds_count{projection=\"orders\"} 30\n\
        waybill_projection_failures_total{projection=\"orders\",kind=\"lost\"} 30";
    let (output, _) = roll_out(&[("METRICS", innocent)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_a_canary_did_too_little_of_is_named() {
    for (counted, told) in [
        ("waybill_http_requests_total{status=\"500\"} 3", "3 requests: too few, not judged"),
        ("", "it was asked nothing"),
        ("waybill_commands_total{outcome=\"recorded\"} 100", "100 commands\n"),
    ] {
        let (output, _) = roll_out(&[("METRICS", counted)]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(told), "{told}: {text}");
    }
}

/// What is asked for is counted by somebody, so that a name that changes does not end the judging.
#[test]
fn a_canary_is_judged_by_what_is_counted() {
    let script = fs::read_to_string(file("deploy/ci/rollout.py")).unwrap();
    let (_, judged) = script.split_once("JUDGED = {").unwrap();
    let (judged, _) = judged.split_once("\n}").unwrap();
    assert_eq!(judged.matches("waybill_").count(), 10, "{judged}");
    crate::observability::check_text("rollout.py", judged);
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

#[test]
fn the_gateway_is_asked_as_its_clients_ask_it_with_tls_and_without() {
    for (variable, place) in
        [("WAYBILL_GATEWAY_CERT", "https:canary-x:3000"), ("WAYBILL_PORT", "canary-x:3000")]
    {
        let words = ["gateway", "waybill:new", "--watch", "0.02", "--namespace", "shop"];
        let (output, calls) = run("rollout.py", &words, &[("ENV", variable)]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let asked = format!("get --raw /api/v1/namespaces/shop/pods/{place}/proxy/metrics");
        assert!(position(&calls, &asked).is_some(), "{calls:#?}");
    }
}

#[test]
fn a_gateway_that_asks_its_clients_for_certificates_is_not_begun() {
    let (output, calls) =
        run("rollout.py", &["gateway", "waybill:new"], &[("ENV", "WAYBILL_GATEWAY_CLIENT_CA")]);
    assert_eq!((output.status.code(), calls.len()), (Some(2), 1), "{calls:#?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("certificate"));
}

#[test]
fn what_a_version_needs_is_made_by_its_own_image_before_it_comes() {
    let words = ["waybill:new", "--overlay", "overlays/tls", "--timeout", "7"];
    let (output, calls) = run("provision.py", &words, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(calls.len(), 4, "{calls:#?}");
    assert_eq!(calls[0], "kustomize overlays/tls");
    // A job cannot be changed.
    assert_eq!(calls[1], "delete job provision --ignore-not-found --wait=true");
    let job = calls[2].strip_prefix("apply --filename - ").unwrap().replace("\\n", "\n");
    assert!(job.contains("\nkind: Job\n") && job.contains("\n        image: waybill:new\n"), "{job}");
    assert!(
        !job.contains("---") && job.contains("secretName: provisioning-tls"),
        "the job and nothing else: {job}"
    );
    assert_eq!(calls[3], "wait --for=condition=complete job/provision --timeout=7s");
}

#[test]
fn where_it_cannot_be_made_that_is_said_with_the_log_of_the_job() {
    for refuses in ["kustomize", "delete job", "apply", "wait --for"] {
        let (output, calls) = run("provision.py", &["waybill:new"], &[("REFUSES", refuses)]);
        assert_eq!(output.status.code(), Some(1), "{refuses}: {calls:#?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(refuses), "{refuses}");
        assert!(calls.last().unwrap().starts_with(if refuses == "wait --for" {
            "logs job/provision"
        } else {
            refuses
        }));
    }
}

#[test]
fn a_version_is_asked_whether_it_can_read_the_log_before_it_comes() {
    let words = ["waybill:new", "--overlay", "overlays/tls"];
    let (output, calls) = run("schema_gate.py", &words, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(calls.len(), 4, "{calls:#?}");
    assert_eq!(calls[1], "delete job schema-gate --ignore-not-found --wait=true");
    let job = calls[2].strip_prefix("apply --filename - ").unwrap().replace("\\n", "\n");
    for line in [
        "kind: Job",
        "  name: schema-gate",
        "      - args:\n        - verify\n        - --schema",
        "        image: waybill:new",
        "          secretName: operator-nats-secret",
        "          secretName: operator-tls",
        "      restartPolicy: Never",
        "  backoffLimit: 0",
    ] {
        assert!(job.contains(&format!("\n{line}\n")), "{line} is not in {job}");
    }
    // It reads, and has no right to more.
    assert!(!job.contains("provision"), "{job}");
    // Without TLS the same, with one secret less.
    let plain = [("MANIFESTS", file("deploy/kubernetes/waybill.yaml"))];
    let plain: Vec<_> = plain.iter().map(|(name, path)| (*name, path.to_str().unwrap())).collect();
    let (output, calls) = run("schema_gate.py", &["waybill:new"], &plain);
    assert!(output.status.success() && !calls[2].contains("operator-tls"), "{calls:#?}");
}

#[test]
fn a_version_that_cannot_read_the_log_does_not_come() {
    for (cluster, says) in [
        (("JOB", "Failed"), "has no version 3"),
        (("JOB", "Suspended"), "no answer"),
        (("REFUSES", "apply"), "apply"),
    ] {
        let (output, calls) = run("schema_gate.py", &["waybill:new", "--timeout", "0"], &[cluster]);
        assert_eq!(output.status.code(), Some(1), "{cluster:?}: {calls:#?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains(says), "{told}");
    }
}

/// What was applied, in order: the kinds and names of each call, and its text.
fn applied(calls: &[String]) -> Vec<(Vec<String>, String)> {
    let texts = calls.iter().filter_map(|call| call.strip_prefix("apply --filename - "));
    let named = |text: String| {
        let name = |object: &str| {
            let kind = object.lines().find_map(|line| line.strip_prefix("kind: ")).unwrap();
            let (_, metadata) = object.split_once("\nmetadata:\n").unwrap();
            let name = metadata.lines().find_map(|line| line.strip_prefix("  name: ")).unwrap();
            format!("{kind} {name}")
        };
        (text.split("\n---\n").map(name).collect(), text)
    };
    texts.map(|text| named(text.replace("\\n", "\n"))).collect()
}

#[test]
fn manifests_that_changed_are_applied_to_what_runs_with_its_images() {
    let words = ["--overlay", "overlays/tls"];
    let (output, calls) = run("apply.py", &words, &[("CHANGED", "orders-service")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(calls[0], "kustomize overlays/tls");
    let applied = applied(&calls);
    let (first, deployments) = applied.split_first().unwrap();
    for object in [
        "ConfigMap waybill",
        "Service gateway",
        "HorizontalPodAutoscaler orders-service",
        "NetworkPolicy waybill",
    ] {
        assert!(first.0.iter().any(|one| one == object), "{object}: {:?}", first.0);
    }
    assert!(
        !first.0.iter().any(|one| one.starts_with("Deployment ") || one.starts_with("Job ")),
        "{:?}",
        first.0
    );
    let names: Vec<_> = deployments.iter().map(|(names, _)| names.join(" ")).collect();
    assert_eq!(
        (names.len(), &*names[0], &*names[8]),
        (9, "Deployment notifications-service", "Deployment gateway")
    );
    for (name, text) in deployments {
        assert!(
            text.contains("\n        image: waybill:old\n") && text.contains("\n  replicas: 5\n"),
            "{name:?}: {text}"
        );
    }
    // Only what changed is waited for.
    let waited: Vec<_> = calls.iter().filter(|call| call.starts_with("rollout")).collect();
    assert_eq!(waited, ["rollout status deployment/orders-service --timeout=600s"]);
}

#[test]
fn what_does_not_run_yet_gets_the_new_image() {
    let cluster = [("MISSING", "users-service")];
    let (output, calls) = run("apply.py", &["--image", "waybill:new"], &cluster);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (names, text) in &applied(&calls)[1..] {
        let is_new = names == &["Deployment users-service"];
        assert_eq!(
            text.contains("image: waybill:new\n") && text.contains("\n  replicas: 3\n"),
            is_new,
            "{names:?}"
        );
    }
    assert!(position(&calls, "rollout status deployment/users-service").is_some(), "{calls:#?}");
}

#[test]
fn manifests_with_which_a_service_does_not_get_ready_are_taken_back() {
    let cluster = [("CHANGED", "payments-service"), ("REFUSES", "rollout status")];
    let (output, calls) = run("apply.py", &[], &cluster);
    assert_eq!(output.status.code(), Some(1), "{calls:#?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("payments-service"));
    assert_eq!(calls.last().unwrap(), "rollout undo deployment/payments-service");
    assert_eq!(applied(&calls).len(), 1 + 4, "those after it are not begun");
}
