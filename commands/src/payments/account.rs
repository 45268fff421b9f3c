//! An account that orders are paid from. Its balance is never below zero.

use crate::{Aggregate, Refusal};
use events::{
    AccountId, Currency, Money, MoneyError, OrderId, UserId,
    payments::{AccountCredited, AccountDebited, AccountEvent, AccountOpened},
};
use serde::{Deserialize, Serialize};

/// Minor units up to which an account can be filled: the largest integer that every JSON reader keeps exactly. A refund
/// may go beyond, so that none is ever refused.
pub const MAX_BALANCE: i64 = (1 << 53) - 1;

/// The aggregate.
#[derive(Debug)]
pub struct Account;

/// What an account remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountState {
    account_id: AccountId,
    /// Whose.
    pub user_id: UserId,
    /// What is in it.
    pub balance: Money,
}

/// What can be asked of an account.
#[derive(Clone, Debug)]
pub enum AccountCommand {
    /// Open it, empty.
    Open {
        /// The account.
        account_id: AccountId,
        /// Whose.
        user_id: UserId,
        /// Its currency, for ever.
        currency: Currency,
    },
    /// Money comes in.
    Credit {
        /// How much.
        amount: Money,
    },
    /// An order is paid.
    Debit {
        /// Which order.
        order_id: OrderId,
        /// How much.
        amount: Money,
    },
    /// The payment of an order comes back.
    Refund {
        /// Which order.
        order_id: OrderId,
        /// How much.
        amount: Money,
    },
}

/// Why an account can refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountRejection {
    /// It was opened before.
    #[error("the account {0} exists already")]
    Exists(AccountId),
    /// There is no such account.
    #[error("there is no such account")]
    Unknown,
    /// The amount is nothing, or less.
    #[error("an amount is at least 1, in minor units, not {}", .0.amount)]
    NotPositive(Money),
    /// The account is in another currency.
    #[error("the account is in {expected}, not in {given}")]
    Currency {
        /// Its currency.
        expected: Currency,
        /// The currency asked for.
        given: Currency,
    },
    /// The balance would become too large.
    #[error("a balance is at most {MAX_BALANCE}, in minor units")]
    TooMuch,
    /// The balance would fall below zero.
    #[error("the balance is {balance}, {amount} was asked for")]
    InsufficientFunds {
        /// What is in the account.
        balance: Money,
        /// What was asked for.
        amount: Money,
    },
}

impl From<AccountRejection> for Refusal {
    fn from(rejection: AccountRejection) -> Self {
        use AccountRejection as R;
        let detail = rejection.to_string();
        match rejection {
            R::Exists(_) => Self::conflict("account-exists", detail),
            R::Unknown => Self::not_found("account-not-found", detail),
            R::NotPositive(_) => Self::invalid("amount-not-positive", "amount.amount", detail),
            R::Currency { .. } => Self::invalid("currency-mismatch", "amount.currency", detail),
            R::TooMuch => Self::invalid("balance-too-large", "amount.amount", detail),
            R::InsufficientFunds { .. } => Self::conflict("insufficient-funds", detail),
        }
    }
}

impl Aggregate for Account {
    const KIND: events::Aggregate = events::Aggregate::Account;
    const SCHEMA: &'static str = "account/1";
    type State = Option<AccountState>;
    type Command = AccountCommand;
    type Event = AccountEvent;
    type Rejection = AccountRejection;

    fn decide(state: &Self::State, command: AccountCommand) -> Result<Vec<AccountEvent>, AccountRejection> {
        let (account, command) = match (state, command) {
            (None, AccountCommand::Open { account_id, user_id, currency }) => {
                return Ok(vec![AccountOpened { account_id, user_id, currency }.into()]);
            }
            (Some(account), AccountCommand::Open { .. }) => {
                return Err(AccountRejection::Exists(account.account_id));
            }
            (None, _) => return Err(AccountRejection::Unknown),
            (Some(account), command) => (account, command),
        };
        let account_id = account.account_id;
        Ok(vec![match command {
            AccountCommand::Open { .. } => return Err(AccountRejection::Exists(account_id)),
            AccountCommand::Credit { amount } => {
                let balance = account.moved(amount, Money::plus)?;
                if balance.amount > MAX_BALANCE {
                    return Err(AccountRejection::TooMuch);
                }
                AccountCredited { account_id, amount, balance, order_id: None }.into()
            }
            AccountCommand::Refund { order_id, amount } => {
                let balance = account.moved(amount, Money::plus)?;
                AccountCredited { account_id, amount, balance, order_id: Some(order_id) }.into()
            }
            AccountCommand::Debit { order_id, amount } => {
                let balance = account.moved(amount, Money::minus)?;
                if balance.amount < 0 {
                    let balance = account.balance;
                    return Err(AccountRejection::InsufficientFunds { balance, amount });
                }
                AccountDebited { account_id, order_id, amount, balance }.into()
            }
        }])
    }

    fn evolve(state: Self::State, event: &AccountEvent) -> Self::State {
        let with = |balance| state.map(|account| AccountState { balance, ..account });
        match event {
            AccountEvent::Opened(AccountOpened { account_id, user_id, currency }) => Some(AccountState {
                account_id: *account_id,
                user_id: *user_id,
                balance: Money::zero(*currency),
            }),
            AccountEvent::Credited(fact) => with(fact.balance),
            AccountEvent::Debited(fact) => with(fact.balance),
        }
    }
}

