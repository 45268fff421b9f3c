//! Whether a token is good, and whose it is.

use super::{AUDIENCE, Claims, ISSUER, Jwks, Principal, jwks::PAUSE};
use crate::{Clock, Problem};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, crypto};
use lru::LruCache;
use serde::{Deserialize, de::DeserializeOwned, de::IgnoredAny};
use std::{
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How far the clocks of issuer and verifier may differ, in seconds.
const LEEWAY: i64 = 30;
/// The longest token that is looked at, in bytes. Ours have about 400.
const LONGEST: usize = 4096;
/// How many verified tokens are remembered; a signature takes about 50 microseconds to check. (The compiler evaluates
/// the `expect`.)
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// Why a request has no principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No token was sent.
    #[error("This needs an access token: send 'Authorization: Bearer <token>'.")]
    Missing,
    /// The header is of another scheme, or sent twice.
    #[error("The Authorization header must be sent once and be 'Bearer <token>'.")]
    Scheme,
    /// Garbage.
    #[error("The access token is not a signed JWT.")]
    Malformed,
    /// The header's `typ` is another one, or it has a `crit` that nobody here understands.
    #[error("The token is not an access token.")]
    Type,
    /// The header's `alg` is not `EdDSA`, such as `none`.
    #[error("The algorithm of the access token is not accepted. It must be EdDSA.")]
    Algorithm,
    /// The header's `kid` is missing or names no key of the issuer.
    #[error("The access token was signed with a key that is not known here.")]
    UnknownKey,
    /// The signature does not fit.
    #[error("The signature of the access token is wrong.")]
    Signature,
    /// A claim is missing or of the wrong type.
    #[error("The claims of the access token cannot be read.")]
    Claims,
    /// The claim `iss` names somebody else.
    #[error("The access token was issued by somebody else.")]
    Issuer,
    /// The claim `aud` names somebody else.
    #[error("The access token is meant for somebody else.")]
    Audience,
    /// The claim `exp` has passed.
    #[error("The access token has expired. Ask for a new one.")]
    Expired,
    /// The claim `nbf` has not come yet.
    #[error("The access token is not valid yet.")]
    NotYetValid,
    /// No key is known yet, and their source is away.
    #[error("The keys that access tokens are checked with cannot be reached yet.")]
    KeysUnavailable,
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let detail = error.to_string();
        // RFC 6750, section 3: who sent no token is not told what would be wrong with it.
        let challenge = match error {
            AuthError::KeysUnavailable => {
                let seconds = u32::try_from(PAUSE.as_secs()).unwrap_or(1);
                return Self::unavailable("keys-unavailable", detail, seconds);
            }
            AuthError::Missing | AuthError::Scheme => r#"Bearer realm="waybill""#.to_owned(),
            _ => format!(
                r#"Bearer realm="waybill", error="invalid_token", error_description="{}""#,
                detail.trim_end_matches('.')
            ),
        };
        let problem = Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail);
        // The texts above are ASCII without quotes.
        match HeaderValue::try_from(challenge) {
            Ok(challenge) => problem.with_challenge(challenge),
            Err(_) => problem,
        }
    }
}

/// Checks access tokens. Cheap to clone; clones share what they remember.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    jwks: Jwks,
    clock: Clock,
    /// Tokens whose signature and claims were right; never one that was refused, so that garbage displaces nothing.
    verified: Mutex<LruCache<Box<str>, Verified>>,
}

#[derive(Clone, Copy)]
struct Verified {
    principal: Principal,
    /// In seconds since 1970.
    expires: i64,
    /// The key set it was checked with.
    generation: u64,
}

