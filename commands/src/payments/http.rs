//! The HTTP commands of payments: accounts, and refunds that an operator asks for.

use super::{Account, AccountCommand, AccountState, Payment, PaymentRejection, Refund, refund};
use crate::{
    Aggregate, Decision, Key, Refusal, Stop,
    http::{
        self, Api, Call, CallHeaders, Created, Done, Nothing, Optional, Recorded, Refused, Unknown, check,
    },
    orders::{Order, OrderStatus},
};
use axum::{extract::State, response::Response};
use events::{AccountId, Currency, Money, OrderId, UserId, orders::Reason, payments::AccountOpened};
use serde::{Deserialize, Serialize};
use service::{
    Problem,
    auth::Denied,
    extract::{Body, Path},
};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

/// The endpoints.
pub(crate) fn routes(api: Api) -> OpenApiRouter {
    http::router()
        .routes(routes!(open_account))
        .routes(routes!(credit_account))
        .routes(routes!(refund_payment))
        .with_state(Arc::new(api))
}

/// An account to open.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OpenAccount {
    /// Whose.
    #[schema(value_type = Uuid)]
    user_id: UserId,
    /// ISO 4217 code of its currency, for ever.
    #[schema(value_type = String, example = "EUR")]
    currency: Currency,
}

/// Open an account
#[utoipa::path(
    post, path = "/accounts", tag = "payments", security(("bearer" = [])), params(CallHeaders), request_body = OpenAccount,
    responses(Created, Denied, Refused)
)]
async fn open_account(
    State(api): State<Arc<Api>>,
    call: Call,
    Body(body): Body<OpenAccount>,
) -> Result<Response, Problem> {
    call.principal.require_for(body.user_id.uuid())?;
    let command = call.command(&api.clock, "POST /accounts", &body);
    let account_id = AccountId::new(command.new_id("account", &api.clock));
    let open = AccountCommand::Open { account_id, user_id: body.user_id, currency: body.currency };
    api.apply(command, Key::<Account>::new(account_id), Done::created(location(account_id)), open).await
}

/// Money that came in.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreditAccount {
    /// How much, at least 1, in the account's currency.
    #[schema(value_type = http::Money)]
    amount: Money,
}

/// Credit an account
#[utoipa::path(
    post, path = "/accounts/{id}/credits", tag = "payments", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The account"), CallHeaders), request_body = CreditAccount,
    responses(Recorded, Unknown, Denied, Refused)
)]
async fn credit_account(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(id): Path<AccountId>,
    Body(body): Body<CreditAccount>,
) -> Result<Response, Problem> {
    let command = call.of_operator()?.command(&api.clock, format_args!("POST /accounts/{id}/credits"), &body);
    let credit = AccountCommand::Credit { amount: body.amount };
    check::<Account>(&empty_account(id, body.amount.currency), credit.clone())?;
    api.apply(command, Key::<Account>::new(id), Done::recorded(location(id)), credit).await
}

/// What an account can be asked at least.
fn empty_account(account_id: AccountId, currency: Currency) -> Option<AccountState> {
    let user_id = UserId::new(Uuid::nil());
    Account::evolve(None, &AccountOpened { account_id, user_id, currency }.into())
}

fn location(account_id: AccountId) -> String {
    format!("/accounts/{account_id}")
}

/// Refund the payment of a completed order
///
/// An order that is not completed yet is cancelled instead, which gives its money back.
#[utoipa::path(
    post, path = "/payments/{orderId}/refunds", tag = "payments", security(("bearer" = [])),
    params(("orderId" = Uuid, Path, description = "The order"), CallHeaders), request_body = Option<Nothing>,
    responses(Recorded, Unknown, Denied, Refused)
)]
async fn refund_payment(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(order_id): Path<OrderId>,
    Optional(body): Optional<Nothing>,
) -> Result<Response, Problem> {
    let command =
        call.of_operator()?.command(&api.clock, format_args!("POST /payments/{order_id}/refunds"), &body);
    let (payment, order) = (Key::<Payment>::new(order_id), Key::<Order>::new(order_id));
    let done = Done::recorded(format!("/payments/{order_id}"));
    let run = move |decision: &mut Decision| refund_completed(decision, order_id);
    api.accept(command, payment.load(), vec![order.load()], done, run).await
}

/// Gives back what was taken for a completed order. An order that is in flight may still be charged, or refunded
/// because it fails: it has to be cancelled, or to end by itself.
fn refund_completed(decision: &mut Decision, order_id: OrderId) -> Result<(), Stop> {
    let (payment, order) = (Key::<Payment>::new(order_id), Key::<Order>::new(order_id));
    decision.need([payment.load(), order.load()])?;
    // Read without a guard: a completed order stays completed.
    let Some(order) = decision.state(&order)? else { return Err(PaymentRejection::NotCharged.into()) };
    let advice = match order.status {
        OrderStatus::Completed => {
            let (reason, workflow) = (Reason::Requested, order.workflow);
            return refund(decision, &Refund { order_id, reason, never_charge: None, workflow });
        }
        OrderStatus::Pending => "the order is not completed: cancel it, which gives back what was charged",
        OrderStatus::Failed => "the order has failed: what was charged goes back by itself",
        OrderStatus::Cancelled => "the order is cancelled: what was charged goes back by itself",
    };
    Err(Refusal::conflict("order-not-completed", advice).into())
}
