//! What generations count: which one serves, and how far a build is.

use nats::{ReadModel, State};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
};
use std::fmt;
use tokio::sync::watch;

/// Told when it is asked for.
pub(crate) struct Gauges {
    pub(crate) projection: &'static str,
    pub(crate) known: watch::Receiver<Option<ReadModel>>,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gauges({})", self.projection)
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(model) = self.known.borrow().clone() else { return Ok(()) };
        let mut gauge = |name: &str, help: &str, value: Option<u64>| {
            let Some(value) = value else { return fmt::Result::Ok(()) };
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; these are far below 2^52")]
            let gauge = ConstGauge::new(value as f64);
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(family.encode_family(&[("projection", self.projection)])?)
        };
        let one = |state| model.generations.iter().find(|generation| generation.state == state);
        let live = one(State::Live).map(|live| live.number.into());
        gauge("waybill_projection_generation", "The generation of the tables that serves", live)?;
        let Some(building) = one(State::Building) else { return Ok(()) };
        let build = building.build.as_ref();
        let number = building.number.into();
        gauge("waybill_rebuild_generation", "The generation that is being built", Some(number))?;
        let events = build.map(|build| build.events);
        gauge("waybill_rebuild_events", "Events that a build has read", events)?;
        let total = build.map(|build| build.total);
        gauge("waybill_rebuild_total_events", "Events that a build has to read", total)?;
        let rate = build.map(|build| build.per_second);
        gauge("waybill_rebuild_events_per_second", "Events that a build reads in a second", rate)?;
        let left = build.and_then(nats::Build::seconds_left);
        gauge("waybill_rebuild_seconds_left", "Time until a build is done, at its rate of late", left)
    }
}