/// The part of a JOSE header that matters here.
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl Verifier {
    /// Checks signatures with `jwks` and times by `clock`.
    pub fn new(jwks: Jwks, clock: Clock) -> Self {
        Self(Arc::new(Inner { jwks, clock, verified: Mutex::new(LruCache::new(REMEMBERED)) }))
    }

    /// The principal of a request with these headers; None where it has no `Authorization`.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Option<Principal>, AuthError> {
        match bearer(headers)? {
            Some(token) => self.verify(token).await.map(Some),
            None => Ok(None),
        }
    }

    /// The principal of a request whose token was found good here before and still is. Waits for nothing.
    pub fn known(&self, headers: &HeaderMap) -> Option<Principal> {
        let token = bearer(headers).ok().flatten()?;
        self.recall(token, self.0.clock.now().as_second())?.ok()
    }

    /// Whose token it is, if it is good. Waits only where it was signed with a key that is not known yet.
    pub async fn verify(&self, token: &str) -> Result<Principal, AuthError> {
        let Inner { jwks, clock, .. } = &*self.0;
        let now = clock.now().as_second();
        if let Some(known) = self.recall(token, now) {
            return known;
        }
        let (generation, claims) = checked(token, jwks).await?;
        let principal = admit(&claims, now)?;
        self.remembered().put(token.into(), Verified { principal, expires: claims.exp, generation });
        Ok(principal)
    }

    /// What was found of a token before, with the keys of today.
    fn recall(&self, token: &str, now: i64) -> Option<Result<Principal, AuthError>> {
        let remembered = self.remembered().get(token).copied();
        let Verified { principal, expires, generation } = remembered?;
        let known = if is_over(expires, now) { Err(AuthError::Expired) } else { Ok(principal) };
        (self.0.jwks.generation() == Some(generation)).then_some(known)
    }

    fn remembered(&self) -> MutexGuard<'_, LruCache<Box<str>, Verified>> {
        // Every statement leaves the cache valid.
        self.0.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("jwks", &self.0.jwks).finish_non_exhaustive()
    }
}

/// When the token of a request ends that was found good: for what goes on after the request. None where there is none.
pub fn expiry(headers: &HeaderMap) -> Option<Timestamp> {
    expires(bearer(headers).ok()??)
}

/// When a token ends that was found good.
pub fn expires(token: &str) -> Option<Timestamp> {
    let (_, rest) = token.split_once('.')?;
    let claims: Claims = decode(rest.split_once('.')?.0)?;
    Timestamp::from_second(claims.exp).ok()
}

/// The token of `Authorization: Bearer <token>`.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, AuthError> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    let Some(first) = sent.next() else { return Ok(None) };
    if sent.next().is_some() {
        return Err(AuthError::Scheme);
    }
    let (scheme, token) =
        first.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(AuthError::Scheme)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(token.trim())) } else { Err(AuthError::Scheme) }
}

