//! The states that pacts speak of, brought about as a client of the system would: by its public API. Nothing of this is in
//! the system.

use crate::{Log, Provider};
use async_trait::async_trait;
use pact_models::provider_states::ProviderState;
use pact_verifier::callback_executors::ProviderStateExecutor;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use uuid::Uuid;

const PASSWORD: &str = "correct horse battery staple";

/// What brings states about. What it answers is put into requests in the place of the examples that pacts hold.
#[derive(Debug)]
pub struct States {
    provider: Arc<Provider>,
    log: Log,
    /// John Doe, once he has registered: his id.
    john: Mutex<Option<Uuid>>,
}

impl States {
    /// Of a provider and its log.
    pub fn new(provider: Arc<Provider>, log: Log) -> Arc<Self> {
        Arc::new(Self { provider, log, john: Mutex::default() })
    }

    async fn bring_about(&self, state: &ProviderState) -> HashMap<String, Value> {
        match state.name.as_str() {
            "user exists" => self.user_exists().await,
            "user is erased" => self.user_is_erased().await,
            "user does not exist" => self.values(Uuid::now_v7()),
            "the system has started" => HashMap::new(),
            "a message is parked" => self.message_is_parked().await,
            "a read model serves" => self.of_service("inventory"),
            "the tables that served before are kept" => {
                self.read_model_is_built_again("payments").await;
                self.of_service("payments")
            }
            "a read model was built again, and the tables that served before are removed" => {
                self.read_model_is_built_again("orders").await;
                self.tables_are_removed("orders").await;
                self.of_service("orders")
            }
            "it is recorded" => {
                self.log.wait_for(&state.params).await;
                HashMap::new()
            }
            other => panic!("nobody knows how to bring about that {other}"),
        }
    }

    /// John Doe has registered with the address of the article's example, and has logged in.
    async fn user_exists(&self) -> HashMap<String, Value> {
        let email = "john@example.com";
        let known = *self.john.lock().unwrap_or_else(PoisonError::into_inner);
        let id = match known {
            Some(id) => id,
            None => self.register("John Doe", email).await,
        };
        *self.john.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        let tokens =
            self.command("users", "/sessions", &json!({ "email": email, "password": PASSWORD })).await;
        HashMap::from([("id".to_owned(), json!(id)), ("token".to_owned(), tokens["accessToken"].clone())])
    }

    async fn user_is_erased(&self) -> HashMap<String, Value> {
        let id = self.register("Jane Doe", &format!("{}@example.com", Uuid::now_v7())).await;
        let path = format!("/users/{id}");
        let topic = format!("{path}/subscriptions/order-updates");
        let heard = self.provider.send(Method::PUT, "users", &topic, None, self.provider.operator()).await;
        assert!(heard.status.is_success(), "{heard:?}");
        let erased = self.provider.send(Method::DELETE, "users", &path, None, self.provider.operator()).await;
        assert!(erased.status.is_success(), "{erased:?}");
        self.seen(&path, &erased.position).await;
        self.values(id)
    }

    /// A message that a consumer cannot handle: nobody understands the carrier, and shipping gives up at once.
    async fn message_is_parked(&self) -> HashMap<String, Value> {
        let provider = &self.provider;
        let parked = self.log.eventually("a message is parked", || async move {
            let all = provider.ask("operations", "/ops/dead-letters", None).await.body;
            let group = all["groups"].get(0)?.clone();
            Some((group["fingerprint"].clone(), group["letters"][0]["id"].clone()))
        });
        let (fingerprint, id) = parked.await;
        let mut values = self.operator();
        values.extend([("fingerprint".to_owned(), fingerprint), ("id".to_owned(), id)]);
        values
    }

    /// A read model is built again, once that may be asked, and serves.
    async fn read_model_is_built_again(&self, service: &str) {
        let asked = self.asked_of(service, "rebuild").await;
        let path = format!("/ops/projections/{service}");
        let serves = self.log.eventually("the next generation serves", || async {
            let stands = self.provider.ask("operations", &path, None).await.body;
            let mut generations = stands["generations"].as_array()?.iter();
            generations.find(|one| one["asked"].as_u64() == Some(asked) && one["state"] == "live").map(drop)
        });
        serves.await;
    }

    async fn tables_are_removed(&self, service: &str) {
        self.asked_of(service, "drop").await;
        let path = format!("/ops/projections/{service}");
        let alone = self.log.eventually("only one generation is left", || async {
            let stands = self.provider.ask("operations", &path, None).await.body;
            (stands["generations"].as_array()?.len() == 1).then_some(())
        });
        alone.await;
    }

    /// Asks for something that may have to wait for what was asked before; its sequence.
    async fn asked_of(&self, service: &str, verb: &str) -> u64 {
        let path = format!("/ops/projections/{service}/{verb}");
        let asked = self.log.eventually("it may be asked", || async {
            let answer = self.provider.ask("operations", &path, Some(&json!({}))).await;
            answer.body["position"]["sequence"].as_u64()
        });
        asked.await
    }

    /// What stands for a service in paths.
    fn of_service(&self, service: &str) -> HashMap<String, Value> {
        let mut values = self.operator();
        values.insert("service".to_owned(), service.into());
        values
    }

    async fn register(&self, name: &str, email: &str) -> Uuid {
        let user = json!({ "name": name, "email": email, "password": PASSWORD });
        let answer = self.provider.ask("users", "/users", Some(&user)).await;
        assert!(answer.status.is_success(), "{answer:?}");
        self.seen(&format!("/users/{}", answer.id()), &answer.position).await;
        answer.id()
    }

    /// Waits until the read model has what was answered.
    async fn seen(&self, path: &str, position: &str) {
        let there = self.provider.ask("users", &format!("{path}?after={position}&wait=30"), None).await;
        assert!(there.status.is_success(), "{there:?}");
    }

    async fn command(&self, service: &str, path: &str, body: &Value) -> Value {
        let answer = self.provider.ask(service, path, Some(body)).await;
        assert!(answer.status.is_success(), "{path}: {answer:?}");
        answer.body
    }

    /// The token of somebody who may ask for everything.
    fn operator(&self) -> HashMap<String, Value> {
        HashMap::from([("token".to_owned(), self.provider.operator().into())])
    }

    /// An id, and that token.
    fn values(&self, id: Uuid) -> HashMap<String, Value> {
        let mut values = self.operator();
        values.insert("id".to_owned(), json!(id));
        values
    }
}

#[async_trait]
impl ProviderStateExecutor for States {
    async fn call(
        self: Arc<Self>,
        _interaction: Option<String>,
        state: &ProviderState,
        setup: bool,
        _client: Option<&Client>,
    ) -> anyhow::Result<HashMap<String, Value>> {
        Ok(if setup { self.bring_about(state).await } else { HashMap::new() })
    }

    fn teardown(&self) -> bool {
        false
    }
}
