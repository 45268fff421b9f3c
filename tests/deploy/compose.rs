//! `docker-compose.yml`: valid by the specification, and what it promises, by value.

use crate::{
    file, known_variables,
    yaml::{documents, interpolated, refused},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs};
use waybill::{access::OPERATOR, rights, system::Service};
use waybill_tests::Process;

async fn compose() -> Value {
    interpolated(&file("docker-compose.yml")).await
}

/// Services that keep a read model.
fn with_database() -> impl Iterator<Item = Service> {
    Service::ALL.into_iter().filter(|service| *service != Service::Operations)
}

#[tokio::test]
async fn it_is_what_the_specification_of_compose_knows() {
    let path = file("docker-compose.yml");
    assert_eq!(refused(&path).await, None);
    // Who looks would see it if there were something.
    let text = fs::read_to_string(&path).unwrap();
    let wrong = tempfile::NamedTempFile::new().unwrap();
    for (right, other, why) in [
        ("restart: unless-stopped", "restarts: unless-stopped", "`restarts`"),
        ("start_period: 5s", "start_period: soon", "`soon`"),
        ("condition: service_healthy }", "condition: service_fine }", "`service_fine`"),
    ] {
        assert!(text.contains(right), "{right}");
        fs::write(wrong.path(), text.replacen(right, other, 1)).unwrap();
        let said = refused(wrong.path()).await;
        assert!(said.as_ref().is_some_and(|said| said.contains(why)), "{other}: {said:?}");
    }
}

#[tokio::test]
async fn every_service_is_there_on_its_port_with_a_database_of_its_own() {
    let compose = compose().await;
    let mut databases = BTreeSet::new();
    for service in Service::ALL {
        let one = &compose["services"][format!("{service}-service")];
        assert_eq!(one["command"], json!(["serve", service.name()]));
        assert_eq!(one["ports"], json!([format!("127.0.0.1:{}:3000", service.port())]), "{service}");
        let url = &one["environment"]["DATABASE_URL_FILE"];
        assert_eq!(url.is_null(), service == Service::Operations, "{service}");
        databases.extend(url.as_str().map(str::to_owned));
    }
    assert_eq!(databases.len(), with_database().count(), "no database is shared");
    for service in with_database() {
        let database = &compose["services"][format!("{service}-db")];
        assert_eq!(database["environment"]["SERVICE"], service.name());
        let name = format!("{service}-database-url");
        assert!(databases.contains(&format!("/run/secrets/{name}")), "{service}");
        let secrets = compose["services"][format!("{service}-service")]["secrets"].as_array().unwrap();
        assert!(secrets.contains(&json!(name)), "{service} is given its URL");
        // Only the service and its database know its password.
        for (other, definition) in compose["services"].as_object().unwrap() {
            let known = definition["secrets"].to_string().contains(&format!("\"{service}-database"));
            let own = other == &format!("{service}-service") || other == &format!("{service}-db");
            assert_eq!(known, own, "{other} and the password of {service}");
        }
        let volume = format!("{service}-db-data:/var/lib/postgresql/data");
        assert!(database["volumes"].as_array().unwrap().contains(&json!(volume)), "{service}");
    }
    assert_eq!(compose["services"]["gateway"]["ports"], json!(["127.0.0.1:8080:8080"]));
}