/// The claims of a token that is signed as it should be, with the key set that says so.
async fn checked(token: &str, jwks: &Jwks) -> Result<(u64, Claims), AuthError> {
    if token.len() > LONGEST {
        return Err(AuthError::Malformed);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(AuthError::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(AuthError::Malformed)?;
    let header: Header = decode(header).ok_or(AuthError::Malformed)?;
    if header.alg != "EdDSA" {
        return Err(AuthError::Algorithm);
    }
    let typ = header.typ.as_deref().unwrap_or_default();
    let known = ["JWT", "at+jwt"].iter().any(|known| known.eq_ignore_ascii_case(typ));
    if !known || header.crit.is_some() {
        return Err(AuthError::Type);
    }
    let (generation, key) = jwks.key(&header.kid.ok_or(AuthError::UnknownKey)?).await?;
    match crypto::verify(signature, message.as_bytes(), &key, Algorithm::EdDSA) {
        Ok(true) => Ok((generation, decode(payload).ok_or(AuthError::Claims)?)),
        _ => Err(AuthError::Signature),
    }
}

fn decode<T: DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// The principal of claims that are ours and in force `now`.
fn admit(claims: &Claims, now: i64) -> Result<Principal, AuthError> {
    if claims.iss != ISSUER {
        return Err(AuthError::Issuer);
    }
    if claims.aud != AUDIENCE {
        return Err(AuthError::Audience);
    }
    if is_over(claims.exp, now) {
        return Err(AuthError::Expired);
    }
    if claims.nbf > now.saturating_add(LEEWAY) {
        return Err(AuthError::NotYetValid);
    }
    let role = claims.roles.iter().copied().max().ok_or(AuthError::Claims)?;
    Ok(Principal { user: claims.sub, role, token: claims.jti })
}

fn is_over(expires: i64, now: i64) -> bool {
    now >= expires.saturating_add(LEEWAY)
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Issuer, *};
    use crate::auth::Role;
    use jiff::{SignedDuration, Timestamp};
    use serde_json::{Value, json};
    use std::time::Duration;
    use uuid::Uuid;

    const USER: Uuid = Uuid::from_u128(7);

    struct World {
        issuer: Issuer,
        clock: Clock,
        verifier: Verifier,
    }

    impl World {
        fn new() -> Self {
            let (issuer, clock) = (Issuer::new("k1"), Clock::manual(Timestamp::UNIX_EPOCH));
            clock.advance(Duration::from_hours(24 * 365));
            let verifier = Verifier::new(issuer.jwks(), clock.clone());
            Self { issuer, clock, verifier }
        }

        fn claims(&self) -> Claims {
            let lifetime = SignedDuration::from_mins(15);
            Claims::new(USER, vec![Role::Customer], Uuid::from_u128(8), self.clock.now(), lifetime)
        }

        /// The answer to the token of these claims, changed at one place.
        async fn with_claim(&self, name: &str, value: Option<Value>) -> Result<Principal, AuthError> {
            let mut claims = serde_json::to_value(self.claims()).unwrap();
            match value {
                Some(value) => claims[name] = value,
                None => drop(claims.as_object_mut().unwrap().remove(name)),
            }
            let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": "k1" });
            self.verifier.verify(&self.issuer.sign_json(&header, &claims)).await
        }

        async fn with_header(&self, header: Value) -> Result<Principal, AuthError> {
            let claims = serde_json::to_value(self.claims()).unwrap();
            self.verifier.verify(&self.issuer.sign_json(&header, &claims)).await
        }
    }

    #[tokio::test]
    async fn a_good_token_names_its_principal() {
        let world = World::new();
        let expected = Principal { user: USER, role: Role::Customer, token: Uuid::from_u128(8) };
        let token = world.issuer.sign(&world.claims());
        let headers =
            HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())]);
        assert_eq!(world.verifier.known(&headers), None);
        assert_eq!(world.verifier.verify(&token).await, Ok(expected));
        // Remembered.
        assert_eq!(world.verifier.known(&headers), Some(expected));
        assert_eq!(world.verifier.verify(&token).await, Ok(expected));
        world.clock.advance(Duration::from_mins(16));
        assert_eq!(world.verifier.known(&headers), None);
        world.clock.advance(Duration::from_mins(1));
        let both = world.with_claim("roles", Some(json!(["operator", "customer"]))).await.unwrap();
        assert_eq!(both.role, Role::Operator);
    }

    #[tokio::test]
    async fn every_claim_is_checked() {
        let world = World::new();
        let now = world.clock.now().as_second();
        for (name, value, error) in [
            ("iss", json!("elsewhere"), AuthError::Issuer),
            ("aud", json!("billing"), AuthError::Audience),
            ("aud", json!(7), AuthError::Claims),
            ("exp", json!(now - LEEWAY), AuthError::Expired),
            ("exp", json!("never"), AuthError::Claims),
            ("nbf", json!(now + LEEWAY + 1), AuthError::NotYetValid),
            ("sub", json!("root"), AuthError::Claims),
            ("roles", json!([]), AuthError::Claims),
            ("roles", json!(["root"]), AuthError::Claims),
        ] {
            assert_eq!(world.with_claim(name, Some(value.clone())).await, Err(error), "{name} {value}");
        }
        for name in ["iss", "aud", "exp", "nbf", "sub", "roles", "jti"] {
            assert_eq!(world.with_claim(name, None).await, Err(AuthError::Claims), "{name}");
        }
        // Clocks may differ a little.
        assert!(world.with_claim("exp", Some(json!(now - LEEWAY + 1))).await.is_ok());
        assert!(world.with_claim("nbf", Some(json!(now + LEEWAY))).await.is_ok());
    }

    #[tokio::test]
    async fn only_our_algorithm_type_and_keys_are_accepted() {
        let world = World::new();
        for (header, error) in [
            (json!({ "alg": "none", "typ": "JWT", "kid": "k1" }), AuthError::Algorithm),
            (json!({ "alg": "HS256", "typ": "JWT", "kid": "k1" }), AuthError::Algorithm),
            (json!({ "alg": "eddsa", "typ": "JWT", "kid": "k1" }), AuthError::Algorithm),
            (json!({ "alg": "EdDSA", "typ": "refresh", "kid": "k1" }), AuthError::Type),
            (json!({ "alg": "EdDSA", "kid": "k1" }), AuthError::Type),
            (json!({ "alg": "EdDSA", "typ": "JWT", "kid": "k1", "crit": ["b64"] }), AuthError::Type),
            (json!({ "alg": "EdDSA", "typ": "JWT", "kid": "k2" }), AuthError::UnknownKey),
            (json!({ "alg": "EdDSA", "typ": "JWT" }), AuthError::UnknownKey),
            (json!({ "typ": "JWT", "kid": "k1" }), AuthError::Malformed),
        ] {
            assert_eq!(world.with_header(header.clone()).await, Err(error), "{header}");
        }
        assert!(world.with_header(json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": "k1" })).await.is_ok());
    }

    #[tokio::test]
    async fn a_token_that_was_touched_is_refused() {
        let world = World::new();
        let token = world.issuer.sign(&world.claims());
        let (message, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = message.split_once('.').unwrap();
        let mut claims = world.claims();
        claims.roles = vec![Role::Admin];
        let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap());
        let foreign = Issuer::new("k1").sign(&world.claims());
        for bad in [
            format!("{header}.{payload}.{signature}"),
            format!("{message}."),
            format!("{message}.{}", &signature[1..]),
            format!("{message}.{signature}="),
            foreign,
        ] {
            assert_eq!(world.verifier.verify(&bad).await, Err(AuthError::Signature), "{bad}");
        }
        let long = "a".repeat(LONGEST + 1);
        for bad in ["", ".", "..", "...", "x", "a.b", "a.b.c", "é.ü.ß", message, &long] {
            assert_eq!(world.verifier.verify(bad).await, Err(AuthError::Malformed), "{bad}");
        }
        assert!(world.verifier.verify(&token).await.is_ok());
    }

    #[tokio::test]
    async fn a_remembered_token_still_expires() {
        let world = World::new();
        let token = world.issuer.sign(&world.claims());
        assert!(world.verifier.verify(&token).await.is_ok());
        world.clock.advance(Duration::from_secs(15 * 60 + 29));
        assert!(world.verifier.verify(&token).await.is_ok());
        world.clock.advance(Duration::from_secs(1));
        assert_eq!(world.verifier.verify(&token).await, Err(AuthError::Expired));
    }

    #[tokio::test]
    async fn remembers_a_bounded_number() {
        let world = World::new();
        let mut claims = world.claims();
        for token in 0..3 {
            claims.jti = Uuid::from_u128(token);
            world.verifier.verify(&world.issuer.sign(&claims)).await.unwrap();
        }
        assert_eq!(world.verifier.remembered().len(), 3);
        assert_eq!(world.verifier.remembered().cap(), REMEMBERED);
        let _ = world.with_claim("aud", Some(json!("billing"))).await;
        assert_eq!(world.verifier.remembered().len(), 3, "a refused token is remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn keys_rotate_with_an_overlap_and_a_withdrawn_key_ends_its_tokens() {
        let world = World::new();
        let old = world.issuer.sign(&world.claims());
        assert!(world.verifier.verify(&old).await.is_ok());
        let next = Issuer::new("k2");
        let new = next.sign(&world.claims());

        world.issuer.publish(&[&world.issuer, &next]);
        tokio::time::advance(PAUSE).await;
        assert!(world.verifier.verify(&new).await.is_ok(), "an unknown key is asked for");
        assert!(world.verifier.verify(&old).await.is_ok(), "the old key is still published");

        world.issuer.publish(&[&next]);
        tokio::time::sleep(Duration::from_mins(6)).await;
        assert_eq!(world.verifier.verify(&old).await, Err(AuthError::UnknownKey));
        assert!(world.verifier.verify(&new).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_keys_are_asked_for_at_most_once_in_a_while() {
        let world = World::new();
        let (good, bad) = (world.issuer.sign(&world.claims()), Issuer::new("k9").sign(&world.claims()));
        assert!(world.verifier.verify(&good).await.is_ok());
        let before = world.issuer.reads();
        for _ in 0..100 {
            assert_eq!(world.verifier.verify(&bad).await, Err(AuthError::UnknownKey));
        }
        assert_eq!(world.issuer.reads(), before);
        tokio::time::advance(PAUSE).await;
        let flood = futures::future::join_all((0..100).map(|_| world.verifier.verify(&bad))).await;
        assert!(flood.iter().all(|answer| *answer == Err(AuthError::UnknownKey)));
        assert_eq!(world.issuer.reads(), before + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn cached_keys_serve_while_their_source_is_away() {
        let world = World::new();
        let token = world.issuer.sign(&world.claims());
        world.issuer.set_away(true);
        assert_eq!(world.verifier.verify(&token).await, Err(AuthError::KeysUnavailable));
        let problem = Problem::from(AuthError::KeysUnavailable);
        assert_eq!((problem.status().as_u16(), problem.kind()), (503, "/problems/keys-unavailable"));

        world.issuer.set_away(false);
        tokio::time::sleep(PAUSE + Duration::from_secs(1)).await;
        assert!(world.verifier.verify(&token).await.is_ok());

        world.issuer.set_away(true);
        tokio::time::sleep(Duration::from_hours(2)).await;
        assert!(world.verifier.verify(&token).await.is_ok());
        let mut claims = world.claims();
        claims.jti = Uuid::from_u128(9);
        assert!(world.verifier.verify(&world.issuer.sign(&claims)).await.is_ok());
    }
}
