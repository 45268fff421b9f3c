//! How long the stock of one order is held while nobody pays for it.

use crate::{Aggregate, Refusal};
use events::{
    AccountId, OrderId,
    fulfilment::{HoldEnded, HoldEvent, HoldExpired, HoldStarted},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;

/// The aggregate.
#[derive(Debug)]
pub struct Hold;

/// Where a hold stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldState {
    /// There is none.
    #[default]
    None,
    /// The stock is held.
    Held {
        /// The account that pays.
        account_id: AccountId,
        /// So long.
        until: Timestamp,
    },
    /// It has ended, one way or the other.
    Over,
}

impl HoldState {
    /// When it ends.
    pub fn until(&self) -> Option<Timestamp> {
        if let Self::Held { until, .. } = self { Some(*until) } else { None }
    }
}

/// What can be asked of a hold.
#[derive(Clone, Copy, Debug)]
pub enum HoldCommand {
    /// The stock is held, and nobody has paid.
    Start {
        /// The order.
        order_id: OrderId,
        /// The account that pays.
        account_id: AccountId,
        /// How long it is held.
        until: Timestamp,
    },
    /// It is decided whether the order is paid.
    End {
        /// The order.
        order_id: OrderId,
    },
    /// The timer that was set to this time has fired.
    Due {
        /// The order.
        order_id: OrderId,
        /// The time.
        at: Timestamp,
    },
}

/// A hold refuses nothing.
#[derive(Debug)]
pub struct NoRejection(Infallible);

impl From<NoRejection> for Refusal {
    fn from(rejection: NoRejection) -> Self {
        match rejection.0 {}
    }
}

impl Aggregate for Hold {
    const KIND: events::Aggregate = events::Aggregate::Hold;
    const SCHEMA: &'static str = "hold/1";
    type State = HoldState;
    type Command = HoldCommand;
    type Event = HoldEvent;
    type Rejection = NoRejection;

    fn decide(state: &HoldState, command: HoldCommand) -> Result<Vec<HoldEvent>, NoRejection> {
        Ok(match (*state, command) {
            (HoldState::None, HoldCommand::Start { order_id, account_id, until }) => {
                vec![HoldStarted { order_id, account_id, until }.into()]
            }
            (HoldState::Held { .. }, HoldCommand::End { order_id }) => vec![HoldEnded { order_id }.into()],
            (HoldState::Held { account_id, until }, HoldCommand::Due { order_id, at }) if until == at => {
                vec![HoldExpired { order_id, account_id }.into()]
            }
            // It came twice, or too late.
            _ => vec![],
        })
    }

    fn evolve(_: HoldState, event: &HoldEvent) -> HoldState {
        match event {
            HoldEvent::Started(it) => HoldState::Held { account_id: it.account_id, until: it.until },
            HoldEvent::Ended(_) | HoldEvent::Expired(_) => HoldState::Over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aggregate::testing::given,
        fixtures::{account, order},
    };

    fn until() -> Timestamp {
        Timestamp::from_second(900).unwrap()
    }

    fn started() -> HoldEvent {
        HoldStarted { order_id: order(1), account_id: account(1), until: until() }.into()
    }

    #[test]
    fn it_ends_or_expires_once() {
        let (order_id, account_id, until) = (order(1), account(1), until());
        let (end, due) = (HoldCommand::End { order_id }, HoldCommand::Due { order_id, at: until });
        let (ended, expired): (HoldEvent, HoldEvent) =
            (HoldEnded { order_id }.into(), HoldExpired { order_id, account_id }.into());
        let start = HoldCommand::Start { order_id, account_id, until };
        given::<Hold>([]).when(start).then([started()]);
        given::<Hold>([started()]).when(end).then([ended.clone()]);
        given::<Hold>([started()]).when(due).then([expired.clone()]);
        given::<Hold>([started()])
            .when(HoldCommand::Due { order_id, at: Timestamp::UNIX_EPOCH })
            .then_nothing();
        for over in [ended, expired] {
            for command in [start, end, due] {
                given::<Hold>([started(), over.clone()]).when(command).then_nothing();
            }
        }
        for command in [end, due] {
            given::<Hold>([]).when(command).then_nothing();
        }
    }
}
