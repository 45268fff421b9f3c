//! How the documentation of an API tells who may ask.

use crate::Problem;
use utoipa::{
    IntoResponses,
    openapi::{
        Components, OpenApi,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

/// The security scheme that an operation names which demands a principal.
pub const BEARER: &str = "bearer";

/// How a request can be refused for who sends it.
#[derive(IntoResponses)]
pub enum Denied {
    /// No access token was sent, or it is not good.
    #[response(
        status = 401, content_type = "application/problem+json",
        headers(("WWW-Authenticate" = String, description = "What is wanted, and what is wrong with what was sent")),
    )]
    Unauthenticated(Problem),
    /// The principal may not do this.
    #[response(
        status = 403, content_type = "application/problem+json",
        headers(("WWW-Authenticate" = String, description = "What is wrong with what was sent")),
    )]
    Forbidden(Problem),
}

/// Declares the scheme [`BEARER`].
pub fn document(api: &mut OpenApi) {
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("An access token: from `POST /sessions`, or from `waybill token`."))
        .build();
    api.components
        .get_or_insert_with(Components::new)
        .add_security_scheme(BEARER, SecurityScheme::Http(scheme));
}
