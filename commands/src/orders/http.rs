//! The HTTP commands of orders. Placing one is the hot path: without an idempotency key it costs one append.

use super::{
    AccountCopy, Copies, MAX_LINES, Order, OrderCommand, OrderRejection, OrderState, Placement, check_reason,
    total, users::Users,
};
use crate::{
    Aggregate, Decision, ExecuteError, Key, Refusal,
    address::check_address,
    http::{
        self, Answer, Api, Attempt, Call, CallHeaders, Done, Optional, PositionBody, Recorded, Refused,
        Unknown,
    },
    users::UserRejection,
};
use axum::{extract::State, http::StatusCode, response::Response};
use events::{
    AccountId, Address, DecodeError, Fact, Money, OrderId, Personal, Position, Sku, Subject, UserId,
    envelope::header,
    orders::{Line, OrderEvent, UserSnapshot, Workflow},
};
use futures::{
    TryFutureExt,
    future::{try_join_all, try_join3},
};
use nats::{KeyRing, Message};
use serde::{Deserialize, Serialize};
use service::{
    FieldError, Problem,
    auth::{Denied, Principal},
    extract::{Body, Path},
    telemetry::{KeyValue, current_span, semconv},
};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

struct Orders {
    api: Arc<Api>,
    copies: Copies,
    users: Users,
    keys: KeyRing,
    /// Who carries orders that do not say.
    workflow: Workflow,
}

/// The endpoints; prices and accounts come from `copies`, customers are looked up in `users`, personal data are sealed
/// with `keys`.
pub(super) fn routes(
    api: Api,
    copies: Copies,
    users: Users,
    keys: KeyRing,
    workflow: Workflow,
) -> OpenApiRouter {
    http::router().routes(routes!(place_order)).routes(routes!(cancel_order)).with_state(Arc::new(Orders {
        api: Arc::new(api),
        copies,
        users,
        keys,
        workflow,
    }))
}

/// An order to place. Prices are those of the catalogue.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PlaceOrder {
    /// The customer.
    #[schema(value_type = Uuid)]
    user_id: UserId,
    /// The customer's account that pays, in the currency of the prices.
    #[schema(value_type = Uuid)]
    account_id: AccountId,
    /// What is ordered: 1 to 100 lines, no SKU twice.
    #[schema(min_items = 1, max_items = 100)]
    items: Vec<Item>,
    /// Where it goes.
    shipping_address: ShippingAddress,
    /// Who carries it through; unless it is said, what the service is set to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<OrderWorkflow>)]
    workflow: Option<Workflow>,
}

/// Who carries an order through stock, payment and shipping.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "documents events::orders::Workflow, which knows nothing of OpenAPI")]
enum OrderWorkflow {
    /// Each service reacts to the facts of the others.
    Choreography,
    /// A saga asks each service in turn.
    Orchestration,
}

/// A line of an order.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = OrderItem)]
#[serde(deny_unknown_fields)]
struct Item {
    /// What.
    #[schema(value_type = String, example = "TEA-1")]
    sku: Sku,
    /// How many.
    #[schema(example = 2, minimum = 1, maximum = 1_000_000)]
    quantity: u32,
}

/// Where an order goes. Personal data: never printed.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ShippingAddress {
    /// Who receives it.
    #[schema(example = "Ada Lovelace")]
    name: String,
    /// Street and number.
    #[schema(example = "12 St James's Square")]
    line1: String,
    /// Anything more.
    line2: Option<String>,
    #[schema(example = "London")]
    city: String,
    #[schema(example = "SW1Y 4JH")]
    postal_code: String,
    /// ISO 3166-1 alpha-2 code.
    #[schema(example = "GB")]
    country: String,
}

/// An order that was placed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PlacedOrder {
    #[schema(value_type = Uuid)]
    id: OrderId,
    /// Always `pending`: the order was accepted, and nothing more.
    #[schema(example = "pending")]
    status: &'static str,
    /// The sum over its lines.
    #[schema(value_type = http::Money)]
    total_amount: Money,
    /// How the customer was known.
    #[schema(value_type = Snapshot)]
    user_snapshot: UserSnapshot,
    /// Where it stands: a query given this position sees it.
    #[schema(value_type = PositionBody)]
    position: Position,
}

/// How a customer was known.
#[derive(ToSchema)]
#[schema(as = UserSnapshot)]
#[expect(dead_code, reason = "documents events::orders::UserSnapshot, which knows nothing of OpenAPI")]
struct Snapshot {
    /// Whether the users service could not be asked and an own copy was relied on, which may be old.
    stale: bool,
}

