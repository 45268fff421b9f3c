//! How commands reach the service of operations, as an operator: by address and token, or that of the running `dev`.

use crate::{
    api::{Answer, Api, Tokens},
    dev::DevFile,
    failure::Failure,
    system::Service,
    tls::CallerArgs,
};
use serde_json::Value;
use service::Clock;
use std::{collections::BTreeMap, path::PathBuf};

/// Flags of commands that ask the service of operations.
#[derive(Debug, clap::Args)]
pub(crate) struct OperationsArgs {
    /// Where operations answer: the service itself, or a gateway with /api [default: that of the running waybill dev]
    #[arg(long, global = true, value_name = "URL", env = "WAYBILL_OPERATIONS_URL")]
    url: Option<String>,
    /// Access token of an operator [default: one of the running waybill dev]
    #[arg(long, global = true, value_name = "TOKEN", env = "WAYBILL_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Data folder of the running waybill dev
    #[arg(long, global = true, value_name = "DIR", env = "WAYBILL_DATA", default_value = ".waybill")]
    data: PathBuf,
    #[command(flatten)]
    tls: CallerArgs,
}

/// Asks the service of operations.
pub(crate) struct Operations {
    api: Api,
    token: Option<String>,
}

impl Operations {
    pub(crate) async fn find(args: &OperationsArgs) -> Result<Self, Failure> {
        let name = Service::Operations.name().to_owned();
        let tls = args.tls.client_alone()?;
        if let Some(url) = &args.url {
            let token = args.token.clone().ok_or("--url needs --token: an access token of an operator")?;
            let urls = BTreeMap::from([(name, url.trim_end_matches('/').to_owned())]);
            let api = tls.iter().try_fold(Api::at(urls), Api::with_tls)?;
            return Ok(Self { api, token: Some(token) });
        }
        let dev = DevFile::find(&args.data)?.ok_or_else(|| {
            let dir = args.data.display();
            format!(
                "no waybill dev is running on {dir}: name its folder with --data, or the service with --url"
            )
        })?;
        let api = Api::at(dev.services).with_tokens(Tokens::of_dev(&args.data, &dev.nats_url).await?);
        Ok(Self { api, token: args.token.clone() })
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, Failure> {
        match &self.token {
            Some(token) => self.api.send(request.bearer_auth(token)).await,
            None => self.api.send_as_operator(request).await,
        }
    }

    /// What is found at a path.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        let answer = self.send(self.api.http().get(self.api.url(Service::Operations, path))).await?;
        Ok(answer.expect(200, path)?.body)
    }

    /// Asks for something; what is answered when it is recorded. Sent again after a lost answer it has no second effect.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let url = self.api.url(Service::Operations, path);
        let key = Clock::system().uuid().to_string();
        let answer = self.send(self.api.http().post(url).header("Idempotency-Key", key).json(body)).await?;
        Ok(answer.expect(202, path)?.body)
    }
}
