//! # waybill: the executable
//!
//! Wiring only: what a process consists of, and the subcommands.
//!
//! - [`system`]: one function makes a service of its write side, its read side and its probes; `dev`, `serve`, `demo` and
//!   the tests all start services with it
//! - [`calls`]: how orders call the users service; [`outside`]: the simulated world outside; `channels`: how notifications
//!   are sent; [`flow`]: how orders are carried through; [`subscriptions`]: how many may follow; all by flags
//! - [`databases`]: where read models are kept
//! - [`access`]: who this process is to NATS; [`rights`]: who may do what there; [`provision`], `nats_config`: make it so;
//!   `tls`: certificates between services
//! - [`cli`]: the command line; `config`: the file behind it; `dev`, `serve`, `demo`, `replay`, `rebuild`, `saga`, `token`,
//!   `verify`, `doctor`, `export`, `import`, `backup`, `restore`, `health`, `bench`: one file per subcommand
//! - `contracts`: what others rely on: the schemas of facts and the AsyncAPI document, served to everybody
//! - [`api`]: a client of the services; [`audit`]: folds the log and says whether what must hold does
//! - [`failure`]: how a command ends when it fails

pub mod access;
pub mod api;
pub mod audit;
pub mod calls;
pub mod cli;
pub mod databases;
pub mod edge;
pub mod failure;
pub mod flow;
pub mod outside;
pub mod provision;
pub mod rights;
pub mod subscriptions;
pub mod system;

mod archive;
mod backup;
mod bench;
mod channels;
mod config;
mod contracts;
mod cut;
mod dead_letters;
mod demo;
mod dev;
mod dev_certs;
mod doctor;
mod export;
mod health;
mod import;
mod nats_config;
mod operations;
mod pages;
mod progress;
mod rebuild;
mod replay;
mod restore;
mod saga;
mod serve;
mod settings;
mod tls;
mod token;
mod verify;
