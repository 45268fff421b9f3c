//! Logging in and out, and the keys that tokens are checked with. None of this is remembered by idempotency keys.

use super::Users;
use crate::{
    Key,
    http::{Optional, Refused, chain, log_unavailable},
    users::{
        Email, User, UserState,
        address::Address,
        credentials::Password,
        sessions::{Refreshed, Session},
        throttle::Source,
        tokens::{ACCESS, TokenError},
    },
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use events::{UserId, users::Role};
use serde::{Deserialize, Serialize};
use service::{
    Problem,
    auth::{self, AuthError, Principal},
    extract::{Body, Path},
    origin::Peer,
};
use std::{error::Error, sync::Arc};
use utoipa::{IntoResponses, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

pub(super) fn routes() -> OpenApiRouter<Arc<Users>> {
    OpenApiRouter::new()
        .routes(routes!(log_in, log_out))
        .routes(routes!(refresh))
        .routes(routes!(change_password))
        .routes(routes!(key_set))
}

/// Who logs in. Never printed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LogIn {
    #[schema(example = "ada@example.com")]
    email: String,
    #[schema(value_type = String, format = Password, example = "correct horse battery")]
    password: Password,
}

/// A refresh token. Never printed.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Refresh {
    /// The newest one of the session.
    refresh_token: String,
}

/// Which session ends.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LogOut {
    /// A refresh token of the session; without it, that of the access token ends.
    refresh_token: Option<String>,
}

/// What a session is continued with.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Tokens {
    user_id: Uuid,
    /// For `Authorization: Bearer`.
    access_token: String,
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds for which the access token is valid.
    #[schema(example = 900)]
    expires_in: u64,
    /// Gets the next tokens, once.
    refresh_token: String,
}

/// The keys that access tokens are checked with (RFC 7517).
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents what the keys write")]
struct KeySet {
    keys: Vec<PublicKey>,
}

/// A public key.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents what the keys write")]
struct PublicKey {
    #[schema(example = "OKP")]
    kty: String,
    #[schema(example = "Ed25519")]
    crv: String,
    #[schema(example = "sig")]
    r#use: String,
    #[schema(example = "EdDSA")]
    alg: String,
    /// Its name in tokens.
    kid: String,
    /// The key, in base64url.
    x: String,
}

/// Another password. Never printed.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ChangePassword {
    #[schema(value_type = String, format = Password, example = "correct horse battery")]
    current_password: Password,
    /// 12 to 128 characters.
    #[schema(value_type = String, format = Password, min_length = 12, max_length = 128, example = "a staple of another kind")]
    new_password: Password,
}

/// How logging in can be refused.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents problems")]
enum NotLoggedIn {
    /// The address, the password or the token is wrong.
    #[response(status = 401, content_type = "application/problem+json")]
    Wrong(Problem),
    /// Too many attempts: try again after `Retry-After`.
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(Problem),
}

/// Somebody else's business.
#[derive(IntoResponses)]
#[response(status = 403, content_type = "application/problem+json")]
#[expect(dead_code, reason = "documents a problem")]
struct Forbidden(Problem);

/// Log in
///
/// A session begins, which lasts 30 days. Its access token is valid for 15 minutes; the refresh token gets the next one.
#[utoipa::path(
    post, path = "/sessions", tag = "sessions", request_body = LogIn,
    responses((status = 201, body = Tokens), NotLoggedIn, Refused)
)]
async fn log_in(
    State(users): State<Arc<Users>>,
    peer: Peer,
    headers: HeaderMap,
    Body(LogIn { email, password }): Body<LogIn>,
) -> Result<Response, Problem> {
    let address = Address::parse(&email);
    let hash = match &address {
        Some(address) => users.digester.email(address),
        None => users.digester.no_email(&email),
    };
    if let Some(client) = users.proxies.client(peer, &headers) {
        users.throttle.admit(&Source::Client(client)).await.map_err(|error| away(&error))??;
    }
    let account = Source::Account(hash.clone());
    users.throttle.admit(&account).await.map_err(|error| away(&error))??;

    // The same steps whether there is such a user or not: how long they take says nothing either.
    let owner = users.api.executor.state(&Key::<Email>::new(&hash)).await?;
    let place = users.credentials.place().await?;
    let verified = users.credentials.verify(owner, password, place).await;
    let verified = verified.map_err(|error| away(&error))?;
    let Some((user, _)) = owner.zip(verified) else { return Err(wrong()) };
    let Some(roles) = users.roles(user).await? else { return Err(wrong()) };

    users.throttle.forget(&account).await.map_err(|error| away(&error))?;
    let session = users.sessions.begin(user).await.map_err(|error| away(&error))?;
    users.tokens(StatusCode::CREATED, session, roles).await
}

/// Refresh a session
///
/// Gets an access token and the next refresh token. A refresh token that was used before ends its session: either it or
/// its successor was stolen.
#[utoipa::path(
    post, path = "/sessions/refresh", tag = "sessions", request_body = Refresh,
    responses((status = 200, body = Tokens), NotLoggedIn, Refused)
)]
async fn refresh(State(users): State<Arc<Users>>, Body(body): Body<Refresh>) -> Result<Response, Problem> {
    // What may fail is asked before: a token that is used up without an answer ends its session when it comes again.
    let Some(user) = users.sessions.user(&body.refresh_token) else { return Err(over()) };
    // Every time: roles change, and users are erased.
    let Some(roles) = users.roles(user).await? else {
        users.sessions.end_all(user).await.map_err(|error| away(&error))?;
        return Err(over());
    };
    let refreshed = users.sessions.refresh(&body.refresh_token).await.map_err(|error| away(&error))?;
    let session = match refreshed {
        Refreshed::Continued(session) => session,
        Refreshed::Reused(user) => {
            tracing::warn!(userId = %user, "a refresh token came twice: its session is over");
            return Err(over());
        }
        Refreshed::Unknown => return Err(over()),
    };
    users.tokens(StatusCode::OK, session, roles).await
}

