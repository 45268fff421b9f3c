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

use std::path::{Path, PathBuf};

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}
