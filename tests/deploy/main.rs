//! What deploys Waybill, read and run as far as it goes without a cluster: which services a change touches, how an image
//! comes in, and the workflows that do it.

#![expect(clippy::unwrap_used, reason = "a helper of a test that unwraps is a test that fails")]

mod changes;
mod compose;
mod image;
mod kubernetes;
mod observability;
mod rollout;
mod workflows;
mod yaml;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};
use waybill_tests::run;

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// Variables that services and the job that provides for them read.
async fn known_variables() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for command in ["serve", "provision"] {
        let (code, help) = run(&[command, "--help"]).await.unwrap();
        assert_eq!(code, Some(0), "{help}");
        // It is broken into lines.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let named = help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
        known.extend(named.map(str::to_owned));
    }
    assert!(known.contains("WAYBILL_NATS_URL"), "{known:?}");
    // Those for which there is no flag, or that others have given their names.
    let more = [
        "DATABASE_URL",
        "DATABASE_URL_FILE",
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_METRICS_EXPORTER",
        "OTEL_RESOURCE_ATTRIBUTES",
    ];
    known.extend(more.map(str::to_owned));
    known
}
