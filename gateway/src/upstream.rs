//! STUB
#![expect(missing_docs, reason = "stub")]
use axum::http::uri::Authority;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
pub type InstanceId = String;
#[derive(Clone, Debug)]
pub struct Instance { pub id: InstanceId }
#[derive(Clone, Copy)]
pub enum Failure { Connect, Timeout, Reset }
pub enum NoUpstream { NoInstance, Open { retry_after: Duration } }
#[derive(Clone, Default)]
pub struct Upstreams(pub Arc<BTreeMap<String, Vec<Authority>>>);
pub struct Pick { pub instance: Instance, pub authority: Authority }
impl Upstreams {
    pub fn pick(&self, service: &str, tried: &[InstanceId]) -> Result<Pick, NoUpstream> {
        let all = self.0.get(service).ok_or(NoUpstream::NoInstance)?;
        let one = all.iter().find(|a| !tried.contains(&a.to_string())).ok_or(NoUpstream::NoInstance)?;
        Ok(Pick { instance: Instance { id: one.to_string() }, authority: one.clone() })
    }
}
impl Pick { pub fn succeeded(self, _: u16) {} pub fn failed(self, _: Failure) {} }
