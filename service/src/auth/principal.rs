//! What a token says of whoever sends it.

use super::{AUDIENCE, ISSUER};
use crate::Problem;
use axum::http::{HeaderValue, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

/// What somebody may do. Each role may do all that those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees and orders for himself.
    Customer,
    /// Runs the shop: catalogue, stock, credits, parcels; sees and acts for every customer.
    Operator,
    /// Gives roles to others.
    Admin,
}

impl Role {
    /// The role as it is written in tokens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let roles = [Self::Customer, Self::Operator, Self::Admin];
        roles.into_iter().find(|role| role.as_str() == text).ok_or("expected customer, operator or admin")
    }
}

/// What an access token says: the claims of RFC 7519 and the roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who issued it: [`ISSUER`].
    pub iss: String,
    /// Whom it is meant for: [`AUDIENCE`].
    pub aud: String,
    /// The user.
    pub sub: Uuid,
    /// What the user may do; never empty.
    pub roles: Vec<Role>,
    /// The token's own id.
    pub jti: Uuid,
    /// When it was issued, in seconds since 1970.
    pub iat: i64,
    /// From when it is valid, in seconds since 1970.
    pub nbf: i64,
    /// From when it is no longer valid, in seconds since 1970.
    pub exp: i64,
}

impl Claims {
    /// The claims of a token named `id`, issued `now` to `user`.
    pub fn new(user: Uuid, roles: Vec<Role>, id: Uuid, now: Timestamp, lifetime: SignedDuration) -> Self {
        let now = now.as_second();
        Self {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user,
            roles,
            jti: id,
            iat: now,
            nbf: now,
            exp: now.saturating_add(lifetime.as_secs()),
        }
    }
}

/// Who sends a request. Taken as an argument of a handler it demands a valid token; as an option it demands that a
/// token that is sent be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The user.
    pub user: Uuid,
    /// The highest role of the user.
    pub role: Role,
    /// The id of the token.
    pub token: Uuid,
}

impl Principal {
    /// Whether the principal may do what `role` may.
    pub fn has(&self, role: Role) -> bool {
        self.role >= role
    }

    /// Whether the principal runs the shop.
    pub fn is_operator(&self) -> bool {
        self.has(Role::Operator)
    }

    /// Whether the principal may see and do what is `user`'s: its own, and everybody's for operators.
    pub fn may_act_for(&self, user: Uuid) -> bool {
        self.user == user || self.is_operator()
    }

    /// Refuses (403) a principal that may not act for `user`.
    pub fn require_for(&self, user: Uuid) -> Result<(), Problem> {
        if self.user == user { Ok(()) } else { self.require(Role::Operator) }
    }

    /// Refuses (403) a principal that may not do what `role` may.
    pub fn require(&self, role: Role) -> Result<(), Problem> {
        if self.has(role) {
            return Ok(());
        }
        let challenge = HeaderValue::from_static(r#"Bearer realm="waybill", error="insufficient_scope""#);
        let detail = format!("This takes the role '{role}'; the token has '{}'.", self.role);
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail).with_challenge(challenge))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;

    fn principal(role: Role) -> Principal {
        Principal { user: Uuid::from_u128(1), role, token: Uuid::from_u128(2) }
    }

    #[test]
    fn a_customer_acts_for_himself_and_an_operator_for_everybody() {
        let (own, other) = (Uuid::from_u128(1), Uuid::from_u128(3));
        for (role, others) in [(Role::Customer, false), (Role::Operator, true), (Role::Admin, true)] {
            assert!(principal(role).may_act_for(own));
            assert_eq!(principal(role).may_act_for(other), others, "{role}");
            assert_eq!(principal(role).is_operator(), others, "{role}");
            assert!(principal(role).require_for(own).is_ok());
            assert_eq!(principal(role).require_for(other).is_ok(), others, "{role}");
        }
    }

    #[test]
    fn a_role_that_is_missing_is_named() {
        assert!(principal(Role::Admin).require(Role::Operator).is_ok());
        assert!(principal(Role::Operator).require(Role::Admin).is_err());
        let problem = principal(Role::Customer).require(Role::Operator).unwrap_err();
        assert_eq!((problem.status().as_u16(), problem.kind()), (403, "/problems/forbidden"));
        assert_eq!(problem.detail(), "This takes the role 'operator'; the token has 'customer'.");
        let response = problem.into_response();
        let challenge = response.headers()["www-authenticate"].to_str().unwrap();
        assert_eq!(challenge, r#"Bearer realm="waybill", error="insufficient_scope""#);
    }

    #[test]
    fn roles_are_written_and_read_alike() {
        for role in [Role::Customer, Role::Operator, Role::Admin] {
            assert_eq!(role.to_string().parse(), Ok(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
        assert!("root".parse::<Role>().is_err());
    }
}
