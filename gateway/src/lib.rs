//! # gateway: the edge
//!
//! Where clients come in: knows routes, never orders.
//!
//! - [`Upstreams`]: which instance of a service is asked

mod upstream;

pub use upstream::{CheckPolicy, EjectionPolicy, Failure, NoUpstream, Pick, UpstreamPolicy, Upstreams};