#[tokio::test]
async fn what_starts_waits_for_what_it_needs_and_starts_again() {
    let compose = compose().await;
    let services = compose["services"].as_object().unwrap();
    for (name, one) in services {
        let once = name == "provision";
        assert_eq!(one["restart"], if once { "on-failure" } else { "unless-stopped" }, "{name}");
        assert!(one["deploy"]["resources"]["limits"]["memory"].is_string(), "{name} has a limit");
        // A list waits for nothing but that something has been started.
        assert!(one["depends_on"].is_null() || one["depends_on"].is_object(), "{name}");
        for (needed, how) in one["depends_on"].as_object().into_iter().flatten() {
            let made = needed == "provision";
            let condition = if made { "service_completed_successfully" } else { "service_healthy" };
            assert_eq!(how["condition"], condition, "{name} waits for {needed}");
            assert!(
                made || services[needed]["healthcheck"]["test"].is_array(),
                "{needed} says when it is ready"
            );
        }
        assert_eq!(one["read_only"], true, "{name}");
        assert_eq!(one["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(one["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        let waybill = name.ends_with("-service") || name == "gateway";
        if waybill {
            let asked = one["healthcheck"]["test"].as_array().unwrap();
            assert_eq!(asked[..4], ["CMD", "waybill", "health", "--ready"].map(Value::from), "{name}");
            // With the certificate that it listens with; the gateway's clients on this machine speak plainly.
            let url = if name == "gateway" { &["--url", "http://127.0.0.1:8080"][..] } else { &[] };
            assert_eq!(asked[4..], url.iter().copied().map(Value::from).collect::<Vec<_>>(), "{name}");
        }
        let open = one["environment"].to_string().to_lowercase();
        assert!(!open.contains("password\":") || open.contains("_file\":"), "{name}: secrets are files");
    }
    for service in with_database() {
        let needs = &services[&format!("{service}-service")]["depends_on"];
        assert!(needs[format!("{service}-db")].is_object() && needs["nats-1"].is_object(), "{service}");
        // Without root's rights it cannot become somebody else: it is from the start who owns its files.
        let database = &services[&format!("{service}-db")];
        assert_eq!(database["user"], "postgres", "{service}");
        assert!(database["tmpfs"].to_string().contains("/var/run/postgresql:uid=70"), "{service}");
    }
}

#[tokio::test]
async fn who_looks_on_is_there_only_when_asked_for() {
    let compose = compose().await;
    let services = compose["services"].as_object().unwrap();
    let looking: Vec<_> =
        services.iter().filter(|(_, one)| one["profiles"] == json!(["observability"])).collect();
    let names: Vec<_> = looking.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["collector", "grafana", "jaeger", "prometheus"]);
    for ((name, one), (image, ready)) in looking.into_iter().zip([
        ("otel/opentelemetry-collector-contrib", ""),
        ("grafana/grafana", "/api/health"),
        ("jaegertracing/jaeger", "/status"),
        ("prom/prometheus", "/-/ready"),
    ]) {
        let (from, tag) = one["image"].as_str().unwrap().split_once(':').unwrap();
        assert_eq!(from, image, "{name}");
        assert_eq!(tag.split('.').count(), 3, "{name}: a version, and no moving tag: {tag}");
        // Nothing in the image of the collector could ask, so nobody waits for it.
        let asked =
            one["healthcheck"]["test"].as_array().and_then(|test| test.last()?.as_str()).unwrap_or("");
        assert!(asked.ends_with(ready) && asked.is_empty() == ready.is_empty(), "{name}: {asked}");
    }
    assert_eq!(services["collector"]["depends_on"], json!({ "jaeger": { "condition": "service_healthy" } }));
    assert_eq!(
        services["grafana"]["depends_on"],
        json!({ "prometheus": { "condition": "service_healthy" } })
    );
    // Metrics come one way only, else they would be counted twice.
    let collector = documents(&file("deploy/observability/collector.yaml")).await.remove(0);
    let pipelines = collector["service"]["pipelines"].as_object().unwrap();
    assert_eq!(pipelines.keys().collect::<Vec<_>>(), ["logs", "traces"]);
    let used: BTreeSet<_> = pipelines
        .values()
        .flat_map(|one| one["exporters"].as_array().unwrap())
        .map(Value::to_string)
        .collect();
    let made = collector["exporters"].as_object().unwrap().keys().map(|name| json!(name).to_string());
    assert_eq!(used, made.collect());
    for (name, one) in services.iter().filter(|(_, one)| one["environment"]["WAYBILL_NATS_URL"].is_string()) {
        assert_eq!(one["environment"]["OTEL_METRICS_EXPORTER"], "none", "{name}");
    }
    let prometheus = documents(&file("deploy/observability/prometheus.yaml")).await.remove(0);
    let scraped = prometheus["scrape_configs"].to_string();
    for service in Service::ALL {
        assert!(scraped.contains(&format!("\"{service}-service:3000\"")), "{service}");
    }
    assert!(scraped.contains("\"gateway:8080\""), "{scraped}");
}

#[tokio::test]
async fn nats_is_three_durable_nodes_or_one() {
    let compose = compose().await;
    for name in ["nats-1", "nats-2", "nats-3"] {
        let node = &compose["services"][name];
        assert_eq!(node["profiles"], json!(["cluster"]));
        assert_eq!(node["environment"]["WAYBILL_NATS_NAME"], name);
        assert_eq!(node["volumes"][0], "./secrets/nats/cluster.conf:/etc/nats/cluster.conf:ro");
        assert_eq!(node["volumes"][1], "./secrets/nats/accounts.conf:/etc/nats/accounts.conf:ro");
        assert_eq!(node["volumes"][2], format!("{name}-data:/data"));
    }
    assert_eq!(compose["services"]["nats"]["profiles"], json!(["single"]));
    for conf in ["nats/conf/cluster.conf", "deploy/compose/node.conf"] {
        let conf = fs::read_to_string(file(conf)).unwrap();
        let settings = conf.lines().filter(|line| !line.trim_start().starts_with('#'));
        assert_eq!(settings.filter(|line| line.trim() == "sync_interval: always").count(), 1);
    }
    assert!(fs::read_to_string(file(".env")).unwrap().contains("COMPOSE_PROFILES=cluster"));
    let single = fs::read_to_string(file("deploy/compose/single.env")).unwrap();
    for line in ["COMPOSE_PROFILES=single", "WAYBILL_REPLICAS=1", "WAYBILL_NATS_URL=nats://nats:4222"] {
        assert!(single.lines().any(|one| one == line), "{line}");
    }
}

#[tokio::test]
async fn each_is_known_to_nats_by_a_key_of_its_own() {
    let compose = compose().await;
    let services = compose["services"].as_object().unwrap();
    let mut known = BTreeSet::new();
    for (name, one) in services.iter().filter(|(_, one)| one["environment"]["WAYBILL_NATS_URL"].is_string()) {
        assert_eq!(one["environment"]["WAYBILL_NATS_NKEY_FILE"], "/run/secrets/nats-key", "{name}");
        let keys = one["secrets"].as_array().unwrap().iter().filter(|secret| secret["target"] == "nats-key");
        let [key] = keys.collect::<Vec<_>>()[..] else { panic!("{name} has one key") };
        let role = match name.as_str() {
            "provision" => "provisioning",
            name => name.strip_suffix("-service").unwrap_or(name),
        };
        assert_eq!(key["source"], format!("nats-{role}"), "{name}");
        known.insert(role.to_owned());
        let needs = &one["depends_on"]["provision"];
        assert!(needs.is_object() || ["provision", "gateway"].contains(&name.as_str()), "{name}");
    }
    // Everybody but the operator, who is nobody's container.
    let roles: BTreeSet<_> = rights::roles().filter(|role| *role != OPERATOR).map(str::to_owned).collect();
    assert_eq!(known, roles);
    let conf = fs::read_to_string(file("deploy/compose/node.conf")).unwrap();
    assert!(conf.contains("include \"accounts.conf\""), "{conf}");
}

#[tokio::test]
async fn each_shows_a_certificate_of_its_own_and_believes_one_authority() {
    let compose = compose().await;
    let services = compose["services"].as_object().unwrap();
    for (name, one) in services.iter().filter(|(_, one)| one["environment"]["WAYBILL_NATS_URL"].is_string()) {
        let role = match name.as_str() {
            "provision" => "provisioning",
            name => name.strip_suffix("-service").unwrap_or(name),
        };
        let given = one["secrets"].as_array().unwrap();
        let certificate = json!({ "source": format!("tls-{role}"), "target": "tls-certificate" });
        let key = json!({ "source": format!("tls-{role}-key"), "target": "tls-key" });
        for secret in [&json!("tls-ca"), &certificate, &key] {
            assert!(given.contains(secret), "{name} has no {secret}");
        }
        assert_eq!(given.iter().filter(|one| one.to_string().contains("tls-")).count(), 3, "{name}");
        for (variable, file) in [
            ("WAYBILL_NATS_CA", "tls-ca"),
            ("WAYBILL_NATS_CERT", "tls-certificate"),
            ("WAYBILL_NATS_KEY", "tls-key"),
            ("WAYBILL_TLS_CA", "tls-ca"),
            ("WAYBILL_TLS_CERT", "tls-certificate"),
            ("WAYBILL_TLS_KEY", "tls-key"),
            ("WAYBILL_TLS_CLIENT_CA", "tls-ca"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "tls-ca"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "tls-certificate"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "tls-key"),
        ] {
            assert_eq!(one["environment"][variable], format!("/run/secrets/{file}"), "{name}: {variable}");
        }
    }
    for name in ["nats", "nats-1", "nats-2", "nats-3"] {
        for file in ["ca.pem", "node.pem", "node.key"] {
            let mounted = json!(format!("./secrets/tls/{file}:/etc/nats/tls/{file}:ro"));
            assert!(services[name]["volumes"].as_array().unwrap().contains(&mounted), "{name}: {file}");
        }
    }
    // A database by the certificate that is for the names of all of them.
    for service in with_database() {
        let database = &services[&format!("{service}-db")];
        let given = database["secrets"].as_array().unwrap();
        let certificate = json!({ "source": "tls-postgres", "target": "tls-certificate" });
        let key = json!({ "source": "tls-postgres-key", "target": "tls-key" });
        for secret in [json!("tls-ca"), certificate, key] {
            assert!(given.contains(&secret), "{service} has no {secret}");
        }
        let folder = json!("./deploy/compose/postgres:/etc/postgresql:ro");
        assert!(database["volumes"].as_array().unwrap().contains(&folder), "{service}");
        assert_eq!(database["entrypoint"], json!(["sh", "/etc/postgresql/start.sh"]), "{service}");
        let settings = [
            "postgres",
            "--ssl=on",
            "--ssl_cert_file=/run/secrets/tls-certificate",
            "--ssl_key_file=/var/run/postgresql/tls-key",
            "--ssl_ca_file=/run/secrets/tls-ca",
            "--hba_file=/etc/postgresql/pg_hba.conf",
        ];
        assert_eq!(database["command"], json!(settings), "{service}");
    }
    let hosts = fs::read_to_string(file("deploy/compose/postgres/pg_hba.conf")).unwrap();
    let hosts = hosts.lines().filter(|line| !line.starts_with('#'));
    let hosts: Vec<Vec<_>> = hosts.map(|line| line.split_whitespace().collect()).collect();
    let from_outside = ["hostssl", "sameuser", "all", "all", "scram-sha-256", "clientcert=verify-full"];
    assert_eq!(hosts, [&["local", "all", "all", "trust"][..], &from_outside]);
    // As the generated configuration of the cluster has it.
    let tls = "cert_file: \"/etc/nats/tls/node.pem\", key_file: \"/etc/nats/tls/node.key\", ca_file: \"/etc/nats/tls/ca.pem\", verify: true";
    assert!(fs::read_to_string(file("deploy/compose/node.conf")).unwrap().contains(tls));
    who_looks_on_shows_one_too(&compose).await;
    let prometheus = fs::read_to_string(file("deploy/observability/prometheus.yaml")).unwrap();
    for line in ["scheme: https", "ca_file: /run/secrets/tls-ca", "cert_file: /run/secrets/tls-certificate"] {
        assert!(prometheus.contains(line), "{line}");
    }
}

/// Telemetry goes to a collector that asks for certificates, and from there to one that does.
async fn who_looks_on_shows_one_too(compose: &Value) {
    let collector = documents(&file("deploy/observability/collector.yaml")).await.remove(0);
    let (own, key) = ("/run/secrets/tls-certificate", "/run/secrets/tls-key");
    for protocol in ["grpc", "http"] {
        let tls = &collector["receivers"]["otlp"]["protocols"][protocol]["tls"];
        let asks = json!({ "cert_file": own, "key_file": key, "client_ca_file": "/run/secrets/tls-ca" });
        assert_eq!(*tls, asks, "{protocol}");
    }
    let shows = json!({ "cert_file": own, "key_file": key, "ca_file": "/run/secrets/tls-ca" });
    assert_eq!(collector["exporters"]["otlp/jaeger"]["tls"], shows);
    let jaeger = compose["services"]["jaeger"]["command"].to_string();
    for (setting, file) in [("cert", own), ("key", key), ("client_ca", "/run/secrets/tls-ca")] {
        let set = format!("--set=receivers.otlp.protocols.grpc.tls.{setting}_file={file}");
        assert!(jaeger.contains(&set), "{setting}");
    }
    for name in ["collector", "jaeger"] {
        let given = &compose["services"][name]["secrets"];
        let certificate = json!({ "source": "tls-collector", "target": "tls-certificate" });
        let key = json!({ "source": "tls-collector-key", "target": "tls-key" });
        assert_eq!(*given, json!(["tls-ca", certificate, key]), "{name}");
    }
    // Services speak the default protocol, OTLP over HTTP, which has its own port.
    let told = fs::read_to_string(file("docker-compose.yml")).unwrap();
    let address = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].as_str().unwrap();
    let port = address.rsplit_once(':').unwrap().1;
    for page in [told, fs::read_to_string(file("docs/deployment.md")).unwrap()] {
        assert!(page.contains(&format!("OTEL_EXPORTER_OTLP_ENDPOINT=https://collector:{port} ")));
    }
}

