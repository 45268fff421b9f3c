//! The payment of one order: taken or not, decided once; what was taken can go back once.

use crate::{Aggregate, Refusal};
use events::{
    AccountId, Money, OrderId,
    orders::{Reason, Workflow},
    payments::{PaymentCharged, PaymentEvent, PaymentFailed, PaymentRefunded},
};
use serde::{Deserialize, Serialize};

/// The aggregate.
#[derive(Debug)]
pub struct Payment;

/// Where a payment stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PaymentState {
    /// Nothing was asked yet.
    #[default]
    Undecided,
    /// It was taken.
    Charged {
        /// From this account.
        account_id: AccountId,
        /// This much.
        amount: Money,
    },
    /// Nothing was taken, and nothing will be.
    Failed,
    /// What was taken is back in the account.
    Refunded,
}

/// What can be asked of a payment.
#[derive(Clone, Debug)]
pub enum PaymentCommand {
    /// Take it.
    Charge(Box<PaymentCharged>),
    /// Take nothing, now and later.
    Fail(PaymentFailed),
    /// Give back what was taken.
    Refund {
        /// The order.
        order_id: OrderId,
        /// Why.
        reason: Reason,
        /// Who carries the order through.
        workflow: Workflow,
    },
}

/// Why a payment can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PaymentRejection {
    /// Nothing was taken that could go back.
    #[error("nothing was charged for this order")]
    NotCharged,
}

impl From<PaymentRejection> for Refusal {
    fn from(rejection: PaymentRejection) -> Self {
        match rejection {
            PaymentRejection::NotCharged => Self::conflict("payment-not-charged", rejection.to_string()),
        }
    }
}

impl Aggregate for Payment {
    const KIND: events::Aggregate = events::Aggregate::Payment;
    const SCHEMA: &'static str = "payment/1";
    type State = PaymentState;
    type Command = PaymentCommand;
    type Event = PaymentEvent;
    type Rejection = PaymentRejection;

    fn decide(state: &PaymentState, command: PaymentCommand) -> Result<Vec<PaymentEvent>, PaymentRejection> {
        use PaymentCommand as Command;
        use PaymentState as State;
        Ok(match (state, command) {
            (State::Undecided, Command::Charge(charged)) => vec![(*charged).into()],
            (State::Undecided, Command::Fail(failed)) => vec![failed.into()],
            (&State::Charged { account_id, amount }, Command::Refund { order_id, reason, workflow }) => {
                vec![PaymentRefunded { order_id, account_id, amount, reason, workflow }.into()]
            }
            (State::Undecided | State::Failed, Command::Refund { .. }) => {
                return Err(PaymentRejection::NotCharged);
            }
            // Decided before: a fact came twice, or came late.
            _ => vec![],
        })
    }

    fn evolve(_: PaymentState, event: &PaymentEvent) -> PaymentState {
        match event {
            PaymentEvent::Charged(fact) => {
                PaymentState::Charged { account_id: fact.account_id, amount: fact.amount }
            }
            PaymentEvent::Failed(_) => PaymentState::Failed,
            PaymentEvent::Refunded(_) => PaymentState::Refunded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aggregate::testing::given,
        fixtures::{account, charged, created, eur, line, order},
    };

    fn taken() -> PaymentCharged {
        charged(&created(&[line("TEA", 2, 450)]))
    }

    fn failed() -> PaymentFailed {
        PaymentFailed {
            order_id: order(1),
            account_id: account(1),
            reason: Reason::InsufficientFunds,
            detail: String::new(),
            workflow: Workflow::Choreography,
        }
    }

    fn refunded() -> PaymentEvent {
        let (order_id, account_id, amount) = (order(1), account(1), eur(900));
        let (reason, workflow) = (Reason::Requested, Workflow::Choreography);
        PaymentRefunded { order_id, account_id, amount, reason, workflow }.into()
    }

    fn charge() -> PaymentCommand {
        PaymentCommand::Charge(Box::new(taken()))
    }

    const REFUND: fn() -> PaymentCommand = || PaymentCommand::Refund {
        order_id: order(1),
        reason: Reason::Requested,
        workflow: Workflow::Choreography,
    };

    #[test]
    fn it_is_decided_once() {
        given::<Payment>([]).when(charge()).then([taken().into()]);
        given::<Payment>([]).when(PaymentCommand::Fail(failed())).then([failed().into()]);
        for history in [vec![taken().into()], vec![failed().into()], vec![taken().into(), refunded()]] {
            given::<Payment>(history.clone()).when(charge()).then_nothing();
            given::<Payment>(history).when(PaymentCommand::Fail(failed())).then_nothing();
        }
    }

    #[test]
    fn what_was_taken_goes_back_once() {
        given::<Payment>([taken().into()]).when(REFUND()).then([refunded()]);
        given::<Payment>([taken().into(), refunded()]).when(REFUND()).then_nothing();
        given::<Payment>([failed().into()]).when(REFUND()).then_refused("payment-not-charged");
        given::<Payment>([]).when(REFUND()).then_refused("payment-not-charged");
    }
}
