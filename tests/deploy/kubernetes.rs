//! The manifests of Kubernetes: what they promise, by value. `waybill.yaml` is what `kubectl kustomize` makes of them.

use crate::{
    file, known_variables,
    yaml::{documents, faults},
};
use commands::reactions;
use serde_json::{Value, json};
use std::{fs, process::Command};
use waybill::{access::OPERATOR, rights, system::Service};

/// The oldest version that the manifests are for, and the newest one that is known here.
const VERSIONS: [&str; 2] = ["1.32.0", "1.37.0"];

async fn manifests() -> Vec<Value> {
    documents(&file("deploy/kubernetes/waybill.yaml")).await
}

fn of_kind<'a>(all: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    all.iter().filter(move |one| one["kind"] == kind)
}

fn named<'a>(all: &'a [Value], kind: &str, name: &str) -> &'a Value {
    all.iter()
        .find(|one| one["kind"] == kind && one["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("{kind} {name}"))
}

/// Names of what is deployed: every service, and the gateway.
fn deployed() -> Vec<String> {
    let services = Service::ALL.iter().map(|service| format!("{service}-service"));
    services.chain(["gateway".to_owned()]).collect()
}

/// Whether what is deployed under this name has consumers, and so the metric by which they are counted.
fn consumes(name: &str) -> bool {
    let service = Service::ALL.into_iter().find(|service| format!("{service}-service") == name);
    service.is_some_and(|service| !reactions::durables(service.context(), &["email".to_owned()]).is_empty())
}

#[tokio::test]
async fn every_object_is_what_kubernetes_knows() {
    for version in VERSIONS {
        for name in ["waybill.yaml", "waybill-tls.yaml"] {
            let faults = faults(&file(&format!("deploy/kubernetes/{name}")), version).await;
            assert!(faults.is_empty(), "{name} {version}: {faults}");
        }
    }
}

/// Only where kubectl is: the file is what is tested everywhere. One of everything is kept in none, so that it is looked at here.
#[tokio::test]
async fn the_one_file_is_what_kustomize_makes() {
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        eprintln!("no kubectl: waybill.yaml is not compared with its sources");
        return;
    }
    for (overlay, kept) in
        [("production", Some("waybill.yaml")), ("tls", Some("waybill-tls.yaml")), ("single", None)]
    {
        let folder = file(&format!("deploy/kubernetes/overlays/{overlay}"));
        let made = Command::new("kubectl").arg("kustomize").arg(folder).output().unwrap();
        assert!(made.status.success(), "{overlay}: {}", String::from_utf8_lossy(&made.stderr));
        if let Some(kept) = kept {
            let kept = fs::read_to_string(file(&format!("deploy/kubernetes/{kept}"))).unwrap();
            let (_, kept) = kept.split_once('\n').unwrap();
            assert!(kept == String::from_utf8_lossy(&made.stdout), "run deploy/kubernetes/render");
            continue;
        }
        let rendered = tempfile::NamedTempFile::new().unwrap();
        fs::write(rendered.path(), &made.stdout).unwrap();
        for version in VERSIONS {
            let faults = faults(rendered.path(), version).await;
            assert!(faults.is_empty(), "{overlay} {version}: {faults}");
        }
        let all = documents(rendered.path()).await;
        assert_eq!(of_kind(&all, "Deployment").count(), deployed().len());
        assert!(of_kind(&all, "Deployment").all(|one| one["spec"]["replicas"] == 1));
        let told = &named(&all, "ConfigMap", "waybill")["data"];
        assert_eq!(
            (&told["WAYBILL_REPLICAS"], &told["WAYBILL_NATS_URL"]),
            (&"1".into(), &"nats://nats:4222".into())
        );
    }
}

