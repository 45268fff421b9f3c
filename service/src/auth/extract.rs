//! The principal as an argument of a handler.

use super::{AuthError, Principal, Role, Verifier};
use crate::Problem;
use axum::{
    Extension, Router,
    extract::{FromRequestParts, OptionalFromRequestParts, Request},
    http::request::Parts,
    middleware::{self, Next},
};

/// Puts `verifier` where handlers that take a [`Principal`] find it.
pub fn layer(router: Router, verifier: Verifier) -> Router {
    router.layer(Extension(verifier))
}

/// Lets nobody reach these routes who may not do what `role` may.
pub fn restrict(router: Router, role: Role) -> Router {
    router.route_layer(middleware::from_fn(
        move |principal: Principal, request: Request, next: Next| async move {
            principal.require(role)?;
            Ok::<_, Problem>(next.run(request).await)
        },
    ))
}

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(authenticate(parts).await?.ok_or(AuthError::Missing)?)
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Problem> {
        authenticate(parts).await
    }
}

async fn authenticate(parts: &Parts) -> Result<Option<Principal>, Problem> {
    // A layer around this has seen to it.
    if let Some(principal) = parts.extensions.get::<Principal>() {
        return Ok(Some(*principal));
    }
    let Some(verifier) = parts.extensions.get::<Verifier>() else {
        // A service that forgot the layer lets nobody in.
        tracing::error!("a route takes a principal and has no verifier");
        return Err(Problem::internal());
    };
    Ok(verifier.authenticate(&parts.headers).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Clock,
        auth::{Claims, testing::Issuer},
    };
    use axum::{
        body::{Body, to_bytes},
        http::{HeaderMap, HeaderValue},
        routing::get,
    };
    use jiff::SignedDuration;
    use serde_json::Value;
    use tower::ServiceExt;
    use uuid::Uuid;

    async fn ask(app: &Router, path: &str, tokens: &[&str]) -> (u16, HeaderMap, String) {
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        for token in tokens {
            request.headers_mut().append("authorization", HeaderValue::from_str(token).unwrap());
        }
        let (parts, body) = app.clone().oneshot(request).await.unwrap().into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    fn routes() -> Router {
        Router::new()
            .route("/own", get(async |principal: Principal| principal.user.to_string()))
            .route("/open", get(async |who: Option<Principal>| who.is_some().to_string()))
    }

    #[tokio::test]
    async fn a_handler_is_reached_by_a_principal_only() {
        let (issuer, clock) = (Issuer::new("k1"), Clock::system());
        let app = layer(routes(), Verifier::new(issuer.jwks(), clock.clone()));
        let user = clock.uuid();
        let lifetime = SignedDuration::from_mins(15);
        let claims = Claims::new(user, vec![Role::Customer], clock.uuid(), clock.now(), lifetime);
        let token = issuer.sign(&claims);
        let bearer = format!("Bearer {token}");
        assert_eq!(ask(&app, "/own", &[&bearer]).await.2, user.to_string());
        assert_eq!(ask(&app, "/own", &[&format!("bearer  {token}")]).await.0, 200);
        assert_eq!(ask(&app, "/open", &[&bearer]).await.2, "true");
        assert_eq!(ask(&app, "/open", &[]).await.2, "false");

        let realm = r#"Bearer realm="waybill""#;
        let invalid = r#"Bearer realm="waybill", error="invalid_token", error_description="The access token is not a signed JWT""#;
        for (path, sent, challenge) in [
            ("/own", vec![], realm),
            ("/own", vec!["Basic dTpw"], realm),
            ("/own", vec!["Bearer"], realm),
            ("/own", vec![&*bearer, &*bearer], realm),
            ("/own", vec!["Bearer garbage"], invalid),
            ("/own", vec!["Bearer "], invalid),
            ("/open", vec!["Bearer garbage"], invalid),
        ] {
            let (status, headers, body) = ask(&app, path, &sent).await;
            assert_eq!(
                (status, &headers["content-type"]),
                (401, &HeaderValue::from_static("application/problem+json"))
            );
            assert_eq!(headers["www-authenticate"], challenge, "{sent:?}");
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["type"], "/problems/unauthenticated");
            assert!(!body.to_string().contains(&token));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn says_when_to_come_back_while_no_key_is_known() {
        let (issuer, clock) = (Issuer::new("k1"), Clock::system());
        issuer.set_away(true);
        let app = layer(routes(), Verifier::new(issuer.jwks(), clock.clone()));
        let claims = Claims::new(
            Uuid::nil(),
            vec![Role::Admin],
            Uuid::nil(),
            clock.now(),
            SignedDuration::from_mins(1),
        );
        let (status, headers, _) = ask(&app, "/own", &[&format!("Bearer {}", issuer.sign(&claims))]).await;
        assert_eq!((status, headers["retry-after"].to_str().unwrap()), (503, "3"));
    }

    #[tokio::test]
    async fn restricted_routes_are_for_their_role() {
        let app = restrict(routes(), Role::Operator);
        let speaks = |role| Extension(Principal { user: Uuid::from_u128(7), role, token: Uuid::nil() });
        for (role, status) in [(Role::Customer, 403), (Role::Operator, 200), (Role::Admin, 200)] {
            assert_eq!(ask(&app.clone().layer(speaks(role)), "/open", &[]).await.0, status, "{role}");
        }
        let issuer = Issuer::new("k1");
        let app = layer(app, Verifier::new(issuer.jwks(), Clock::system()));
        assert_eq!(ask(&app, "/open", &[]).await.0, 401);
        assert_eq!(ask(&app, "/nowhere", &[]).await.0, 404);
    }

    #[tokio::test]
    async fn a_forgotten_layer_lets_nobody_in() {
        assert_eq!(ask(&routes(), "/own", &[]).await.0, 500);
    }

    #[tokio::test]
    async fn a_principal_that_a_layer_has_found_is_taken() {
        let principal = Principal { user: Uuid::from_u128(7), role: Role::Customer, token: Uuid::nil() };
        let (status, _, body) = ask(&routes().layer(Extension(principal)), "/own", &[]).await;
        assert_eq!((status, body), (200, principal.user.to_string()));
    }
}
