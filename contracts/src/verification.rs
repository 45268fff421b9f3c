//! Holds a provider to its pacts.

use crate::{States, files};
use pact_verifier::{
    FilterInfo, NullRequestFilterExecutor, PactSource, ProviderInfo, ProviderTransport, VerificationOptions,
    verify_provider_async,
};
use std::sync::Arc;

/// Where a provider answers: ports of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// For requests.
    pub http: u16,
    /// For what it has recorded: that of [`Log::serve`](crate::Log::serve).
    pub messages: u16,
}

/// Verifies every pact that consumers have with a provider. The error is what the verifier says.
///
/// # Errors
/// Where the provider breaks one of them, and where it has none.
pub async fn verify(provider: &str, ports: Ports, states: &Arc<States>) -> Result<(), String> {
    let sources = files().into_iter().filter(|(_, _, of)| of == provider);
    let sources: Vec<_> = sources.map(|(path, _, _)| PactSource::File(path.display().to_string())).collect();
    if sources.is_empty() {
        return Err(format!("nobody has a pact with {provider}"));
    }
    let transport = |name: &str, port| ProviderTransport {
        transport: name.to_owned(),
        port: Some(port),
        path: None,
        scheme: Some("http".to_owned()),
    };
    let info = ProviderInfo {
        name: provider.to_owned(),
        host: "127.0.0.1".to_owned(),
        transports: vec![transport("http", ports.http), transport("message", ports.messages)],
        ..ProviderInfo::default()
    };
    let options = VerificationOptions::<NullRequestFilterExecutor> {
        coloured_output: false,
        request_timeout: 60_000,
        ..VerificationOptions::default()
    };
    let verified =
        verify_provider_async(info, sources, FilterInfo::None, vec![], &options, None, states, None).await;
    let verified = verified.map_err(|error| format!("{error:#}"))?;
    if verified.result {
        return Ok(());
    }
    let broken = verified.errors.iter().map(|(interaction, what)| format!("{interaction}: {what:?}"));
    Err(broken.collect::<Vec<_>>().join("\n"))
}
