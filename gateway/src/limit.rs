//! STUB
#![expect(missing_docs, reason = "stub")]
use axum::http::HeaderMap;
use service::Problem;
use std::{net::IpAddr, time::Duration};
use uuid::Uuid;
#[derive(Clone, Debug)]
pub struct LimitPolicy { pub name: String }
impl LimitPolicy { pub fn new(name: &str, _quota: u32, _window: Duration) -> Result<Self, String> { Ok(Self { name: name.to_owned() }) } }
pub enum LimitKey { Principal(Uuid), Address(IpAddr) }
#[derive(Clone)]
pub struct Limiter;
pub struct Decision { pub allowed: bool }
impl Limiter { pub async fn check(&self, _: &LimitPolicy, _: &LimitKey) -> Decision { Decision { allowed: true } } }
impl Decision { pub fn headers(&self, _: &mut HeaderMap) {} pub fn problem(&self) -> Problem { Problem::internal() } }
