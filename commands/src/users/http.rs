//! The HTTP commands of users. What is personal is sealed here, before anything is decided.

mod bodies;
mod sessions;

use super::{
    Email, EmailRejection, ProfileChange, User, UserCommand, UserRejection, UserState,
    address::{Address, Digester},
    credentials::{Credentials, Password, Place},
    erase, register,
    sessions::Sessions,
    throttle::Throttle,
    tokens::Issuer,
    update_profile,
    user::checked,
};
use crate::{
    Decision, ExecuteError, Key, Refusal,
    http::{
        self, Accepted, Answer, Api, Attempt, Call, CallHeaders, Created, Done, Nothing, Optional, Recorded,
        Refused, Unknown,
    },
};
use axum::{extract::State, http::StatusCode, response::Response};
use bodies::{
    ChangeRoles, IfMatch, IfMatchHeader, Preferences, Register, Stale, Subscription, UpdateProfile,
};
use events::{
    UserId,
    users::{self, Role, Topic, UserCreated},
};
use nats::{AppendError, KeyRing};
use service::{
    Problem,
    auth::{self, Denied, Principal},
    extract::{Body, Path},
    origin::TrustedProxies,
};
use std::{error::Error, sync::Arc};
use utoipa_axum::{router::OpenApiRouter, routes};

/// What the endpoints of users need.
pub(super) struct Users {
    pub(super) api: Arc<Api>,
    pub(super) keys: KeyRing,
    pub(super) digester: Digester,
    pub(super) credentials: Credentials,
    pub(super) sessions: Sessions,
    pub(super) throttle: Throttle,
    /// Who is believed on whose behalf somebody logs in.
    pub(super) proxies: TrustedProxies,
    pub(super) issuer: Issuer,
}

/// The endpoints.
pub(super) fn routes(users: Users) -> OpenApiRouter {
    http::router()
        .routes(routes!(register_user))
        .routes(routes!(update_user, erase_user))
        .routes(routes!(set_preferences))
        .routes(routes!(subscribe, unsubscribe))
        .routes(routes!(change_roles))
        .merge(sessions::routes())
        .with_state(Arc::new(users))
}

/// Somebody who registers, checked.
struct Newcomer {
    user_id: UserId,
    address: Address,
    name: String,
    password: Password,
    preferences: users::Preferences,
}

/// Register
///
/// Nobody has to be logged in for it. An `Idempotency-Key` remembers everything but the password.
#[utoipa::path(
    post, path = "/users", tag = "users", params(CallHeaders), request_body = Register,
    responses(Created, Refused)
)]
async fn register_user(
    State(users): State<Arc<Users>>,
    call: Call<Option<Principal>>,
    Body(body): Body<Register>,
) -> Result<Response, Problem> {
    let address = Address::of_field(&body.email)?;
    body.password.check("password")?;
    let name = bodies::name(body.name)?;
    let preferences = body.preferences.map(Into::into).unwrap_or_default();
    let preferences = checked(preferences).map_err(|error| preference(error.into()))?;
    let request = users.digester.request(&(address.written(), &name, &preferences));
    let api = &users.api;
    let command = call.command(&api.clock, "POST /users", &request);
    let user_id = UserId::new(command.new_id("user", &api.clock));
    let newcomer = Newcomer { user_id, address, name, password: body.password, preferences };
    let place = users.credentials.place().await?;
    let all = Arc::clone(&users);
    api.answer(command, async move |attempt| all.welcome(&attempt, newcomer, place).await).await
}

/// Names the field of a preference as it is in a registration.
fn preference(refusal: Refusal) -> Refusal {
    Refusal { field: refusal.field.map(|field| format!("preferences.{field}")), ..refusal }
}

