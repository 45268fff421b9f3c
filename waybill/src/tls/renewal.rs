//! Certificates that are read again while a process runs: when their files have changed, and on a hangup.

use super::TlsArgs;
use service::{
    config::Faults,
    tls::{
        Tls,
        files::{LOOK, Watched},
    },
};
use std::{convert::Infallible, io, path::PathBuf};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

/// What is read again, and where it is used.
#[derive(Debug)]
pub(crate) struct Renewal {
    args: TlsArgs,
    inside: Option<Tls>,
    edge: Option<Tls>,
    hangup: Signal,
}

impl Renewal {
    /// Of what the services and the gateway of this process use, where it runs them; none where no certificate is named. From
    /// here on a hangup (SIGHUP) does not end the process any more.
    pub(crate) fn new(args: &TlsArgs, inside: Option<&Tls>, edge: Option<&Tls>) -> io::Result<Option<Self>> {
        if args.files().next().is_none() {
            return Ok(None);
        }
        let hangup = signal(SignalKind::hangup())?;
        Ok(Some(Self { args: args.clone(), inside: inside.cloned(), edge: edge.cloned(), hangup }))
    }

    /// Follows the files as long as the process runs.
    pub(crate) async fn follow(mut self) -> Infallible {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watched = Watched::new(self.args.files().cloned());
        loop {
            let asked = tokio::select! {
                _ = self.hangup.recv() => true,
                _ = look.tick() => false,
            };
            if watched.changed() || asked {
                self.read();
            }
        }
    }

    /// Takes what is in the files, if all of it fits together: a certificate may be there before its key.
    fn read(&self) {
        let mut faults = Faults::default();
        let (inside, edge) = self.args.read(self.inside.is_some(), self.edge.is_some(), &mut faults);
        if let Err(why) = faults.none() {
            tracing::error!(%why, "the certificates do not fit together, the old ones stay");
            return;
        }
        for (current, fresh) in [(&self.inside, inside), (&self.edge, edge)] {
            if let Some(current) = current {
                current.take(&fresh);
            }
        }
        tracing::info!("the certificates have been read again");
    }
}

impl TlsArgs {
    /// Every file that is named.
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let caller = &self.caller;
        let inside = [&caller.tls_ca, &caller.tls_cert, &caller.tls_key, &self.tls_client_ca];
        let edge = [&self.gateway_cert, &self.gateway_key, &self.gateway_client_ca];
        inside.into_iter().chain(edge).flatten()
    }
}