#[tokio::test]
async fn services_are_deployed_with_the_numbers_of_the_design() {
    let all = manifests().await;
    let mut names: Vec<_> =
        of_kind(&all, "Deployment").map(|one| one["metadata"]["name"].as_str().unwrap()).collect();
    let mut expected = deployed();
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected);
    for deployment in of_kind(&all, "Deployment") {
        let name = deployment["metadata"]["name"].as_str().unwrap();
        assert_eq!(deployment["spec"]["replicas"], 3, "{name}");
        let pod = &deployment["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(container["ports"][0]["containerPort"], 3000, "{name}");
        let command = name.strip_suffix("-service").unwrap_or(name);
        assert_eq!(container["args"], json!(["serve", command]), "{name}");
        let resources = &container["resources"];
        for (key, value) in [
            ("/requests/memory", "256Mi"),
            ("/requests/cpu", "250m"),
            ("/limits/memory", "512Mi"),
            ("/limits/cpu", "500m"),
        ] {
            assert_eq!(resources.pointer(key).unwrap(), value, "{name}{key}");
        }
        let (live, ready) = (&container["livenessProbe"], &container["readinessProbe"]);
        assert_eq!(
            (&live["httpGet"]["path"], &live["initialDelaySeconds"]),
            (&"/health".into(), &30.into()),
            "{name}"
        );
        assert_eq!(
            (&ready["httpGet"]["path"], &ready["initialDelaySeconds"]),
            (&"/ready".into(), &5.into()),
            "{name}"
        );
        assert_eq!(container["startupProbe"]["httpGet"]["path"], "/health", "{name}");
        // To be forgotten (5 s) and to drain (10 s), with room to spare.
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        let before = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
        assert!(grace >= before + 15, "{name}: {grace} s");
    }
}

/// MiB that a process takes, as docs/operations.md has it.
fn measured(name: &str) -> u64 {
    let page = fs::read_to_string(file("docs/operations.md")).unwrap();
    let sizing = page.split("\n## ").find(|section| section.starts_with("Sizing\n")).unwrap();
    // | orders | 61 MiB |
    let row = sizing.lines().find_map(|line| line.strip_prefix(&format!("| {name} | ")));
    let figure = row.and_then(|row| row.split(" MiB").next()?.parse::<u64>().ok());
    figure.unwrap_or_else(|| panic!("docs/operations.md does not say what {name} takes"))
}

#[tokio::test]
async fn requests_cover_the_memory_that_was_measured() {
    let all = manifests().await;
    for deployment in of_kind(&all, "Deployment") {
        let name = deployment["metadata"]["name"].as_str().unwrap();
        let requests = &deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"];
        let granted: u64 = requests["memory"].as_str().unwrap().strip_suffix("Mi").unwrap().parse().unwrap();
        let measured = measured(name.strip_suffix("-service").unwrap_or(name));
        assert!(measured <= granted, "{name} takes {measured} MiB and asks for {granted}");
    }
}

#[tokio::test]
async fn as_many_as_may_follow_fit_into_the_memory_that_there_is() {
    let all = manifests().await;
    let told = |name: &str| named(&all, "ConfigMap", "waybill")["data"][name].as_str().unwrap().to_owned();
    let compose = crate::yaml::interpolated(&file("docker-compose.yml")).await;
    let most = |value: &Value| value.as_str().unwrap().strip_suffix('M').unwrap().parse::<u64>().unwrap();
    let (environment, limits) =
        (&compose["x-environment"], &compose["x-waybill"]["deploy"]["resources"]["limits"]);
    for one in of_kind(&all, "Deployment") {
        let name = one["metadata"]["name"].as_str().unwrap();
        let limit = &one["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"];
        let limit = limit.as_str().unwrap().strip_suffix("Mi").unwrap().parse::<u64>().unwrap();
        let itself = measured(name.strip_suffix("-service").unwrap_or(name));
        let subscriptions: u64 = told("WAYBILL_SUBSCRIPTIONS").parse().unwrap();
        assert!(itself + followers(subscriptions) <= limit, "{name} has {limit} MiB");
        let subscriptions = environment["WAYBILL_SUBSCRIPTIONS"].as_u64().unwrap();
        assert!(itself + followers(subscriptions) <= most(&limits["memory"]), "{name}");
    }
}

