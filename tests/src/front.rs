//! A gateway in front of the services of a [`World`].

use crate::{World, eventually, world::tokens};
use reqwest::RequestBuilder;
use service::tls::Tls;
use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};
use tokio::net::TcpListener;
use waybill::{
    api::{Answer, Api},
    edge::{Edge, EdgeConfig},
    failure::Failure,
    system::Service,
};

const READY_WITHIN: Duration = Duration::from_secs(30);

/// A running gateway.
pub struct Front {
    /// Where clients come in.
    pub url: String,
    /// Asks the services through it, below `/api`.
    pub api: Api,
    edge: Edge,
}

impl Front {
    /// One as it comes with Waybill.
    pub async fn start(world: &World) -> Result<Self, Failure> {
        Self::with(world, None).await
    }

    /// One that nobody asks too often, with more in its configuration.
    pub async fn patient(world: &World, more: &str) -> Result<Self, Failure> {
        let routes = include_str!("../../gateway/routes.toml").replace("quota = 100\n", "quota = 1000000\n");
        let file = world.config.data.with_file_name("routes.toml");
        fs::write(&file, format!("{more}\n{routes}"))?;
        Self::with(world, Some(file)).await
    }

    async fn with(world: &World, file: Option<PathBuf>) -> Result<Self, Failure> {
        let config = &world.config;
        let edge = EdgeConfig {
            nats_url: config.nats_url.clone(),
            access: config.access.of("gateway").clone(),
            tls: Tls { listen: None, ..config.tls.clone() },
            replicas: config.replicas,
            file,
            clock: config.clock.clone(),
        };
        let edge = Edge::start(&edge, TcpListener::bind("127.0.0.1:0").await?).await?;
        let url = format!("http://{}", edge.address());
        let urls = Service::ALL.map(|service| (service.name().to_owned(), format!("{url}/api")));
        let tokens = tokens(config).await?;
        Ok(Self { api: Api::at(urls.into()).with_tokens(tokens), url, edge })
    }

    /// Waits until it knows these services, and can tell a good token where the users service is among them.
    pub async fn knows(&self, services: &[Service]) -> Result<(), Failure> {
        self.edge.wait_for(services.iter().map(|service| service.name()), READY_WITHIN).await?;
        if services.contains(&Service::Users) {
            // A gateway that has just begun has yet to ask the users service for the keys of tokens.
            eventually("the gateway has the keys of tokens", READY_WITHIN, async || {
                let asked = self.api.http().get(format!("{}/api/ops/instances", self.url));
                (self.as_operator(asked).await.ok()?.status == 200).then_some(())
            })
            .await;
        }
        Ok(())
    }

    /// The instances of a service that it knows.
    pub async fn instances(&self, service: Service) -> Result<BTreeSet<String>, Failure> {
        let listed = self.as_operator(self.api.http().get(format!("{}/api/ops/instances", self.url))).await?;
        let listed = listed.expect(200, "the instances")?.body;
        let of_service =
            listed.as_array().into_iter().flatten().filter(|one| one["service"] == service.name());
        Ok(of_service.map(|one| one["instance"].to_string()).collect())
    }

    /// What its metrics say of this name with these labels; 0 where they say nothing.
    pub async fn counted(&self, name_and_labels: &str) -> Result<u64, Failure> {
        let page = self.api.http().get(format!("{}/metrics", self.url)).send().await?.text().await?;
        let line = page.lines().find_map(|line| line.strip_prefix(name_and_labels));
        Ok(line.map_or(Ok(0), |value| value.trim().parse())?)
    }

    /// Sends a request with the operator's token.
    pub async fn as_operator(&self, request: RequestBuilder) -> Result<Answer, Failure> {
        self.api.send_as_operator(request).await
    }

    /// Stops it, and says whether all was answered in time.
    pub async fn stop(self) -> bool {
        self.edge.stop().await
    }
}
