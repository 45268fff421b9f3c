//! What requests about users say: bodies and headers, checked as far as that needs no state.

use crate::{address::check_address, users::credentials::Password};
use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};
use events::{
    Address, Currency, UserId,
    users::{self, Channel, Role, Topic},
};
use serde::{Deserialize, Serialize};
use service::Problem;
use utoipa::{IntoParams, IntoResponses, ToSchema};

/// Characters of a field of free text.
const MAX_TEXT: usize = 200;
/// Postal addresses of one user.
const MAX_ADDRESSES: usize = 20;

/// Somebody who registers. Never printed.
#[derive(Deserialize, ToSchema)]
#[schema(as = RegisterUser)]
#[serde(deny_unknown_fields)]
pub(super) struct Register {
    /// An address that no other user has, in at most 254 characters.
    #[schema(example = "ada@example.com")]
    pub(super) email: String,
    /// 12 to 128 characters.
    #[schema(value_type = String, format = Password, min_length = 12, max_length = 128, example = "correct horse battery")]
    pub(super) password: Password,
    /// What the user is called.
    #[schema(min_length = 1, max_length = 200, example = "Ada Lovelace")]
    pub(super) name: String,
    /// English and e-mail unless said.
    pub(super) preferences: Option<Preferences>,
}

/// What a user prefers.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Preferences {
    /// A BCP 47 language tag.
    #[schema(example = "de-AT", max_length = 35)]
    language: String,
    /// Ways to be reached.
    #[schema(value_type = Vec<ChannelName>)]
    channels: Vec<Channel>,
    /// ISO 4217 code of the currency in which prices are shown.
    #[schema(value_type = Option<String>, example = "EUR")]
    currency: Option<Currency>,
}

/// A way to be reached.
#[derive(ToSchema)]
#[schema(as = Channel, rename_all = "lowercase")]
#[expect(dead_code, reason = "documents events::users::Channel, which knows nothing of OpenAPI")]
enum ChannelName {
    Email,
    Sms,
    Push,
}

impl From<Preferences> for users::Preferences {
    fn from(preferences: Preferences) -> Self {
        let Preferences { language, channels, currency } = preferences;
        Self { language, channels, currency }
    }
}

/// A topic that a user may hear of.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct Subscription {
    /// The user
    #[param(value_type = Uuid)]
    pub(super) id: UserId,
    /// 1 to 64 of `a-z 0-9 _ -`
    #[param(value_type = String, pattern = "^[a-z0-9_-]{1,64}$", example = "order-updates")]
    pub(super) topic: Topic,
}

/// What changes of a profile; what is left out stays. Never printed.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = UpdateUser)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateProfile {
    /// What the user is called.
    #[schema(min_length = 1, max_length = 200, example = "Ada King")]
    pub(super) name: Option<String>,
    /// An address that no other user has.
    #[schema(example = "ada.king@example.com")]
    pub(super) email: Option<String>,
    /// All postal addresses, at most 20.
    #[schema(max_items = 20)]
    pub(super) addresses: Option<Vec<PostalAddress>>,
}

/// A postal address. Never printed.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PostalAddress {
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

impl From<PostalAddress> for Address {
    fn from(address: PostalAddress) -> Self {
        let PostalAddress { name, line1, line2, city, postal_code, country } = address;
        Self { name, line1, line2, city, postal_code, country }
    }
}

impl PostalAddress {
    /// By the rules for the address of an order; `at` is the field in the request.
    fn check(&self, at: &str) -> Result<(), Problem> {
        Ok(check_address(&self.clone().into(), at)?)
    }
}

/// A name without spaces around it; an error where it is empty or too long.
pub(super) fn name(text: String) -> Result<String, Problem> {
    let trimmed = text.trim();
    let fits = (1..=MAX_TEXT).contains(&trimmed.chars().count());
    if !fits || trimmed.chars().any(char::is_control) {
        let detail = format!("A name has 1 to {MAX_TEXT} characters.");
        return Err(Problem::invalid("name-invalid", "name", detail));
    }
    Ok(if trimmed.len() == text.len() { text } else { trimmed.to_owned() })
}

impl UpdateProfile {
    /// With every field checked but the e-mail address, which is read where it is needed.
    pub(super) fn checked(mut self) -> Result<Self, Problem> {
        self.name = self.name.map(name).transpose()?;
        let addresses = self.addresses.as_deref().unwrap_or_default();
        if addresses.len() > MAX_ADDRESSES {
            let detail = format!("A user has at most {MAX_ADDRESSES} postal addresses.");
            return Err(Problem::invalid("too-many-addresses", "addresses", detail));
        }
        for (place, address) in addresses.iter().enumerate() {
            address.check(&format!("addresses[{place}]"))?;
        }
        Ok(self)
    }
}

/// What a user may do.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeRoles {
    /// At least one.
    #[schema(value_type = Vec<RoleName>, min_items = 1)]
    pub(super) roles: Vec<Role>,
}

/// What somebody may do. Each may do all that those before it may.
#[derive(ToSchema)]
#[schema(as = Role, rename_all = "lowercase")]
#[expect(dead_code, reason = "documents events::users::Role, which knows nothing of OpenAPI")]
enum RoleName {
    Customer,
    Operator,
    Admin,
}

/// The version that a change is meant for.
pub(super) struct IfMatch(pub(super) Option<u64>);

/// How it is sent.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents what IfMatch reads")]
pub(super) struct IfMatchHeader {
    /// The `ETag` of the user that was read: the change is refused where it has changed since.
    #[param(rename = "If-Match", required = false, example = "\"3\"")]
    if_match: String,
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(sent) = parts.headers.get(header::IF_MATCH) else { return Ok(Self(None)) };
        let tag = sent.to_str().unwrap_or_default().trim();
        if tag == "*" {
            return Ok(Self(None));
        }
        let version = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')?.parse().ok());
        let version = version.ok_or_else(|| {
            let detail = "If-Match must be one ETag as it was answered, such as \"3\".";
            Problem::bad_request("invalid-if-match", detail).with_field("If-Match")
        })?;
        Ok(Self(Some(version)))
    }
}

/// The user has changed.
#[derive(IntoResponses)]
#[response(status = 412, content_type = "application/problem+json")]
#[expect(dead_code, reason = "documents an answer")]
pub(super) struct Stale(Problem);