impl Users {
    /// Registers somebody. The password is kept before the user exists: without the user it is of no use, and a user
    /// without it could not log in.
    async fn welcome(&self, attempt: &Attempt, new: Newcomer, place: Place) -> Result<Answer, ExecuteError> {
        let Newcomer { user_id, address, name, password, preferences } = new;
        let email_hash = self.digester.email(&address);
        let (user, email) = (Key::<User>::new(user_id), Key::<Email>::new(&email_hash));
        // Nothing is made for somebody who cannot come in. The append is what decides.
        if self.api.executor.state(&email).await?.is_some_and(|owner| owner != user_id) {
            return Err(Refusal::from(EmailRejection::Taken).into());
        }
        let name = self.keys.seal(user_id, &name).await?;
        let written = self.keys.seal(user_id, &address.written().to_owned()).await?;
        let roles = vec![Role::Customer];
        let created = UserCreated { user_id, name, email: written, email_hash, preferences, roles };
        let first = self.credentials.set_first(user_id, password, place).await;
        let first = first.map_err(|error| unavailable(&error))?;
        let keys = vec![user.likely_new(), email.load()];
        let run = move |decision: &mut Decision| register(decision, &created);
        let result = attempt.execute(user.subject(), keys, run).await;
        if first
            && matches!(result, Err(ExecuteError::Refused(_)))
            && let Err(error) = self.credentials.remove(user_id).await
        {
            // It belongs to nobody.
            tracing::warn!(%error, "the password of a registration that was refused is not removed");
        }
        let receipt = result?;
        let body = Accepted { id: &user_id.to_string(), position: receipt.position };
        Ok(Answer::new(StatusCode::CREATED, location(user_id), &receipt, &body))
    }

    /// A profile's change, sealed.
    async fn seal(
        &self,
        user: UserId,
        body: UpdateProfile,
        address: Option<Address>,
    ) -> Result<ProfileChange, ExecuteError> {
        // No key is made for somebody who does not exist.
        if self.api.executor.state(&Key::<User>::new(user)).await? == UserState::Unknown {
            return Err(Refusal::from(UserRejection::Unknown).into());
        }
        let mut change = ProfileChange::default();
        if let Some(name) = &body.name {
            change.name = Some(self.keys.seal(user, name).await?);
        }
        if let Some(address) = &address {
            let sealed = self.keys.seal(user, &address.written().to_owned()).await?;
            change.email = Some((self.digester.email(address), sealed));
        }
        if let Some(addresses) = body.addresses {
            let addresses = addresses.into_iter().map(Into::into).collect();
            change.addresses = Some(self.keys.seal(user, &addresses).await?);
        }
        Ok(change)
    }

    /// Asks a user.
    async fn apply(
        &self,
        command: http::Command,
        user: UserId,
        asked: UserCommand,
    ) -> Result<Response, Problem> {
        self.api.apply(command, Key::<User>::new(user), recorded(user), asked).await
    }
}

fn location(user: UserId) -> String {
    format!("/users/{user}")
}

fn recorded(user: UserId) -> Done {
    Done::recorded(location(user))
}

/// What is kept beside the log cannot be reached.
fn unavailable(error: &dyn Error) -> ExecuteError {
    AppendError::Unavailable(http::chain(error)).into()
}

/// Change the profile
///
/// What is left out stays as it is. With `If-Match` only where nobody has changed the user since.
#[utoipa::path(
    patch, path = "/users/{id}", tag = "users", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The user"), IfMatchHeader, CallHeaders),
    request_body = UpdateProfile, responses(Recorded, Denied, Unknown, Stale, Refused)
)]
async fn update_user(
    State(users): State<Arc<Users>>,
    call: Call,
    Path(id): Path<UserId>,
    IfMatch(version): IfMatch,
    Body(body): Body<UpdateProfile>,
) -> Result<Response, Problem> {
    call.principal.require_for(id.uuid())?;
    let body = body.checked()?;
    let address = body.email.as_deref().map(Address::of_field).transpose()?;
    let request = users.digester.request(&(&body, version));
    let command = call.command(&users.api.clock, format_args!("PATCH /users/{id}"), &request);
    let all = Arc::clone(&users);
    let carry_out = async move |attempt: Attempt| {
        // Not before the key was looked up: what was answered stays answered, also when the user was erased since.
        let change = all.seal(id, body, address).await?;
        let run = move |decision: &mut Decision| update_profile(decision, id, &change, version);
        attempt.accept(Key::<User>::new(id).load(), [], recorded(id), run).await
    };
    users.api.answer(command, carry_out).await
}