/// MiB that so many subscriptions take, by what docs/benchmarks.md says that one takes.
fn followers(subscriptions: u64) -> u64 {
    let page = fs::read_to_string(file("docs/benchmarks.md")).unwrap();
    let (before, _) = page.split_once(" KiB; the process holds").unwrap();
    let each: u64 = before.rsplit(' ').next().unwrap().parse().unwrap();
    (subscriptions * each).div_ceil(1024)
}

#[tokio::test]
async fn nothing_runs_as_root_or_writes_where_it_should_not() {
    let all = manifests().await;
    for deployment in of_kind(&all, "Deployment").chain(of_kind(&all, "Job")) {
        let (name, pod) = (&deployment["metadata"]["name"], &deployment["spec"]["template"]["spec"]);
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(container["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(container["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(container["capabilities"]["drop"][0], "ALL", "{name}");
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
    }
}

#[tokio::test]
async fn each_service_has_a_database_of_its_own_and_secrets_are_not_in_the_manifests() {
    let all = manifests().await;
    let mut secrets = Vec::new();
    for deployment in of_kind(&all, "Deployment") {
        let name = deployment["metadata"]["name"].as_str().unwrap();
        let env = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
        let database = env.iter().find(|one| one["name"] == "DATABASE_URL");
        // Neither keeps a read model.
        assert_eq!(database.is_none(), ["gateway", "operations-service"].contains(&name), "{name}");
        let Some(database) = database else { continue };
        let secret = &database["valueFrom"]["secretKeyRef"];
        assert_eq!(secret["key"], "url", "{name}");
        assert_eq!(secret["name"], format!("{}-db-secret", name.strip_suffix("-service").unwrap()), "{name}");
        secrets.push(secret["name"].as_str().unwrap().to_owned());
    }
    secrets.sort_unstable();
    let count = secrets.len();
    secrets.dedup();
    assert_eq!((secrets.len(), count), (7, 7), "no database is shared");
    assert_eq!(of_kind(&all, "Secret").count(), 0);
    let gateway = &named(&all, "Deployment", "gateway")["spec"]["template"]["spec"];
    assert!(!gateway.to_string().contains("master-key"), "the gateway opens nothing");
}

#[tokio::test]
async fn what_keeps_them_available_is_there_for_each() {
    let all = manifests().await;
    for name in deployed() {
        let labels = &named(&all, "Deployment", &name)["spec"]["template"]["metadata"]["labels"];
        let service = named(&all, "Service", &name);
        // Without the track: a canary has its share.
        assert_eq!(service["spec"]["selector"], json!({ "app": name }), "{name}");
        let budget = named(&all, "PodDisruptionBudget", &name);
        assert_eq!(budget["spec"]["maxUnavailable"], 1, "{name}");
        for (key, value) in budget["spec"]["selector"]["matchLabels"].as_object().unwrap() {
            assert_eq!(&labels[key], value, "{name}");
        }
        let scaler = named(&all, "HorizontalPodAutoscaler", &name);
        assert_eq!(scaler["spec"]["scaleTargetRef"]["name"], name.as_str());
        assert_eq!((&scaler["spec"]["minReplicas"], &scaler["spec"]["maxReplicas"]), (&3.into(), &12.into()));
        // A sum of the whole service, which the number of its instances divides: more of them, less for each.
        let lag = json!({ "type": "External", "external": {
            "metric": { "name": "waybill_consumer_lag", "selector": { "matchLabels": { "app": name } } },
            "target": { "type": "AverageValue", "averageValue": "1000" },
        } });
        let cpu = json!({ "type": "Resource", "resource": {
            "name": "cpu",
            "target": { "type": "Utilization", "averageUtilization": 80 },
        } });
        let by = if consumes(&name) { vec![lag, cpu] } else { vec![cpu] };
        assert_eq!(scaler["spec"]["metrics"], json!(by), "{name}");
        let spread =
            named(&all, "Deployment", &name)["spec"]["template"]["spec"]["topologySpreadConstraints"].clone();
        assert_eq!(spread.as_array().unwrap().len(), 2, "{name}");
    }
    assert_eq!(named(&all, "Service", "gateway")["spec"]["ports"][0]["port"], 8080);
}

#[tokio::test]
async fn nothing_comes_in_or_goes_out_but_what_is_named() {
    let all = manifests().await;
    assert_eq!(of_kind(&all, "NetworkPolicy").count(), 3);
    let policy = |name: &str| named(&all, "NetworkPolicy", name)["spec"].clone();
    let house = json!({ "podSelector": { "matchLabels": { "app.kubernetes.io/part-of": "waybill" } } });
    let nats = json!({ "podSelector": { "matchLabels": { "app.kubernetes.io/name": "nats" } } });
    let watching =
        json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "monitoring" } } });
    let names = json!({
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "kube-system" } },
        "podSelector": { "matchLabels": { "k8s-app": "kube-dns" } },
    });
    let port = |port: u16| json!({ "port": port });
    let common = policy("waybill");
    // Every pod of ours, the job too.
    assert_eq!(common["podSelector"], house["podSelector"]);
    for one in of_kind(&all, "Deployment").chain(of_kind(&all, "Job")) {
        let labels = &one["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/part-of"], "waybill", "{}", one["metadata"]["name"]);
    }
    assert_eq!(common["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(common["ingress"], json!([{ "from": [house, watching], "ports": [port(3000)] }]));
    let out = json!([
        { "to": [house], "ports": [port(3000)] },
        { "to": [nats], "ports": [port(4222)] },
        { "ports": [port(5432)] },
        { "to": [watching], "ports": [port(4317), port(4318)] },
        { "to": [names], "ports": [{ "port": 53, "protocol": "UDP" }, port(53)] },
    ]);
    assert_eq!(common["egress"], out);
    let gateway = json!({
        "podSelector": { "matchLabels": { "app": "gateway" } },
        "policyTypes": ["Ingress"],
        "ingress": [{ "ports": [port(3000)] }],
    });
    assert_eq!(policy("gateway"), gateway, "from anywhere");
    let outside = json!({
        "podSelector": { "matchLabels": { "app": "notifications-service" } },
        "policyTypes": ["Egress"],
        "egress": [{ "ports": [port(25), port(443), port(465), port(587)] }],
    });
    assert_eq!(policy("notifications"), outside, "mail and webhooks, and nobody else leaves");
}

#[tokio::test]
async fn each_is_known_to_nats_by_a_key_of_its_own_and_only_the_job_makes_streams() {
    let all = manifests().await;
    let job = named(&all, "Job", "provision");
    assert_eq!(job["spec"]["template"]["spec"]["containers"][0]["args"], json!(["provision"]));
    let pods = of_kind(&all, "Deployment").chain([job]);
    let mut known = Vec::new();
    for one in pods {
        let (name, pod) = (one["metadata"]["name"].as_str().unwrap(), &one["spec"]["template"]["spec"]);
        let env = pod["containers"][0]["env"].as_array().unwrap();
        let key = env.iter().find(|one| one["name"] == "WAYBILL_NATS_NKEY_FILE").unwrap();
        assert_eq!(key["value"], "/run/secrets/nats/seed", "{name}");
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == "nats").unwrap();
        let role =
            if name == "provision" { "provisioning" } else { name.strip_suffix("-service").unwrap_or(name) };
        assert_eq!(volume["secret"]["secretName"], format!("{role}-nats-secret"), "{name}");
        known.push(role.to_owned());
    }
    let mut roles: Vec<_> = rights::roles().filter(|role| *role != OPERATOR).map(str::to_owned).collect();
    known.sort_unstable();
    roles.sort_unstable();
    assert_eq!(known, roles);
    let values = documents(&file("deploy/kubernetes/nats-values.yaml")).await.remove(0);
    assert_eq!(values["config"]["merge"]["00$include"], "../nats-accounts/accounts.conf");
    assert_eq!(values["container"]["patch"][0]["value"]["mountPath"], "/etc/nats-accounts");
    assert_eq!(values["podTemplate"]["patch"][0]["value"]["secret"]["secretName"], "nats-accounts");
}

