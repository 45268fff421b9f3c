//! Processes by their id: signals, and a server that an earlier Waybill left behind.

use super::launch::{conf, pid_file};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::{fs, path::Path, time::Duration};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

/// How long a server may take to end by itself before it is killed.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// How often to look whether something has happened.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// Sends a signal. One that cannot be delivered is no concern: the process has ended.
pub(super) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        kill_process(pid, signal).ok();
    }
}

/// Waits until a child that was told to stand still does, or has ended: the signal takes a moment, and a process that still runs
/// may still answer.
pub(super) fn stopped(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Only looked at: whoever waits for its end is told of it all the same.
        let either = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), either).ok();
    }
}

/// Asks a server to end. Wakes it if it was paused: it could not hear otherwise.
pub(super) fn ask_to_end(pid: u32) {
    signal(pid, Signal::TERM);
    signal(pid, Signal::CONT);
}

/// Ends the server that a killed Waybill left running on `dir`. The error is its process id, when it cannot be ended.
pub(super) async fn end_orphan(dir: &Path) -> Result<(), u32> {
    let recorded = fs::read_to_string(pid_file(dir)).ok().and_then(|text| text.trim().parse().ok());
    let Some(pid) = recorded else { return Ok(()) };
    if !runs_on(pid, dir).await {
        return Ok(());
    }
    tracing::warn!(pid, dir = %dir.display(), "ending the nats-server that an earlier run left behind");
    ask_to_end(pid);
    if !ends_within(pid, dir, GRACE).await {
        signal(pid, Signal::KILL);
        if !ends_within(pid, dir, GRACE).await {
            return Err(pid);
        }
    }
    Ok(())
}

async fn ends_within(pid: u32, dir: &Path, deadline: Duration) -> bool {
    let deadline = Instant::now() + deadline;
    while Instant::now() < deadline {
        if !runs_on(pid, dir).await {
            return true;
        }
        sleep(POLL).await;
    }
    false
}

/// Whether `pid` is a server on the configuration in `dir`: ids are used again, by anyone. A zombie is not: it has no
/// command line.
pub(super) async fn runs_on(pid: u32, dir: &Path) -> bool {
    let wanted = format!("-c {}", conf(dir).display());
    let line = if cfg!(target_os = "linux") {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).replace('\0', " ")
    } else {
        let output =
            Command::new("ps").args(["-ww", "-o", "command=", "-p", &pid.to_string()]).output().await;
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    };
    line.contains(&wanted)
}
