//! Who sends a request: access tokens (JWT, RFC 9068 in spirit), checked with the keys that their issuer publishes.
//!
//! A request carries `Authorization: Bearer <token>`. [`Jwks`] keeps the issuer's keys, [`Verifier`] checks tokens with
//! them, [`layer`] puts it around routes, and a handler that takes a [`Principal`] is reached by nobody else. Signing is
//! the issuer's business alone: it writes [`Claims`].

mod documentation;
mod extract;
mod jwks;
mod principal;
mod verifier;

#[cfg(test)]
mod testing;

pub use documentation::{BEARER, Denied, document};
pub use extract::{layer, restrict};
pub use jwks::{Jwks, SourceError};
pub use principal::{Claims, Principal, Role};
pub use verifier::{AuthError, Verifier, expires, expiry};

/// Who issues access tokens: the claim `iss`.
pub const ISSUER: &str = "waybill";
/// Whom they are meant for: the claim `aud`.
pub const AUDIENCE: &str = "waybill";
