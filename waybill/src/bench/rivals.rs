//! The comparison with other event stores: a crate of its own, built only when asked for.

use crate::failure::{Failure, because};
use std::path::Path;
use tokio::process::Command;

/// Builds and runs the crate in `rivals/`, which lies beside this one in a checkout.
pub(super) async fn run(json: bool, quick: bool) -> Result<(), Failure> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rivals/Cargo.toml");
    if !manifest.exists() {
        return Err("rivals/ is not here: run `waybill bench rivals` from a checkout of the sources".into());
    }
    let mut command = Command::new("cargo");
    command.args(["run", "--release", "--manifest-path"]).arg(&manifest).arg("--");
    command.args(json.then_some("--json")).args(quick.then_some("--quick"));
    let status = command.status().await.map_err(because("cannot run cargo"))?;
    if status.success() { Ok(()) } else { Err(format!("the comparison ended with {status}").into()) }
}