/// Log out
///
/// The session of the refresh token in the body ends, or that of the access token in the header. An access token that
/// was issued is valid to its end.
#[utoipa::path(
    delete, path = "/sessions", tag = "sessions", request_body = Option<LogOut>,
    responses((status = 204, description = "The session is over"), NotLoggedIn, Refused)
)]
async fn log_out(
    State(users): State<Arc<Users>>,
    principal: Option<Principal>,
    Optional(body): Optional<LogOut>,
) -> Result<StatusCode, Problem> {
    let ended = match (body.refresh_token, principal) {
        (Some(token), _) => users.sessions.end(&token).await,
        (None, Some(principal)) => {
            users.sessions.end_of_access(UserId::new(principal.user), principal.token).await
        }
        (None, None) => return Err(AuthError::Missing.into()),
    };
    ended.map_err(|error| away(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Change the password
///
/// For the user alone. Every session ends.
#[utoipa::path(
    put, path = "/users/{id}/password", tag = "sessions", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The user")), request_body = ChangePassword,
    responses((status = 204, description = "The password is set"), NotLoggedIn, Forbidden, Refused)
)]
async fn change_password(
    State(users): State<Arc<Users>>,
    Path(id): Path<UserId>,
    principal: Principal,
    Body(body): Body<ChangePassword>,
) -> Result<StatusCode, Problem> {
    if principal.user != id.uuid() {
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "Only the user sets the password."));
    }
    let ChangePassword { current_password, new_password } = body;
    new_password.check("newPassword")?;
    let UserState::Registered(user) = users.api.executor.state(&Key::<User>::new(id)).await? else {
        return Err(wrong());
    };
    // Whoever has stolen an access token may not guess on.
    let account = Source::Account(user.email_hash);
    users.throttle.admit(&account).await.map_err(|error| away(&error))??;
    let place = users.credentials.place().await?;
    let verified = users.credentials.verify(Some(id), current_password, place).await;
    let Some(verified) = verified.map_err(|error| away(&error))? else { return Err(wrong()) };
    let place = users.credentials.place().await?;
    let set = users.credentials.set(id, new_password, verified, place).await;
    if !set.map_err(|error| away(&error))? {
        return Err(wrong());
    }
    users.sessions.end_all(id).await.map_err(|error| away(&error))?;
    users.throttle.forget(&account).await.map_err(|error| away(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// The keys that access tokens are checked with
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "sessions",
    responses((status = 200, body = KeySet), (status = 503, body = Problem))
)]
async fn key_set(State(users): State<Arc<Users>>) -> Result<Response, Problem> {
    let keys = users.issuer.keys().jwks(users.api.clock.now()).await.map_err(|error| unsigned(&error))?;
    let headers =
        [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "public, max-age=300")];
    Ok((headers, keys).into_response())
}

impl Users {
    /// What a user may do; `None` for one who is erased.
    async fn roles(&self, user: UserId) -> Result<Option<Vec<auth::Role>>, Problem> {
        let UserState::Registered(user) = self.api.executor.state(&Key::<User>::new(user)).await? else {
            return Ok(None);
        };
        let role = |role: &Role| match role {
            Role::Customer => auth::Role::Customer,
            Role::Operator => auth::Role::Operator,
            Role::Admin => auth::Role::Admin,
        };
        Ok(Some(user.roles.iter().map(role).collect()))
    }

    /// The answer with the tokens of a session.
    async fn tokens(
        &self,
        status: StatusCode,
        session: Session,
        roles: Vec<auth::Role>,
    ) -> Result<Response, Problem> {
        let user_id = session.user.uuid();
        let issued = self.issuer.issue(user_id, roles, session.access(), ACCESS).await;
        let tokens = Tokens {
            user_id,
            access_token: issued.map_err(|error| unsigned(&error))?.token,
            token_type: "Bearer",
            expires_in: ACCESS.as_secs(),
            refresh_token: self.sessions.token(session),
        };
        let unkept = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
        Ok((status, unkept, Json(tokens)).into_response())
    }
}

fn wrong() -> Problem {
    let detail = "The e-mail address or the password is wrong.";
    Problem::new(StatusCode::UNAUTHORIZED, "wrong-credentials", detail).with_challenge(challenge())
}

fn over() -> Problem {
    let detail = "The session is over. Log in again.";
    Problem::new(StatusCode::UNAUTHORIZED, "session-over", detail).with_challenge(challenge())
}

fn challenge() -> HeaderValue {
    HeaderValue::from_static(r#"Bearer realm="waybill""#)
}

fn away(error: &dyn Error) -> Problem {
    tracing::warn!(error = chain(error), "what is kept of users cannot be reached");
    log_unavailable()
}

fn unsigned(error: &TokenError) -> Problem {
    if matches!(error, TokenError::Away(_) | TokenError::Missing) {
        return away(error);
    }
    tracing::error!(error = chain(error), "no token can be signed");
    Problem::internal()
}
