//! The pods of `deploy/kubernetes`, in the words of compose: one of each. NATS and PostgreSQL are not in the manifests, and their
//! secrets are made by hand: those of compose stand for them, under the names that docs/deployment.md gives them.

use serde_json::{Map, Value, json};
use std::{fs, path::Path};

/// Where a container listens that serves.
const PORT: u16 = 3000;
/// A pod of the chart of NATS is a node of compose.
const NODES: [(&str, &str); 3] = [
    ("nats-0.nats-headless", "nats-1"),
    ("nats-1.nats-headless", "nats-2"),
    ("nats-2.nats-headless", "nats-3"),
];

/// What the manifests run, as services of compose.
pub(super) fn services(all: &[Value], project: &Path) -> Map<String, Value> {
    let map = all.iter().find(|one| one["kind"] == "ConfigMap").map_or(&Value::Null, |one| &one["data"]);
    let runs = all.iter().filter(|one| one["kind"] == "Deployment" || one["kind"] == "Job");
    runs.map(|one| (text(&one["metadata"]["name"]).to_owned(), service(one, map, project))).collect()
}

fn service(one: &Value, map: &Value, project: &Path) -> Value {
    let (name, pod) = (text(&one["metadata"]["name"]), &one["spec"]["template"]["spec"]);
    let container = &pod["containers"][0];
    let mut environment = map.as_object().cloned().unwrap_or_default();
    for variable in list(&container["env"]) {
        environment.insert(text(&variable["name"]).to_owned(), value(variable, project).into());
    }
    for value in environment.values_mut() {
        let told = text(value).replace("$(POD_IP)", "127.0.0.1");
        *value = NODES.iter().fold(told, |told, (pod, node)| told.replace(pod, node)).into();
    }
    let mut needs: Map<_, _> = NODES
        .iter()
        .map(|(_, node)| ((*node).to_owned(), json!({ "condition": "service_healthy" })))
        .collect();
    if name != "provision" {
        needs.insert("provision".to_owned(), json!({ "condition": "service_completed_successfully" }));
    }
    if environment.contains_key("DATABASE_URL") {
        needs.insert(name.replace("-service", "-db"), json!({ "condition": "service_healthy" }));
    }
    json!({
        "image": text(&container["image"]).rsplit('/').next(),
        "command": container["args"],
        "environment": environment,
        "volumes": mounts(pod, container),
        "depends_on": needs,
        "restart": if pod["restartPolicy"] == "OnFailure" { "on-failure" } else { "no" },
        "stop_grace_period": format!("{}s", pod["terminationGracePeriodSeconds"]),
        "healthcheck": check(container),
    })
}

/// What a variable says.
fn value(variable: &Value, project: &Path) -> String {
    let secret = &variable["valueFrom"]["secretKeyRef"];
    if variable["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP" {
        return "127.0.0.1".to_owned();
    }
    let Some(service) = secret["name"].as_str().and_then(|name| name.strip_suffix("-db-secret")) else {
        return text(&variable["value"]).to_owned();
    };
    // As for a server that speaks TLS and asks for certificates.
    let password = fs::read_to_string(project.join(format!("secrets/{service}-database-password")));
    let tls = "sslmode=verify-full&sslrootcert=/run/secrets/tls/ca.crt\
               &sslcert=/run/secrets/tls/tls.crt&sslkey=/run/secrets/tls/tls.key";
    format!("postgres://{service}:{}@{service}-db:5432/{service}?{tls}", password.unwrap_or_default())
}

/// Each file of a secret, and each folder that is empty at first.
fn mounts(pod: &Value, container: &Value) -> Vec<String> {
    let mount = |mount: &Value| {
        let place = text(&mount["mountPath"]);
        let volume = list(&pod["volumes"]).find(|volume| volume["name"] == mount["name"]);
        let secret = volume.map_or("", |volume| text(&volume["secret"]["secretName"]));
        let files = files(secret);
        if files.is_empty() {
            return vec![format!("data:{place}")];
        }
        files.into_iter().map(|(key, file)| format!("./secrets/{file}:{place}/{key}:ro")).collect()
    };
    list(&container["volumeMounts"]).flat_map(mount).collect()
}

/// The keys of a secret, and where they come from.
fn files(secret: &str) -> Vec<(&'static str, String)> {
    if let Some(role) = secret.strip_suffix("-nats-secret") {
        return vec![("seed", format!("nats/seeds/{role}.nk"))];
    }
    if let Some(of) = secret.strip_suffix("-tls") {
        let role = of.strip_suffix("-clients").unwrap_or(of);
        let [ca, certificate, key] = ["ca.pem".to_owned(), format!("{role}.pem"), format!("{role}.key")]
            .map(|file| format!("tls/{file}"));
        return vec![("ca.crt", ca), ("tls.crt", certificate), ("tls.key", key)];
    }
    if secret == "waybill-secrets" { vec![("master-key", "master-key".to_owned())] } else { Vec::new() }
}

/// Whether it is ready, for as long as it may take to start.
fn check(container: &Value) -> Value {
    let (ready, start) = (&container["readinessProbe"], &container["startupProbe"]);
    let asked = match ready["exec"]["command"].as_array() {
        Some(command) => command.clone(),
        None if ready["httpGet"].is_null() => return json!({ "disable": true }),
        None => {
            let scheme = text(&ready["httpGet"]["scheme"]).to_lowercase();
            let url = format!("{scheme}://127.0.0.1:{PORT}");
            ["waybill", "health", "--ready", "--url", &url].map(Value::from).to_vec()
        }
    };
    let number = |of: &Value| of.as_u64().unwrap_or(1);
    let every = number(&ready["periodSeconds"]);
    let tries = number(&start["failureThreshold"]) * number(&start["periodSeconds"]) / every;
    let test: Vec<_> = [Value::from("CMD")].into_iter().chain(asked).collect();
    json!({
        "test": test,
        "interval": format!("{every}s"),
        "timeout": format!("{}s", number(&ready["timeoutSeconds"])),
        "retries": tries,
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