/// What the script makes is what the files name, and what a server takes.
#[tokio::test]
async fn the_script_makes_every_secret() {
    let (dir, compose) = (tempfile::tempdir().unwrap(), compose().await);
    let folder = dir.path().join("deploy/compose");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(file("deploy/compose/secrets"), folder.join("secrets")).unwrap();
    let run_script = async || {
        let mut script = tokio::process::Command::new(folder.join("secrets"));
        let output = script.env("WAYBILL", Process::executable()).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run_script().await;
    run_script().await;
    for (name, secret) in compose["secrets"].as_object().unwrap() {
        let made = dir.path().join(secret["file"].as_str().unwrap());
        assert!(fs::metadata(&made).is_ok_and(|made| made.len() > 0), "{name}: {}", made.display());
    }
    // A database is reached with TLS only; a URL of an older version is made again, and one of the user's own is not.
    let url = |service: &str| dir.path().join(format!("secrets/{service}-database-url"));
    let shown = "?sslmode=verify-full&sslrootcert=/run/secrets/tls-ca&sslcert=/run/secrets/tls-certificate&sslkey=/run/secrets/tls-key";
    let made = fs::read_to_string(url("orders")).unwrap();
    let plain = made.strip_suffix(shown).unwrap();
    let elsewhere = "postgres://orders:secret@db.example.com/orders";
    fs::write(url("orders"), plain).unwrap();
    fs::write(url("users"), elsewhere).unwrap();
    run_script().await;
    assert_eq!(fs::read_to_string(url("orders")).unwrap(), made);
    assert_eq!(fs::read_to_string(url("users")).unwrap(), elsewhere);
    let cluster = fs::read_to_string(dir.path().join("secrets/nats/cluster.conf")).unwrap();
    let routes = cluster.lines().find(|line| line.trim_start().starts_with("routes:")).unwrap();
    assert!(routes.contains("@nats-3:6222") && cluster.contains("include \"accounts.conf\""), "{routes}");
    assert_eq!(cluster.matches("/etc/nats/tls/node.pem").count(), 2, "between nodes, and for clients");
}

#[tokio::test]
async fn what_it_mounts_and_reads_is_there() {
    let compose = compose().await;
    for one in compose["services"].as_object().unwrap().values() {
        for volume in one["volumes"].as_array().into_iter().flatten() {
            let (from, _) = volume.as_str().unwrap().split_once(':').unwrap();
            let there = if let Some(made) = from.strip_prefix("./secrets/nats/") {
                ["cluster.conf", "accounts.conf"].contains(&made)
            } else if let Some(made) = from.strip_prefix("./secrets/tls/") {
                ["ca.pem", "node.pem", "node.key"].contains(&made)
            } else if from.starts_with("./") {
                file(from).exists()
            } else {
                compose["volumes"].get(from).is_some()
            };
            assert!(there, "{from}");
        }
    }
    // Every secret is made by the script, and only those.
    let script = fs::read_to_string(file("deploy/compose/secrets")).unwrap();
    for (name, secret) in compose["secrets"].as_object().unwrap() {
        if let Some(role) = name.strip_prefix("nats-") {
            assert_eq!(secret["file"], format!("./secrets/nats/seeds/{role}.nk"));
            continue;
        }
        if let Some(of) = name.strip_prefix("tls-") {
            let made =
                of.strip_suffix("-key").map_or_else(|| format!("{of}.pem"), |role| format!("{role}.key"));
            assert_eq!(secret["file"], format!("./secrets/tls/{made}"));
            continue;
        }
        assert_eq!(secret["file"], format!("./secrets/{name}"));
        let made = name.rsplit_once("-database-").map_or(name.as_str(), |(_, end)| end);
        assert!(script.contains(made), "{name}");
    }
    assert!(fs::read_to_string(file(".gitignore")).unwrap().lines().any(|line| line == "/secrets"));
}

/// A name that is written wrong is no setting, and where there is a default nobody would notice.
#[tokio::test]
async fn every_variable_is_one_that_is_read() {
    let compose = compose().await;
    let known = known_variables().await;
    let recipe = fs::read_to_string(file("Dockerfile")).unwrap();
    let image = recipe.lines().filter_map(|line| line.strip_prefix("ENV ")).flat_map(str::split_whitespace);
    let image = image.map(|one| ("the image", one.split_once('=').unwrap().0.to_owned()));
    let services = compose["services"].as_object().unwrap();
    let waybill = services.iter().filter(|(_, one)| one["environment"]["WAYBILL_NATS_URL"].is_string());
    let told = waybill.flat_map(|(name, one)| {
        one["environment"].as_object().unwrap().keys().map(|variable| (name.as_str(), variable.clone()))
    });
    for (name, variable) in image.chain(told) {
        assert!(known.contains(&variable), "{name}: nobody reads {variable}");
    }
    let conf = ["nats/conf/cluster.conf", "deploy/compose/node.conf"]
        .map(|conf| fs::read_to_string(file(conf)).unwrap())
        .concat();
    for name in ["nats", "nats-1", "nats-2", "nats-3"] {
        for variable in services[name]["environment"].as_object().unwrap().keys() {
            assert!(conf.contains(&format!("${variable}\n")), "{name}: {variable}");
        }
    }
}
