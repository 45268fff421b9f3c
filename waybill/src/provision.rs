//! `waybill provision`: makes every stream, bucket and durable consumer, so that services need no right to.

use crate::{
    access::{AccessArgs, PROVISIONING, as_role},
    failure::Failure,
    nats_config,
    settings::{self, MasterKeyArgs},
    subscriptions::{SubscriptionArgs, Subscriptions},
};
use commands::{
    reactions,
    users::{self, tokens::Keys},
};
use events::Context;
use nats::{Access, Bucket, ChangeFeed, Connection, FeedOptions, KeyRing, MasterKey, NatsUrl, topology};
use projections::View;
use service::{Clock, config::Faults};
use std::path::PathBuf;

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill provision --nats-url nats://127.0.0.1:4222 --master-key-file key
  waybill provision --nats-url nats://nats:4222 --replicas 3 --nats-nkey-file seeds/provisioning.nk --master-key-file key";

/// Flags of `waybill provision`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where NATS is; several nodes of a cluster with commas between them
    #[arg(long, value_name = "URL,..", env = "WAYBILL_NATS_URL")]
    nats_url: Option<NatsUrl>,
    /// Copies of each stream: 1, or 3 on a cluster
    #[arg(long, value_name = "COUNT", env = "WAYBILL_REPLICAS", default_value = "1")]
    replicas: String,
    /// File that names the endpoints of webhooks: each is told by consumers of its own
    #[arg(long, value_name = "FILE", env = "WAYBILL_WEBHOOKS")]
    webhooks: Option<PathBuf>,
    #[command(flatten)]
    master_key: MasterKeyArgs,
    #[command(flatten)]
    subscriptions: SubscriptionArgs,
    #[command(flatten)]
    access: AccessArgs,
}

/// Everything that there has to be.
#[derive(Clone, Debug)]
pub struct Provision {
    /// Copies of each stream.
    pub replicas: usize,
    /// Wraps the keys of personal data and of tokens; a key that is not theirs is refused.
    pub master_key: MasterKey,
    /// Channels on which customers and others are told.
    pub channels: Vec<String>,
    /// The change feeds.
    pub feed: FeedOptions,
}

impl Provision {
    /// As a machine that runs alone has it.
    pub fn new(master_key: MasterKey) -> Self {
        let channels = vec![commands::notifications::EMAIL.to_owned()];
        Self { replicas: 1, master_key, channels, feed: FeedOptions::default() }
    }

    /// Makes what is missing and checks what is there. Done again it changes nothing.
    pub async fn run(&self, connection: &Connection, clock: &Clock) -> Result<(), Failure> {
        let replicas = self.replicas;
        topology::ensure(connection, &Context::ALL, replicas).await?;
        topology::ensure_shared(connection, replicas).await?;
        for bucket in users::buckets(replicas) {
            Bucket::ensure(connection, &bucket).await?;
        }
        KeyRing::open(connection, &self.master_key, replicas).await?;
        Keys::open(connection, &self.master_key, replicas, clock).await?;
        for view in View::ALL {
            ChangeFeed::open(connection, view.name, FeedOptions { replicas, ..self.feed }).await?;
        }
        for service in Context::ALL {
            for durable in reactions::durables(service, &self.channels) {
                durable.ensure(connection).await?;
                durable.for_operators().ensure(connection).await?;
            }
        }
        Ok(())
    }
}

/// Makes everything, and says so.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let (url, provision, access) = read(&args)?;
    let connection = Connection::connect_as(&url, "waybill provision", &access).await?;
    as_role(PROVISIONING, &access, provision.run(&connection, &Clock::system()).await)?;
    println!("every stream, bucket and consumer is there");
    Ok(())
}

/// Says everything that is wrong with the settings.
pub(crate) fn check(args: &Args) -> Result<(), Failure> {
    Ok(read(args).map(|_| ())?)
}

/// Where it is made, what, and as whom.
fn read(args: &Args) -> Result<(NatsUrl, Provision, Access), Faults> {
    let given = args.subscriptions.flags().into_iter().chain(args.access.flags());
    let mut flags = settings::flags(given.chain([
        ("--nats-url", args.nats_url.as_deref().map(str::to_owned)),
        ("--replicas", Some(args.replicas.clone())),
    ]));
    let url: Option<NatsUrl> = flags.required("--nats-url");
    let replicas: Option<usize> = flags.optional("--replicas");
    if replicas.is_some_and(|replicas| ![1, 3, 5].contains(&replicas)) {
        flags.faults().add("--replicas", "expected 1, 3 or 5");
    }
    let channels = nats_config::told(args.webhooks.as_deref(), &mut flags);
    let feed = Subscriptions::read(&mut flags).feed;
    let access = args.access.read(&mut flags, &[PROVISIONING]);
    let master_key = args.master_key.read(flags.faults());
    let provision = master_key.zip(replicas).map(|(master_key, replicas)| Provision {
        replicas,
        master_key,
        channels,
        feed,
    });
    let (url, provision) = flags.finish(url.zip(provision))?;
    let access = Access { provisions: true, ..access.of(PROVISIONING).clone() };
    Ok((url, provision, access))
}