/// Place an order
#[utoipa::path(
    post, path = "/orders", tag = "orders", security(("bearer" = [])), params(CallHeaders), request_body = PlaceOrder,
    responses(
        (status = 202, body = PlacedOrder, headers(
            ("Location" = String, description = "Where it is found"),
            ("Waybill-Position" = String, description = "The position, for the header of the same name in a query"),
            ("Idempotent-Replayed" = Option<bool>, description = "`true` where this was answered before"),
        )),
        Denied, Refused,
    )
)]
async fn place_order(
    State(orders): State<Arc<Orders>>,
    call: Call,
    Body(body): Body<PlaceOrder>,
) -> Result<Response, Problem> {
    let span = current_span();
    span.describe(|| {
        [
            KeyValue::new(semconv::ORDER_USER, body.user_id.to_string()),
            KeyValue::new(semconv::ORDER_ITEMS, i64::try_from(body.items.len()).unwrap_or(i64::MAX)),
        ]
    });
    let placed = place(&orders, call, body).await;
    match &placed {
        Ok(answer) if answer.status().is_success() => span.succeed(),
        Ok(answer) => span.fail(|| format!("answered before with {}", answer.status())),
        Err(problem) => span.fail(|| problem.detail().to_owned()),
    }
    placed
}

async fn place(orders: &Orders, call: Call, body: PlaceOrder) -> Result<Response, Problem> {
    let Orders { api, copies, users, keys, .. } = orders;
    call.principal.require_for(body.user_id.uuid())?;
    let (user_snapshot, items, account) = try_join3(
        users.check(body.user_id, |path| call.query(path)),
        priced(copies, &body.items, call.fresh),
        copies.account(body.account_id, call.fresh).map_err(Problem::from),
    )
    .await?;
    let command = call.command(&api.clock, "POST /orders", &body);
    let PlaceOrder { user_id, account_id, shipping_address, workflow, .. } = body;
    let workflow = workflow.unwrap_or(orders.workflow);
    let order_id = OrderId::new(command.new_id("order", &api.clock));
    let total_amount = total(&items).map_err(Refusal::from)?;
    let address = Address::from(shipping_address);
    check_address(&address, "shippingAddress")?;
    check_account(account, (user_id, account_id), total_amount)?;

    let keys = keys.clone();
    let carry_out = async move |attempt: Attempt| {
        // Not before the key was looked up: what was answered stays answered.
        let user_snapshot = user_snapshot.ok_or_else(erased)?;
        let shipping_address = keys.seal(user_id, &address).await?;
        let placement =
            Placement { order_id, user_id, account_id, items, shipping_address, workflow, user_snapshot };
        let place = OrderCommand::Place(Box::new(placement));
        let key = Key::<Order>::new(order_id);
        let (subject, keys) = (key.subject().clone(), vec![key.likely_new()]);
        let receipt = attempt.execute(&subject, keys, move |d| d.apply(&key, place.clone())).await?;
        let (total_amount, user_snapshot) = if receipt.replayed {
            recorded(&attempt, &subject).await?
        } else {
            (total_amount, user_snapshot)
        };
        let (status, position) = ("pending", receipt.position);
        let body = PlacedOrder { id: order_id, status, total_amount, user_snapshot, position };
        Ok(Answer::new(StatusCode::ACCEPTED, location(order_id), &receipt, &body))
    };
    api.answer(command, carry_out).await
}

/// The lines with their prices. Names every product that does not exist.
async fn priced(copies: &Copies, items: &[Item], fresh: bool) -> Result<Vec<Line>, Problem> {
    // Before anything is looked up, for every line costs a look.
    if items.len() > MAX_LINES {
        return Err(Refusal::from(OrderRejection::TooManyLines(items.len())).into());
    }
    let products = try_join_all(items.iter().map(|item| copies.product(&item.sku, fresh))).await?;
    let mut unknown = Vec::new();
    let mut lines = Vec::with_capacity(items.len());
    for (line, (Item { sku, quantity }, product)) in items.iter().zip(products).enumerate() {
        match product {
            Some(product) => {
                lines.push(Line { sku: sku.clone(), quantity: *quantity, unit_price: product.price });
            }
            None => unknown.push(FieldError {
                field: format!("items[{line}].sku"),
                detail: format!("There is no product '{sku}'."),
            }),
        }
    }
    let Some(first) = unknown.first().cloned() else { return Ok(lines) };
    let problem = Problem::invalid("unknown-product", first.field, first.detail);
    Err(if unknown.len() > 1 { problem.with_errors(unknown) } else { problem })
}