/// Erase a user, for ever
///
/// The key of everything personal is destroyed, wherever it is recorded; the e-mail address is free for others.
#[utoipa::path(
    delete, path = "/users/{id}", tag = "users", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The user"), CallHeaders), request_body = Option<Nothing>,
    responses(Recorded, Denied, Unknown, Refused)
)]
async fn erase_user(
    State(users): State<Arc<Users>>,
    call: Call,
    Path(id): Path<UserId>,
    Optional(body): Optional<Nothing>,
) -> Result<Response, Problem> {
    call.principal.require_for(id.uuid())?;
    let command = call.command(&users.api.clock, format_args!("DELETE /users/{id}"), &body);
    let about = Key::<User>::new(id).load();
    let run = move |decision: &mut Decision| erase(decision, id);
    users.api.accept(command, about, Vec::new(), recorded(id), run).await
}

/// Set the preferences
#[utoipa::path(
    put, path = "/users/{id}/preferences", tag = "users", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The user"), CallHeaders), request_body = Preferences,
    responses(Recorded, Denied, Unknown, Refused)
)]
async fn set_preferences(
    State(users): State<Arc<Users>>,
    call: Call,
    Path(id): Path<UserId>,
    Body(body): Body<Preferences>,
) -> Result<Response, Problem> {
    call.principal.require_for(id.uuid())?;
    let command = call.command(&users.api.clock, format_args!("PUT /users/{id}/preferences"), &body);
    let preferences = checked(body.into()).map_err(Refusal::from)?;
    users.apply(command, id, UserCommand::SetPreferences(preferences)).await
}

/// Subscribe to a topic
#[utoipa::path(
    put, path = "/users/{id}/subscriptions/{topic}", tag = "users", security(("bearer" = [])),
    params(Subscription, CallHeaders), request_body = Option<Nothing>,
    responses(Recorded, Denied, Unknown, Refused)
)]
async fn subscribe(
    State(users): State<Arc<Users>>,
    call: Call,
    Path(subscription): Path<Subscription>,
    Optional(body): Optional<Nothing>,
) -> Result<Response, Problem> {
    users.change(call, "PUT", subscription, &body, UserCommand::Subscribe).await
}

/// Unsubscribe from a topic
#[utoipa::path(
    delete, path = "/users/{id}/subscriptions/{topic}", tag = "users", security(("bearer" = [])),
    params(Subscription, CallHeaders), request_body = Option<Nothing>,
    responses(Recorded, Denied, Unknown, Refused)
)]
async fn unsubscribe(
    State(users): State<Arc<Users>>,
    call: Call,
    Path(subscription): Path<Subscription>,
    Optional(body): Optional<Nothing>,
) -> Result<Response, Problem> {
    users.change(call, "DELETE", subscription, &body, UserCommand::Unsubscribe).await
}

impl Users {
    /// Changes whether a user hears of a topic.
    async fn change(
        &self,
        call: Call,
        method: &str,
        Subscription { id, topic }: Subscription,
        body: &Nothing,
        change: impl FnOnce(Topic) -> UserCommand,
    ) -> Result<Response, Problem> {
        call.principal.require_for(id.uuid())?;
        let scope = format!("{method} /users/{id}/subscriptions/{topic}");
        let command = call.command(&self.api.clock, scope, body);
        self.apply(command, id, change(topic)).await
    }
}

/// Change what a user may do
///
/// For admins. Access tokens that were issued before say what the user could do then, for 15 minutes.
#[utoipa::path(
    put, path = "/users/{id}/roles", tag = "users", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The user"), CallHeaders), request_body = ChangeRoles,
    responses(Recorded, Denied, Unknown, Refused)
)]
async fn change_roles(
    State(users): State<Arc<Users>>,
    call: Call,
    Path(id): Path<UserId>,
    Body(body): Body<ChangeRoles>,
) -> Result<Response, Problem> {
    call.principal.require(auth::Role::Admin)?;
    if body.roles.is_empty() {
        return Err(Refusal::from(UserRejection::NoRole).into());
    }
    let command = call.command(&users.api.clock, format_args!("PUT /users/{id}/roles"), &body);
    users.apply(command, id, UserCommand::ChangeRoles(body.roles)).await
}
