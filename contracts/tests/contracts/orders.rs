//! Orders ask the users service: the interaction of the article, and what the code of orders asks before it takes an order.

use commands::orders::{Said, UsersService};
use contracts::{agree, messages::pairs};
use events::{Context, UserId};
use pact_consumer::{builders::InteractionBuilder, prelude::*};
use pact_models::generators::Generator;
use serde_json::{Value, json};
use service::{
    Metrics,
    breaker::{Breakers, Policy},
    client::{Call, Client},
};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

const ID: &str = "0199d3a8-0000-7000-8000-000000000123";

/// The service that orders ask, which is the one that the pact describes.
fn users(url: String) -> UsersService {
    let breaker = Breakers::new(Policy::default(), &Metrics::new()).of("users");
    let locate = Arc::new(move || Some(url.clone()));
    let client = Client::new("users", locate, breaker, None).unwrap();
    UsersService { client, fresh_for: Duration::from_secs(30) }
}

fn url(server: &dyn ValidatingMockServer) -> String {
    server.url().as_str().trim_end_matches('/').to_owned()
}

/// A request for a user. Ids and tokens are the provider's to choose: verified, the examples give way to those that the
/// state has.
fn asks_for(mut interaction: InteractionBuilder, state: &str, id: &str) -> InteractionBuilder {
    interaction.given(state);
    interaction
        .request
        .get()
        .path_from_provider_state("/users/${id}", format!("/users/{id}"))
        .header_from_provider_state("Authorization", "Bearer ${token}", "Bearer token");
    interaction
}

/// The article's interaction, word for word: state, description, path, header, status, body.
fn details(interaction: InteractionBuilder) -> InteractionBuilder {
    let mut interaction = asks_for(interaction, "user exists", "123");
    let id = Generator::ProviderStateGenerator("${id}".to_owned(), None);
    interaction
        .response
        .status(200)
        .json_body(json_pattern!({ "id": like!("123"), "name": "John Doe", "email": "john@example.com" }))
        .body_generator("$.id", id);
    interaction
}

fn pact() -> PactBuilder {
    let mut pact = PactBuilder::new_v4("orders", "users");
    pact.interaction("a request for user details", "", details)
        .interaction("a question whether a customer exists", "", |interaction| {
            let mut interaction = asks_for(interaction, "user exists", ID);
            interaction.response.status(200).json_body(json_pattern!({ "erased": false }));
            interaction
        })
        .interaction("a question whether an erased customer exists", "", |interaction| {
            let mut interaction = asks_for(interaction, "user is erased", ID);
            interaction.response.status(200).json_body(json_pattern!({ "erased": true }));
            interaction
        })
        .interaction("a question whether somebody unknown exists", "", |interaction| {
            let mut interaction = asks_for(interaction, "user does not exist", ID);
            interaction.response.status(404);
            interaction
        });
    pact
}

/// One interaction of the pact alone, so that the same request gets the answer of its state.
fn only(description: &str) -> PactBuilder {
    let interaction =
        pact().build().interactions().into_iter().find(|one| one.description() == description).unwrap();
    let mut alone = PactBuilder::new_v4("orders", "users");
    alone.push_interaction(interaction.boxed().as_ref());
    // What the mock server writes is not the pact: that is made from all of them.
    alone.with_output_dir(std::env::temp_dir().join("contracts"));
    alone
}

/// And what they copy: one file holds both.
#[test]
fn the_pact_is_what_orders_ask_for() {
    let mut pact = pact();
    let copied = pairs().into_iter().find(|(who, of, _)| *who == "orders" && *of == Context::Users);
    for message in copied.unwrap().2 {
        pact.push_interaction(&message.interaction());
    }
    agree(pact.build().as_ref());
}

#[test]
fn the_interaction_of_the_article_is_in_the_pact_word_for_word() {
    let text = std::fs::read(contracts::pact_file("orders", "users")).unwrap();
    let pact: Value = serde_json::from_slice(&text).unwrap();
    let interactions = pact["interactions"].as_array().unwrap();
    let article = interactions.iter().find(|one| one["description"] == "a request for user details").unwrap();
    assert_eq!(article["providerStates"], json!([{ "name": "user exists" }]));
    let (request, response) = (&article["request"], &article["response"]);
    assert_eq!((&request["method"], &request["path"]), (&json!("GET"), &json!("/users/123")));
    assert_eq!(request["headers"], json!({ "Authorization": ["Bearer token"] }));
    assert_eq!(response["status"], 200);
    assert_eq!(
        response["body"]["content"],
        json!({ "id": "123", "name": "John Doe", "email": "john@example.com" })
    );
    let rules = response["matchingRules"]["body"].as_object().unwrap();
    assert_eq!(rules.keys().collect::<Vec<_>>(), ["$.id"], "only the id is the provider's to choose");
}

#[tokio::test]
async fn should_get_user_details() {
    let server = only("a request for user details").start_mock_server(None, None);
    let call = Call::get("/users/123".to_owned()).bearer("token");
    let user: Value = users(url(server.as_ref())).client.send(call).await.unwrap().json().unwrap();
    assert_eq!(user["name"], "John Doe");
}

#[tokio::test]
async fn orders_understand_every_answer() {
    for (description, said) in [
        ("a question whether a customer exists", Said::Known),
        ("a question whether an erased customer exists", Said::Erased),
        ("a question whether somebody unknown exists", Said::Unknown),
    ] {
        let server = only(description).start_mock_server(None, None);
        let user = UserId::new(ID.parse::<Uuid>().unwrap());
        let call = Call::get(UsersService::path(user)).bearer("token");
        assert_eq!(users(url(server.as_ref())).ask(call).await, said, "{description}");
    }
}
