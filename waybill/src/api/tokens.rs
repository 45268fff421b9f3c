//! Access tokens for whoever speaks through the client: issued with the system's own keys, without a password.

use crate::{
    dev::find_master_key,
    failure::{Failure, because},
};
use commands::users::tokens::{ACCESS, Issued, Issuer, Keys, MAX_LIFETIME};
use jiff::SignedDuration;
use nats::{Access, Connection, MasterKey};
use service::{Clock, auth::Role};
use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use uuid::Uuid;

/// A token that ends sooner than this is replaced: the request it goes with may take a while.
const MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// Who the operator is. Always the same, for a command that is sent again is the same only if it comes from the same.
const OPERATOR: Uuid = Uuid::from_u128(0x0199_d3a8_0000_7000_8000_0000_0000_0001);

/// Tokens for an operator and for any customer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tokens {
    issuer: Issuer,
    clock: Clock,
    kept: Arc<Mutex<HashMap<(Uuid, Role), Issued>>>,
}

impl Tokens {
    /// Of the system at this NATS, whose keys this master key opens.
    pub async fn open(nats_url: &str, master: &MasterKey, clock: &Clock) -> Result<Self, Failure> {
        Self::open_as(nats_url, &Access::default(), master, clock).await
    }

    /// The same, as somebody whom NATS knows.
    pub async fn open_as(
        nats_url: &str,
        access: &Access,
        master: &MasterKey,
        clock: &Clock,
    ) -> Result<Self, Failure> {
        let connection = Connection::connect_as(nats_url, "waybill tokens", access).await?;
        // The services have made the bucket with as many copies as they need.
        let keys = Keys::open_as(&connection, master, 1, clock).await;
        let issuer = Issuer::new(keys.map_err(because("cannot open the signing keys"))?, clock.clone());
        Ok(Self { issuer, clock: clock.clone(), kept: Arc::default() })
    }

    /// Of a running `waybill dev`, by its data folder.
    pub async fn of_dev(data: &Path, nats_url: &str) -> Result<Self, Failure> {
        let master = find_master_key(data)?.ok_or_else(|| format!("{} has no master key", data.display()))?;
        Self::open(nats_url, &master, &Clock::system()).await
    }

    /// A token of the operator.
    pub async fn operator(&self) -> Result<String, Failure> {
        self.of(OPERATOR, Role::Operator).await
    }

    /// A token of a customer.
    pub async fn customer(&self, user: Uuid) -> Result<String, Failure> {
        self.of(user, Role::Customer).await
    }

    /// A token of a customer that lasts for a day: for whoever copies it from a terminal.
    pub async fn customer_for_a_day(&self, user: Uuid) -> Result<String, Failure> {
        Ok(self.issue(user, Role::Customer, MAX_LIFETIME).await?.token)
    }

    async fn of(&self, user: Uuid, role: Role) -> Result<String, Failure> {
        let fresh_until = self.clock.now() + MARGIN;
        let kept = self.kept().get(&(user, role)).filter(|kept| kept.expires > fresh_until).cloned();
        if let Some(Issued { token, .. }) = kept {
            return Ok(token);
        }
        let issued = self.issue(user, role, ACCESS).await?;
        self.kept().insert((user, role), issued.clone());
        Ok(issued.token)
    }

    async fn issue(&self, user: Uuid, role: Role, lifetime: Duration) -> Result<Issued, Failure> {
        let issued = self.issuer.issue(user, vec![role], self.clock.uuid(), lifetime).await;
        issued.map_err(because("cannot issue a token"))
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<(Uuid, Role), Issued>> {
        // Every statement leaves the map valid.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
