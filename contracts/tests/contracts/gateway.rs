//! The gateway, and every service, reads the keys of access tokens from the users service.

use contracts::agree;
use pact_consumer::prelude::*;
use regex::Regex;
use service::{
    Clock,
    auth::{AuthError, Jwks, Verifier},
};

fn pact() -> PactBuilder {
    let mut pact = PactBuilder::new_v4("gateway", "users");
    pact.with_output_dir(std::env::temp_dir().join("contracts"));
    pact.interaction("a request for the keys of access tokens", "", |mut interaction| {
        interaction.given("the system has started");
        interaction.request.get().path("/.well-known/jwks.json");
        let key = json_pattern!({
            "kty": "OKP",
            "crv": "Ed25519",
            "kid": like!("key-1"),
            // The example of RFC 8037.
            "x": Term::new(Regex::new("^[A-Za-z0-9_-]{43}$").unwrap(), "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"),
        });
        interaction.response.status(200).json_body(json_pattern!({ "keys": each_like!(key) }));
        interaction
    });
    pact
}

#[test]
fn the_pact_is_what_the_gateway_asks_for() {
    agree(pact().build().as_ref());
}

#[tokio::test]
async fn the_gateway_understands_the_keys() {
    let server = pact().start_mock_server(None, None);
    let (client, url) = (reqwest::Client::new(), server.url().join(".well-known/jwks.json").unwrap());
    let keys = Jwks::start(move || {
        let request = client.get(url.clone());
        async move { Ok(request.send().await?.text().await?) }
    });
    // {"alg":"EdDSA","typ":"JWT","kid":"key-1"} over {}: the key is found, and the signature is none of it.
    let forged = format!("eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCIsImtpZCI6ImtleS0xIn0.e30.{}", "A".repeat(86));
    let refused = Verifier::new(keys, Clock::system()).verify(&forged).await.unwrap_err();
    assert!(!matches!(refused, AuthError::UnknownKey | AuthError::KeysUnavailable), "{refused:?}");
}