fn erased() -> ExecuteError {
    Refusal { field: Some("userId".to_owned()), ..UserRejection::Erased.into() }.into()
}

/// The account is the customer's and holds the currency of the order. Whose else it may be is nobody's business.
fn check_account(
    account: Option<AccountCopy>,
    (user_id, account_id): (UserId, AccountId),
    total: Money,
) -> Result<(), Problem> {
    let Some(account) = account.filter(|account| account.user_id == user_id) else {
        let detail = format!("The customer has no account {account_id}.");
        return Err(Problem::invalid("unknown-account", "accountId", detail));
    };
    if account.currency != total.currency {
        let detail = format!("The account is in {}, the order in {}.", account.currency, total.currency);
        return Err(Problem::invalid("currency-mismatch", "accountId", detail));
    }
    Ok(())
}

/// Total and customer of an order that was placed by an earlier attempt: prices may have changed since.
async fn recorded(attempt: &Attempt, order: &Subject) -> Result<(Money, UserSnapshot), ExecuteError> {
    let history = attempt.store().load(order, Order::SCHEMA).await.map_err(Arc::new)?;
    let unreadable =
        |source| ExecuteError::Unreadable { subject: order.to_string(), source: Arc::new(source) };
    match history.messages.first().map(Message::fact).transpose().map_err(unreadable)? {
        Some(Fact::Order(OrderEvent::Created(created))) => Ok((created.total_amount, created.user_snapshot)),
        _ => Err(unreadable(DecodeError::Header(header::TYPE))),
    }
}

fn location(order_id: OrderId) -> String {
    format!("/orders/{order_id}")
}

/// Why an order is cancelled.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CancelOrder {
    /// What the customer says, in at most 200 characters.
    #[schema(example = "found it cheaper")]
    reason: Option<String>,
}

/// Cancel an order
///
/// As long as it is pending. What was done for it is undone.
#[utoipa::path(
    post, path = "/orders/{id}/cancel", tag = "orders", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The order"), CallHeaders), request_body = Option<CancelOrder>,
    responses(Recorded, Unknown, Denied, Refused)
)]
async fn cancel_order(
    State(orders): State<Arc<Orders>>,
    call: Call,
    Path(id): Path<OrderId>,
    Optional(body): Optional<CancelOrder>,
) -> Result<Response, Problem> {
    let (api, principal) = (&orders.api, call.principal);
    let command = call.command(&api.clock, format_args!("POST /orders/{id}/cancel"), &body);
    if let Some(reason) = &body.reason {
        check_reason(reason).map_err(Refusal::from)?;
    }
    let all = Arc::clone(&orders);
    let carry_out = async move |attempt: Attempt| {
        let key = Key::<Order>::new(id);
        // Not before the key was looked up: what was answered stays answered, also when the customer was erased since.
        let reason = match body.reason {
            Some(reason) => all.sealed(&key, &principal, reason).await?,
            None => None,
        };
        let cancel = OrderCommand::Cancel { reason };
        let (about, done) = (key.load(), Done::recorded(location(id)));
        let run = move |decision: &mut Decision| {
            let others = |order: &OrderState| !principal.may_act_for(order.user_id.uuid());
            // Whether somebody else has such an order is nobody's business.
            if decision.state(&key)?.as_ref().is_some_and(others) {
                return Err(OrderRejection::Unknown.into());
            }
            decision.apply(&key, cancel.clone())
        };
        attempt.accept(about, [], done, run).await
    };
    api.answer(command, carry_out).await
}

impl Orders {
    /// What a customer says, sealed with the key of whom the order belongs to. Where there is no such order, or it is
    /// somebody else's, the command is refused anyway.
    async fn sealed(
        &self,
        order: &Key<Order>,
        principal: &Principal,
        reason: String,
    ) -> Result<Option<Personal<String>>, ExecuteError> {
        let order = self.api.executor.state(order).await?;
        let own = order.filter(|order| principal.may_act_for(order.user_id.uuid()));
        let Some(order) = own else { return Ok(None) };
        Ok(Some(self.keys.seal(order.user_id, &reason).await?))
    }
}

impl From<ShippingAddress> for Address {
    fn from(address: ShippingAddress) -> Self {
        let ShippingAddress { name, line1, line2, city, postal_code, country } = address;
        Self { name, line1, line2, city, postal_code, country }
    }
}
