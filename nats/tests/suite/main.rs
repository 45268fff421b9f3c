//! The store, the reader, the consumer and the topology against real nats-servers that are killed, paused and lied to.

mod append;
mod consumer;
mod load;
mod reader;
mod rig;
mod topology;
