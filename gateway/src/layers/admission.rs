//! Who comes in, and how often.

use crate::{
    Config, Gateway,
    access::Line,
    limit::{Decision, LimitKey, LimitPolicy},
    table::{Auth, Route},
};
use axum::http::{HeaderMap, header};
use service::{
    Problem,
    auth::{AuthError, Principal},
};
use std::net::IpAddr;

/// A request that wants to come in.
pub(super) struct Arrival<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) config: &'a Config,
    /// Where it comes from.
    pub(super) client: IpAddr,
    pub(super) headers: &'a HeaderMap,
}

impl Arrival<'_> {
    /// Whose token the request carries. A public route does not need one, and does not mind a bad one.
    ///
    /// Who is told that his token is wrong was counted first, by his address and apart from all else that it does; an
    /// address with too many wrong ones is not listened to, except for tokens that are known to be good: nobody guesses
    /// on, and nobody who shares the address is logged out. Who has no token, or one that has expired, guesses nothing:
    /// he is counted under the limit of the route, as anybody is who is known by his address only.
    pub(super) async fn authenticate(
        &self,
        route: &Route,
        line: &mut Line,
        told: &mut HeaderMap,
    ) -> Result<Option<Principal>, Problem> {
        let principal = self.principal(route, line, told).await?;
        line.principal = principal.map(|principal| principal.user);
        Ok(principal)
    }

    async fn principal(
        &self,
        route: &Route,
        line: &mut Line,
        told: &mut HeaderMap,
    ) -> Result<Option<Principal>, Problem> {
        let Self { gateway, config, headers, .. } = self;
        if let Some(principal) = gateway.verifier.known(headers) {
            return Ok(Some(principal));
        }
        let required = route.auth == Auth::Required;
        if required && headers.contains_key(header::AUTHORIZATION) {
            let exhausted = gateway.limiter.exhausted(&config.guesses, &LimitKey::address(self.client));
            exhausted.map_or(Ok(()), |decision| decided(&decision, line, told))?;
        }
        let error = match gateway.verifier.authenticate(headers).await {
            Ok(Some(principal)) => return Ok(Some(principal)),
            _ if !required => return Ok(None),
            Ok(None) => AuthError::Missing,
            Err(error) => error,
        };
        let policy = match error {
            // Nobody knows whether it is wrong.
            AuthError::KeysUnavailable => None,
            AuthError::Missing | AuthError::Expired => route.limit.as_ref(),
            _ => Some(&config.guesses),
        };
        self.count(policy, &LimitKey::address(self.client), line, told).await?;
        Err(error.into())
    }

    /// Counts the request under the limit of its route.
    pub(super) async fn limit(
        &self,
        route: &Route,
        principal: Option<Principal>,
        line: &mut Line,
        told: &mut HeaderMap,
    ) -> Result<(), Problem> {
        let by_address = || LimitKey::address(self.client);
        let key = principal.map_or_else(by_address, |principal| LimitKey::Principal(principal.user));
        self.count(route.limit.as_ref(), &key, line, told).await
    }

    async fn count(
        &self,
        policy: Option<&LimitPolicy>,
        key: &LimitKey,
        line: &mut Line,
        told: &mut HeaderMap,
    ) -> Result<(), Problem> {
        let Some(policy) = policy else { return Ok(()) };
        let decision = self.gateway.limiter.check(policy, key).await;
        decided(&decision, line, told)
    }
}

/// Tells how things stand, and ends the request if it may not pass.
fn decided(decision: &Decision, line: &mut Line, told: &mut HeaderMap) -> Result<(), Problem> {
    decision.headers(told);
    line.limit = if decision.allowed { "passed" } else { "refused" };
    if decision.allowed { Ok(()) } else { Err(decision.problem()) }
}
