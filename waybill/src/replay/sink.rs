//! Where replayed events go: onto the terminal or into a file, or as copies to other subjects.

use super::{
    output::Printer,
    progress::Progress,
    request::{Request, Target},
};
use crate::{
    failure::{Failure, because},
    settings::fault,
};
use events::Position;
use nats::{ConnectError, Connection, KeyRing, Message, Relay, RelayError};
use std::{
    fs::File,
    io::{self, Write},
};

pub(super) enum Sink {
    Printer(Printer),
    Relay(Box<Relay>, u64),
}

impl Sink {
    pub(super) async fn open(connection: &Connection, request: &Request) -> Result<Self, Failure> {
        if let Some(target) = &request.target {
            return relay(connection, request, target).await;
        }
        let keys = match &request.reveal {
            Some(master_key) => Some(KeyRing::open(connection, master_key, 1).await?),
            None => None,
        };
        let to: Box<dyn Write + Send> = match &request.file {
            Some(file) => {
                Box::new(File::create(file).map_err(because(format!("cannot write {}", file.display())))?)
            }
            None => Box::new(io::stdout()),
        };
        Ok(Self::Printer(Printer::new(request.output, keys, to)))
    }

    /// Takes one event.
    pub(super) async fn take(&mut self, message: &Message, progress: &Progress) -> Result<(), Failure> {
        match self {
            Self::Printer(printer) => {
                let line = printer.line(message).await;
                Ok(progress.aside(|| printer.print(&line))?)
            }
            Self::Relay(relay, copied) => {
                relay.send(message).await?;
                *copied += 1;
                Ok(())
            }
        }
    }

    /// Lets everything arrive that was taken.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        match self {
            Self::Printer(printer) => Ok(printer.flush()?),
            Self::Relay(relay, _) => Ok(relay.finish().await?),
        }
    }

    /// Tells what became of it, on standard error; nothing where the events themselves were printed.
    pub(super) fn sum_up(&self, complete: bool) {
        let Self::Relay(relay, copied) = self else { return };
        let reached: Vec<_> = relay.reached().collect();
        if !complete && reached.is_empty() {
            return eprintln!("no copy is known to have arrived");
        }
        let up_to = reached.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        match relay.repeated() {
            0 => eprintln!("{copied} events copied, up to {up_to}"),
            repeated => eprintln!("{copied} events copied, up to {up_to}; {repeated} were there already"),
        }
        if !complete && !reached.is_empty() {
            eprintln!("to go on from there: --from {}", behind(&reached));
        }
    }
}

/// What `--from` takes to go on behind these.
fn behind(reached: &[Position]) -> String {
    let next = reached.iter().map(|at| Position { sequence: at.sequence + 1, ..*at }.to_string());
    next.collect::<Vec<_>>().join(",")
}

async fn relay(connection: &Connection, request: &Request, target: &Target) -> Result<Sink, Failure> {
    let to = match &target.nats {
        Some(url) => {
            let to = Connection::connect_any_as(&url.reveal(), "waybill replay", &target.access).await;
            to.map_err(unknown_there)?
        }
        None => connection.clone(),
    };
    let relay = Relay::open(connection, to, target.prefix.clone(), &request.contexts).await;
    let relay = relay.map_err(|error| match error {
        RelayError::SameSystem | RelayError::Attended { .. } => {
            fault("--to-nats")(format!("{error}: name other subjects with --to-subject"))
        }
        error => error.into(),
    })?;
    Ok(Sink::Relay(Box::new(relay), 0))
}

/// The other NATS knows others than ours.
fn unknown_there(error: ConnectError) -> Failure {
    match error {
        ConnectError::Unknown { url } => {
            let why = "say who comes with --to-nats-nkey-file, or with a user and a password in --to-nats";
            format!("NATS at {url} does not know who this is: {why}").into()
        }
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_behind_what_arrived() {
        let reached = ["ORDERS:42", "PAYMENTS:7"].map(|text| text.parse().unwrap());
        assert_eq!(behind(&reached), "ORDERS:43,PAYMENTS:8");
    }
}
