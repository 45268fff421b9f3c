//! `waybill restore`: puts a backup back, every event at the sequence it had, with what belongs to it.

use crate::{
    archive::{Archive, Keys, read_file},
    backup::SealArgs,
    failure::Failure,
    import::{Import, Target, is_folder, whole},
    settings,
};
use events::Context;
use service::config::Faults;
use std::path::{Path, PathBuf};

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill restore /backup/log --key-file backup.key --check          compare every file with its checksum, read every event, touch nothing else
  waybill restore /backup/log --key-file backup.key --keys-from /elsewhere/keys
  waybill restore /backup/log --passphrase-file words --nats-url nats://nats:4222 --replicas 3

Streams that hold anything are refused. Start nothing before it is done; then: waybill verify";

/// Flags of `waybill restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the backup
    #[arg(value_name = "FOLDER")]
    from: PathBuf,
    /// Put the keys of personal data and the passwords' hashes back too, from this file; those of users who are erased stay away
    #[arg(long, value_name = "FILE")]
    keys_from: Option<PathBuf>,
    /// Put the read models back too, where the backup has them
    #[arg(long)]
    read_models: bool,
    /// Only check that every file is what was written, by its checksum, and open and read those of the log
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    seal: SealArgs,
    #[command(flatten)]
    target: Target,
}

/// Says everything that is wrong with the settings, but for the folder, which is none of them.
pub(crate) fn check(args: &Args) -> Result<(), Failure> {
    let mut faults = Faults::default();
    args.target.read(&mut faults);
    args.seal.read(&mut faults);
    Ok(faults.none()?)
}

/// Checks every file, then puts all of it back and reads it again.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut faults = Faults::default();
    let (replicas, access) = args.target.read(&mut faults);
    let unlock = args.seal.read(&mut faults);
    is_folder(&args.from, &mut faults);
    faults.none()?;
    let archive = Archive::open_for_reading(&args.from, unlock.as_ref())?;
    let manifest = whole(&archive)?;
    let apart = args.keys_from.as_deref().map(|path| Keys::load(path, unlock.as_ref())).transpose()?;
    if args.read_models && manifest.read_models.is_empty() {
        return Err(settings::fault("--read-models")(
            "the backup has none: it was made without --read-models",
        ));
    }
    let views = args.target.views();
    let import = Import {
        archive: &archive,
        manifest: &manifest,
        contexts: Context::ALL.to_vec(),
        keys: false,
        apart,
        replicas,
    };
    import.check()?;
    if args.check {
        return import.read_all();
    }
    if args.read_models {
        absent(&views, manifest.read_models.keys())?;
    }
    let restore = async {
        import.run_at(&args.target, &access).await?;
        if args.read_models {
            for (name, copy) in &manifest.read_models {
                read_file(&archive, copy, &views.join(name))?;
            }
            println!("{} files of read models are back", manifest.read_models.len());
        }
        Ok(())
    };
    tokio::select! {
        done = restore => done,
        signal = service::signal() => {
            Err(format!("stopped by {}: the same command goes on where it was", signal?).into())
        }
    }
}

/// Nothing that is there is replaced.
fn absent<'a>(views: &Path, mut names: impl Iterator<Item = &'a String>) -> Result<(), Failure> {
    match names.find(|name| views.join(name).exists()) {
        Some(name) => Err(format!("{} is there already: remove it first", views.join(name).display()).into()),
        None => Ok(()),
    }
}