/// With TLS everything else is as it is without.
#[tokio::test]
async fn with_tls_each_shows_a_certificate_of_its_own_and_is_asked_by_who_has_one() {
    let all = documents(&file("deploy/kubernetes/waybill-tls.yaml")).await;
    let plain = manifests().await;
    assert_eq!(all.len(), plain.len());
    let told = &named(&all, "ConfigMap", "waybill")["data"];
    for (variable, file) in [
        ("WAYBILL_NATS_CA", "ca.crt"),
        ("WAYBILL_NATS_CERT", "tls.crt"),
        ("WAYBILL_NATS_KEY", "tls.key"),
        ("WAYBILL_TLS_CA", "ca.crt"),
        ("WAYBILL_TLS_CERT", "tls.crt"),
        ("WAYBILL_TLS_KEY", "tls.key"),
        ("WAYBILL_TLS_CLIENT_CA", "ca.crt"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.crt"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "tls.crt"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "tls.key"),
    ] {
        assert_eq!(told[variable], format!("/run/secrets/tls/{file}"), "{variable}");
    }
    for one in of_kind(&all, "Deployment").chain([named(&all, "Job", "provision")]) {
        let (kind, name) = (one["kind"].as_str().unwrap(), one["metadata"]["name"].as_str().unwrap());
        let role =
            if name == "provision" { "provisioning" } else { name.strip_suffix("-service").unwrap_or(name) };
        let pod = &one["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == "tls").unwrap();
        assert_eq!(volume["secret"]["secretName"], format!("{role}-tls"), "{name}");
        let container = &pod["containers"][0];
        let mounts = container["volumeMounts"].as_array().unwrap();
        assert!(
            mounts.iter().any(|one| one["name"] == "tls" && one["mountPath"] == "/run/secrets/tls"),
            "{name}"
        );
        if name == "provision" {
            continue;
        }
        let env = container["env"].as_array().unwrap();
        let place = env.iter().find(|one| one["name"] == "WAYBILL_ADVERTISE_URL").unwrap();
        assert_eq!(place["value"], "https://$(POD_IP):3000", "{name}");
        let before = &named(&plain, kind, name)["spec"]["template"]["spec"]["containers"][0];
        for (probe, path) in
            [("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")]
        {
            let (now, before) = (&container[probe], &before[probe]);
            assert_eq!(now["initialDelaySeconds"], before["initialDelaySeconds"], "{name}");
            let asked = ["waybill", "health"].into_iter().chain((path == "/ready").then_some("--ready"));
            if name == "gateway" {
                // Its own clients have no certificate, so the kubelet needs none.
                let expected = json!({ "path": path, "port": "http", "scheme": "HTTPS" });
                assert_eq!(now["httpGet"], expected, "{name}");
                assert!(now["exec"].is_null());
            } else {
                assert_eq!(now["exec"]["command"], json!(asked.collect::<Vec<_>>()), "{name}");
                assert!(now["httpGet"].is_null());
            }
        }
        assert_eq!(container["resources"], before["resources"], "{name}");
    }
    let gateway = named(&all, "Deployment", "gateway").to_string();
    for shown in ["WAYBILL_GATEWAY_CERT", "WAYBILL_GATEWAY_KEY", "gateway-clients-tls"] {
        assert!(gateway.contains(shown), "{shown}");
    }
    let values = documents(&file("deploy/kubernetes/nats-values-tls.yaml")).await.remove(0);
    for tls in [&values["config"]["nats"]["tls"], &values["config"]["cluster"]["tls"]] {
        assert_eq!((&tls["enabled"], &tls["merge"]["verify"]), (&true.into(), &true.into()));
        assert_eq!(tls["secretName"], values["tlsCA"]["secretName"]);
    }
}

#[tokio::test]
async fn nats_writes_to_disk_before_it_acknowledges() {
    let values = documents(&file("deploy/kubernetes/nats-values.yaml")).await.remove(0);
    let jetstream = &values["config"]["jetstream"];
    assert_eq!(jetstream["merge"]["sync_interval"], "always");
    assert_eq!(values["config"]["cluster"]["replicas"], 3);
    // As in the configuration of a node: the two must not drift apart.
    let node = fs::read_to_string(file("nats/conf/cluster.conf")).unwrap();
    for (key, value) in jetstream["merge"]["limits"]["batch"].as_object().unwrap() {
        assert!(node.contains(&format!("{key}: {value}")), "{key}: {value}");
    }
    // The one node differs in being one, and in what it takes.
    let single = documents(&file("deploy/kubernetes/nats-values-single.yaml")).await.remove(0);
    assert_eq!(single["config"]["cluster"], json!({ "enabled": false }));
    assert!(single["config"]["jetstream"]["merge"].is_null() && single["config"]["merge"].is_null());
    assert_eq!(single["podDisruptionBudget"]["enabled"], false);
}

#[tokio::test]
async fn the_metric_that_services_scale_by_is_served() {
    let values = documents(&file("deploy/kubernetes/prometheus-adapter-values.yaml")).await.remove(0);
    let [rule] = &values["rules"]["external"].as_array().unwrap()[..] else { panic!("one rule") };
    assert_eq!(rule["name"]["as"], "waybill_consumer_lag");
    assert_eq!(rule["seriesQuery"], r#"waybill_consumer_lag{namespace!="",app!=""}"#);
    // Each instance says the same of a consumer: their sum would grow with every one that is added.
    assert_eq!(rule["metricsQuery"], "sum(max by (durable) (<<.Series>>{<<.LabelMatchers>>}))");
    assert_eq!(rule["resources"]["overrides"], json!({ "namespace": { "resource": "namespace" } }));
    assert!(values["rules"]["custom"].is_null());
}

/// Those of the map, and those of each container.
#[tokio::test]
async fn every_variable_is_one_that_is_read() {
    let known = known_variables().await;
    for overlay in ["waybill.yaml", "waybill-tls.yaml"] {
        let all = documents(&file(&format!("deploy/kubernetes/{overlay}"))).await;
        let map = &named(&all, "ConfigMap", "waybill")["data"];
        let mut told: Vec<_> =
            map.as_object().unwrap().keys().map(|name| ("the map", name.as_str())).collect();
        for one in of_kind(&all, "Deployment").chain(of_kind(&all, "Job")) {
            let container = &one["spec"]["template"]["spec"]["containers"][0];
            assert_eq!(container["envFrom"][0]["configMapRef"]["name"], "waybill");
            let env = container["env"].as_array().unwrap();
            let name = one["metadata"]["name"].as_str().unwrap();
            told.extend(env.iter().map(|variable| (name, variable["name"].as_str().unwrap())));
        }
        for (name, variable) in told {
            // What others are made of by Kubernetes itself.
            let parts = map.to_string().contains(&format!("$({variable})"))
                || all.iter().any(|one| one.to_string().contains(&format!("$({variable})")));
            assert!(parts || known.contains(variable), "{overlay}: {name}: nobody reads {variable}");
        }
    }
}
