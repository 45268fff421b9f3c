//! `waybill health`: asks a running service or gateway how it is, for what starts containers and has no other client.

use crate::{
    failure::{Failure, because},
    settings,
    tls::CallerArgs,
};
use service::{
    config::Span,
    tls::{ClientTls, fault},
};
use std::time::Duration;

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill health                                      the service on this machine at WAYBILL_PORT
  waybill health --port 3002 --ready                  whether it can serve: NATS, read models, lag
  waybill health --port 3002 --metrics                what it counts, as Prometheus reads it
  waybill health --url http://10.0.0.7:3000 --timeout 500ms
  waybill health --port 3002 --tls-ca tls/ca.pem --tls-cert tls/orders.pem --tls-key tls/orders.key";

/// Flags of `waybill health`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the service answers [default: this machine, at --port, with TLS where --tls-cert says what services listen with]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The port on this machine
    #[arg(long, env = "WAYBILL_PORT", default_value = "8080")]
    port: String,
    /// Ask whether it can serve (/ready), not only whether it lives (/health)
    #[arg(long)]
    ready: bool,
    /// Print what it counts (/metrics)
    #[arg(long, conflicts_with = "ready")]
    metrics: bool,
    /// How long an answer may take
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    timeout: String,
    #[command(flatten)]
    tls: CallerArgs,
}

/// Prints what the service says; fails unless it says that all is well.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let (url, timeout, tls) = read(&args)?;
    let client = crate::tls::client(reqwest::Client::builder().timeout(timeout), tls.as_ref())?;
    let answer = client.get(&url).send().await.map_err(|error| match fault(&error) {
        Some(why) => format!("{url} is not asked: {why}").into(),
        None => because(format!("{url} does not answer"))(error),
    })?;
    let status = answer.status();
    let said = answer.text().await.map_err(because(format!("{url} breaks off its answer")))?;
    println!("{said}");
    if status.is_success() { Ok(()) } else { Err(format!("{url} says {status}").into()) }
}

/// Says everything that is wrong with the settings.
pub(crate) fn check(args: &Args) -> Result<(), Failure> {
    read(args).map(|_| ())
}

fn read(args: &Args) -> Result<(String, Duration, Option<ClientTls>), Failure> {
    let mut flags = settings::flags([
        ("--url", args.url.clone()),
        ("--port", Some(args.port.clone())),
        ("--timeout", Some(args.timeout.clone())),
    ]);
    let url: Option<reqwest::Url> = flags.optional("--url");
    let port: Option<u16> = flags.optional("--port");
    let timeout: Option<Span> = flags.optional("--timeout");
    let path = match (args.metrics, args.ready) {
        (true, _) => "/metrics",
        (false, true) => "/ready",
        (false, false) => "/health",
    };
    let tls = args.tls.read(flags.faults());
    let scheme = if args.tls.listens() { "https" } else { "http" };
    let base = url.map(String::from).or_else(|| Some(format!("{scheme}://127.0.0.1:{}", port?)));
    let wanted = base.map(|base| format!("{}{path}", base.trim_end_matches('/'))).zip(timeout);
    Ok(flags.finish(wanted.map(|(url, Span(timeout))| (url, timeout, tls)))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use tokio::net::TcpListener;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        Line::parse_from(["health"].into_iter().chain(line.split_whitespace())).args
    }

    #[test]
    fn the_place_is_a_port_of_this_machine_or_a_url() {
        let place = |line| read(&args(line)).map(|(url, ..)| url).map_err(|error| error.to_string());
        assert_eq!(place("--port 3002").unwrap(), "http://127.0.0.1:3002/health");
        assert_eq!(place("--url http://x:3000/ --ready").unwrap(), "http://x:3000/ready");
        assert_eq!(place("--port 3002 --metrics").unwrap(), "http://127.0.0.1:3002/metrics");
        let faults = place("--port x --timeout soon").unwrap_err();
        assert!(faults.contains("--port") && faults.contains("--timeout"), "{faults}");
        assert!(place("--url x").unwrap_err().contains("--url"));
    }

    #[tokio::test]
    async fn it_fails_unless_all_is_well() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let lives = axum::routing::get(async || "{}");
        let busy = axum::routing::get(async || axum::http::StatusCode::SERVICE_UNAVAILABLE);
        let router = axum::Router::new().route("/health", lives).route("/ready", busy);
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        run(args(&format!("--port {port}"))).await.unwrap();
        let error = run(args(&format!("--port {port} --ready"))).await.unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
        server.abort();
        let _ = server.await;
        assert!(run(args(&format!("--port {port}"))).await.is_err());
    }
}
