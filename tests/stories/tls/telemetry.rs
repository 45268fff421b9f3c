//! Telemetry goes to a collector that asks for certificates, over both protocols, and goes on when they are renewed.

use super::{Certificates, SOON};
use crate::READ_MODELS;
use serde_json::Value;
use std::{fs, path::Path};
use waybill_tests::{Collector, Gate, Process, eventually};

/// Everything at once, and a failure is one soon.
const HASTE: [(&str, &str); 4] = [
    ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
];

fn port(collector: &Collector) -> u16 {
    collector.url.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// The certificates of a process, where it looks for them.
fn put(certificates: &Certificates, folder: &Path) {
    for (from, to) in [("ca.pem", "ca.pem"), ("all.pem", "own.pem"), ("all.key", "own.key")] {
        fs::copy(certificates.path(from), folder.join(to)).unwrap();
    }
}

/// Waits until a process has said these words of each of these signals.
async fn said(process: &Process, of: &[&str], words: &[&str]) {
    eventually(&format!("{words:?} of {of:?}"), SOON, async || {
        let log = fs::read_to_string(process.log_file()).ok()?;
        let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let of_signal = |signal: &str| {
            let mut own = lines.iter().filter(|line| line["signal"] == signal).map(Value::to_string);
            own.any(|line| words.iter().all(|word| line.contains(word)))
        };
        of.iter().all(|signal| of_signal(signal)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_told_over_tls_and_with_certificates_that_were_renewed() {
    let (old, new) = (Certificates::make().await, Certificates::make().await);
    let (grpc, http) = (Collector::grpc().unwrap(), Collector::http().await.unwrap());
    let by_grpc = Gate::before(port(&grpc), &old.path(""), &["h2"]).await.unwrap();
    let by_http = Gate::before(port(&http), &old.path(""), &[]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own");
    fs::create_dir(&own).unwrap();
    put(&old, &own);
    let file = |name: &str| own.join(name).to_str().unwrap().to_owned();
    let (authority, certificate, key) = (file("ca.pem"), file("own.pem"), file("own.key"));
    let at = |gate: &Gate| format!("https://localhost:{}", gate.port);
    let (traces, others) = (at(&by_grpc), at(&by_http));
    let mut env = HASTE.to_vec();
    env.extend([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", others.as_str()),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &traces),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
    ]);
    let (kept, data) = (READ_MODELS.kept(), folder.path().join("data"));
    let flags = kept.flags(&["--log-format", "json"]);
    fs::create_dir(&data).unwrap();

    // Whom the machine believes is believed, nobody else; and who shows no certificate is not let in.
    let other = new.file("ca.pem");
    let believed =
        [("SSL_CERT_FILE", authority.as_str()), ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", other.as_str())];
    let believed = [&env[..], &believed].concat();
    let process = Process::dev_with(&data, &flags, &believed).await.unwrap();
    process.api.register("a").await.unwrap();
    // With TLS 1.3 what it asks for is said when the connection stands, and may come when that is given up already.
    said(&process, &["metrics", "logs"], &["telemetry is not exported"]).await;
    said(&process, &["traces"], &["telemetry is not exported", "signed by somebody who is not believed"])
        .await;
    fs::remove_file(process.log_file()).unwrap();
    assert!(process.stop().await.unwrap().success());
    assert!(grpc.spans().is_empty() && http.logs().is_empty() && http.metrics().is_empty());

    env.extend([
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.as_str()),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key),
    ]);
    let process = Process::dev_with(&data, &flags, &env).await.unwrap();
    process.api.register("b").await.unwrap();
    eventually("everything is exported", SOON, async || {
        (!grpc.spans().is_empty() && !http.logs().is_empty() && !http.metrics().is_empty()).then_some(())
    })
    .await;

    // The collector has others from now on, of somebody else.
    by_grpc.change(&new.path("")).unwrap();
    by_http.change(&new.path("")).unwrap();
    process.api.register("c").await.unwrap();
    let all = ["traces", "metrics", "logs"];
    said(&process, &all, &["telemetry is not exported"]).await;
    put(&new, &own);
    said(&process, &all, &["have been read again"]).await;
    let before = grpc.spans().len();
    process.api.register("d").await.unwrap();
    said(&process, &all, &["telemetry is exported again"]).await;
    assert!(grpc.spans().len() > before);
    assert!(process.stop().await.unwrap().success());
}