impl AccountState {
    /// The balance after a movement of money.
    fn moved(
        &self,
        amount: Money,
        movement: fn(Money, Money) -> Result<Money, MoneyError>,
    ) -> Result<Money, AccountRejection> {
        if amount.amount < 1 {
            return Err(AccountRejection::NotPositive(amount));
        }
        movement(self.balance, amount).map_err(|error| match error {
            MoneyError::Currency(expected, given) => AccountRejection::Currency { expected, given },
            MoneyError::Overflow => AccountRejection::TooMuch,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aggregate::testing::given,
        fixtures::{account, currency, eur, order, user},
    };
    use proptest::prelude::*;

    fn open() -> AccountCommand {
        AccountCommand::Open { account_id: account(1), user_id: user(1), currency: currency("EUR") }
    }

    fn credit(amount: Money) -> AccountCommand {
        AccountCommand::Credit { amount }
    }

    fn debit(amount: i64) -> AccountCommand {
        AccountCommand::Debit { order_id: order(1), amount: eur(amount) }
    }

    fn refund(amount: i64) -> AccountCommand {
        AccountCommand::Refund { order_id: order(1), amount: eur(amount) }
    }

    fn opened() -> AccountEvent {
        AccountOpened { account_id: account(1), user_id: user(1), currency: currency("EUR") }.into()
    }

    fn credited(amount: i64, balance: i64, order_id: Option<OrderId>) -> AccountEvent {
        let (amount, balance) = (eur(amount), eur(balance));
        AccountCredited { account_id: account(1), amount, balance, order_id }.into()
    }

    fn debited(amount: i64, balance: i64) -> AccountEvent {
        let (amount, balance) = (eur(amount), eur(balance));
        AccountDebited { account_id: account(1), order_id: order(1), amount, balance }.into()
    }

    fn holding(balance: i64) -> [AccountEvent; 2] {
        [opened(), credited(balance, balance, None)]
    }

    #[test]
    fn an_account_is_opened_once_and_empty() {
        given::<Account>([]).when(open()).then([opened()]);
        assert_eq!(given::<Account>([opened()]).when(open()).then_refused("account-exists").status, 409);
    }

    #[test]
    fn money_comes_in_and_goes_out() {
        given::<Account>([opened()]).when(credit(eur(100))).then([credited(100, 100, None)]);
        given::<Account>(holding(100)).when(debit(100)).then([debited(100, 0)]);
        given::<Account>(holding(100)).when(refund(30)).then([credited(30, 130, Some(order(1)))]);
    }

    #[test]
    fn the_balance_is_never_below_zero() {
        let refusal = given::<Account>(holding(100)).when(debit(101)).then_refused("insufficient-funds");
        assert_eq!(refusal.detail, "the balance is 1.00 EUR, 1.01 EUR was asked for");
        given::<Account>([opened()]).when(debit(1)).then_refused("insufficient-funds");
        given::<Account>(holding(100)).when(debit(i64::MAX)).then_refused("insufficient-funds");
    }

    #[test]
    fn only_so_much_fits_but_a_refund_always_does() {
        given::<Account>(holding(MAX_BALANCE)).when(credit(eur(1))).then_refused("balance-too-large");
        given::<Account>(holding(1)).when(credit(eur(i64::MAX))).then_refused("balance-too-large");
        let beyond = credited(1, MAX_BALANCE + 1, Some(order(1)));
        given::<Account>(holding(MAX_BALANCE)).when(refund(1)).then([beyond]);
        given::<Account>(holding(i64::MAX)).when(refund(1)).then_refused("balance-too-large");
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for amount in [0, -1, i64::MIN] {
            for command in [credit(eur(amount)), debit(amount), refund(amount)] {
                let refusal =
                    given::<Account>(holding(100)).when(command).then_refused("amount-not-positive");
                assert_eq!(refusal.field.as_deref(), Some("amount.amount"));
            }
        }
        let yen = credit(Money::new(1, currency("JPY")));
        given::<Account>([opened()]).when(yen).then_refused("currency-mismatch");
        for command in [credit(eur(1)), debit(1), refund(1)] {
            given::<Account>([]).when(command).then_refused("account-not-found");
        }
    }

    fn any_command() -> impl Strategy<Value = AccountCommand> {
        let amount = prop_oneof![4 => -10_i64..1000, 1 => any::<i64>()];
        prop_oneof![
            Just(open()),
            amount.clone().prop_map(|amount| credit(eur(amount))),
            amount.clone().prop_map(debit),
            amount.prop_map(refund),
        ]
    }

    proptest! {
        #[test]
        fn the_balance_is_the_sum_of_the_entries(commands in prop::collection::vec(any_command(), 1..80)) {
            let (mut state, mut sum) = (None, 0_i128);
            for command in commands {
                for event in Account::decide(&state, command).unwrap_or_default() {
                    match &event {
                        AccountEvent::Opened(_) => {}
                        AccountEvent::Credited(fact) => sum += i128::from(fact.amount.amount),
                        AccountEvent::Debited(fact) => sum -= i128::from(fact.amount.amount),
                    }
                    state = Account::evolve(state, &event);
                }
                let balance = state.as_ref().map_or(0, |account| account.balance.amount);
                prop_assert_eq!(i128::from(balance), sum);
                prop_assert!(balance >= 0);
            }
        }
    }
}
