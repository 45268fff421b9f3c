//! The simulated world outside: how the carrier and the fraud rules behave, by flags and environment.

use crate::settings::Flag;
use commands::{
    fraud::{Fraud, Rules, Velocity},
    shipping::SimulatedCarrier,
};
use events::UserId;
use service::config::{Settings, Span};
use std::{str::FromStr, sync::Arc};

/// Flags of the simulated world outside.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Simulated world outside")]
pub struct OutsideArgs {
    /// How the carrier behaves: accept, refuse, slow:200ms, down or garbled [default: accept]
    #[arg(long, value_name = "BEHAVIOUR", env = "WAYBILL_CARRIER")]
    carrier: Option<String>,
    /// Countries that the carrier does not serve [default: AQ]
    #[arg(long, value_name = "COUNTRY,..", env = "WAYBILL_CARRIER_UNSERVED")]
    carrier_unserved: Option<String>,
    /// How the fraud service behaves: up, slow:200ms or down [default: up]
    #[arg(long, value_name = "BEHAVIOUR", env = "WAYBILL_FRAUD")]
    fraud: Option<String>,
    /// Decline payments above this amount, in minor units
    #[arg(long, value_name = "AMOUNT", env = "WAYBILL_FRAUD_LIMIT")]
    fraud_limit: Option<String>,
    /// Decline more payments of one customer than so many in a time, such as 5/1m
    #[arg(long, value_name = "COUNT/TIME", env = "WAYBILL_FRAUD_VELOCITY")]
    fraud_velocity: Option<String>,
    /// Customers whose payments are declined
    #[arg(long, value_name = "USER,..", env = "WAYBILL_FRAUD_BLOCKED")]
    fraud_blocked: Option<String>,
    /// How long a payment waits for the fraud service [default: 500ms]
    #[arg(long, value_name = "TIME", env = "WAYBILL_FRAUD_DEADLINE")]
    fraud_deadline: Option<String>,
    /// Refuse payments above this amount when the fraud service gives no answer [default: 10000]
    #[arg(long, value_name = "AMOUNT", env = "WAYBILL_FRAUD_CLOSED_ABOVE")]
    fraud_closed_above: Option<String>,
}

/// The world outside as the services see it. Its behaviour can be set while they run.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// Who carries parcels.
    pub carrier: SimulatedCarrier,
    /// Who assesses payments.
    pub fraud: Arc<Fraud>,
}

impl OutsideArgs {
    /// The flags by name, to be read together with those of the command.
    pub(crate) fn flags(&self) -> [Flag; 8] {
        [
            ("--carrier", self.carrier.clone()),
            ("--carrier-unserved", self.carrier_unserved.clone()),
            ("--fraud", self.fraud.clone()),
            ("--fraud-limit", self.fraud_limit.clone()),
            ("--fraud-velocity", self.fraud_velocity.clone()),
            ("--fraud-blocked", self.fraud_blocked.clone()),
            ("--fraud-deadline", self.fraud_deadline.clone()),
            ("--fraud-closed-above", self.fraud_closed_above.clone()),
        ]
    }
}

impl Outside {
    /// The world as the flags want it.
    pub(crate) fn read(flags: &mut Settings) -> Self {
        let unserved = flags.optional("--carrier-unserved").unwrap_or_else(|| List(vec!["AQ".to_owned()]));
        let carrier = SimulatedCarrier::new(flags.optional("--carrier").unwrap_or_default(), unserved.0);
        let defaults = Rules::default();
        let blocked: Option<List<UserId>> = flags.optional("--fraud-blocked");
        let fraud = Fraud::new(Rules {
            amount_limit: flags.optional("--fraud-limit"),
            velocity: flags.optional::<Often>("--fraud-velocity").map(|often| often.0),
            blocked_users: blocked.map(|List(users)| users.into_iter().collect()).unwrap_or_default(),
            deadline: flags.optional::<Span>("--fraud-deadline").map_or(defaults.deadline, |span| span.0),
            fail_closed_above: flags.optional("--fraud-closed-above").unwrap_or(defaults.fail_closed_above),
        });
        fraud.set_behaviour(flags.optional("--fraud").unwrap_or_default());
        Self { carrier, fraud: Arc::new(fraud) }
    }
}

/// `a,b,c`.
struct List<T>(Vec<T>);

impl<T: FromStr> FromStr for List<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        text.split(',').map(|item| item.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

/// `5/1m`.
struct Often(Velocity);

impl FromStr for Often {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = text.split_once('/').and_then(|(max, window)| {
            let Span(window) = window.parse().ok()?;
            Some(Velocity { max: max.parse().ok()?, window })
        });
        read.map(Self).ok_or("expected a number of payments and a time, such as 5/1m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        outside: OutsideArgs,
    }

    fn read(line: &str) -> Result<Outside, String> {
        let line = Line::parse_from(["waybill"].into_iter().chain(line.split_whitespace()));
        let mut flags = settings::flags(line.outside.flags());
        let outside = Outside::read(&mut flags);
        flags.finish(Some(outside)).map_err(|faults| faults.to_string())
    }

    #[test]
    fn every_behaviour_can_be_set() {
        assert!(read("").is_ok());
        let world = read(
            "--carrier slow:20ms --carrier-unserved AQ,GL --fraud down --fraud-limit 500 --fraud-velocity 5/1m \
             --fraud-blocked 0199d3a8-0000-7000-8000-000000000001 --fraud-deadline 1s --fraud-closed-above 0",
        );
        assert!(world.is_ok(), "{world:?}");
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let faults = read(
            "--carrier rude --fraud sleepy --fraud-limit much --fraud-velocity often --fraud-blocked me \
             --fraud-deadline soon --fraud-closed-above high",
        );
        let faults = faults.unwrap_err();
        assert_eq!(faults.lines().count(), 8, "{faults}");
    }
}
