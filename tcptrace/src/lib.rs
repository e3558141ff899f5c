//! tcptrace measures how long TCP sockets stay in each state, and who causes them. ARCHITECTURE.md has the map.
//!
//! A [`model::Source`] emits records, a [`pipeline`] tracks and counts them, and a [`Snapshot`](aggregate::Snapshot) has
//! the result. The longest dwells of a recording, by state:
//!
//! ```
//! use std::fs::File;
//! use tcptrace::{
//!     aggregate::{Grouping, Scope},
//!     filter::Filter,
//!     model::Nanos,
//!     pipeline::{self, PipelinePlan},
//!     session::{AtEnd, Reader},
//! };
//!
//! let file = File::open("../tests/fixtures/session-v1.tcptrace")?;
//! let recording = Reader::new(Box::new(file), AtEnd::Stop)?;
//! let plan = PipelinePlan::new(Filter::default(), Grouping::SERVICE, Scope::Every, Nanos::SECOND);
//! let snapshot = pipeline::start(Box::new(recording), plan)?.finish()?;
//! for of_state in &snapshot.dwells {
//!     let dwells = &of_state.distribution;
//!     println!("{}: {} dwells, {} ns at most", of_state.state.name(), dwells.count, dwells.longest.0);
//! }
//! # assert!(snapshot.dwells.iter().any(|of_state| of_state.distribution.count > 0));
//! # anyhow::Ok(())
//! ```
//!
//! The live kernel, as root, for a minute: sockets now in each state, once a second.
//!
//! ```no_run
//! use std::{thread::sleep, time::Duration};
//! use tcptrace::{
//!     aggregate::{Grouping, Scope},
//!     filter::Filter,
//!     kernel::{Options, preflight::Preflight},
//!     model::{Nanos, TcpState},
//!     pipeline::{self, PipelinePlan},
//!     source::{NameOptions, PollKind, live::Live},
//! };
//!
//! let types = Preflight::run().types()?;
//! let kernel = Live::start(&types, &Options::default(), String::new(), PollKind::States, &NameOptions::default())?;
//! let plan = PipelinePlan::new(Filter::default(), Grouping::SERVICE, Scope::Every, Nanos::SECOND);
//! let running = pipeline::start(Box::new(kernel), plan)?;
//! for _ in 0..60 {
//!     sleep(Duration::from_secs(1));
//!     let Some(snapshot) = running.snapshots.borrow().clone() else { continue };
//!     let now = TcpState::ALL.map(|state| format!("{} {}", state.name(), snapshot.states[state.index()].now));
//!     println!("{}; lost: {}", now.join(", "), snapshot.losses.total());
//! }
//! let last = running.stop()?;
//! println!("{} records", last.records);
//! # anyhow::Ok(())
//! ```

// Module docs link to private submodules.
#![allow(rustdoc::private_intra_doc_links)]
// Test threads have the privileges of the test.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

// First, because later modules use its macro.
#[macro_use]
mod note;

pub mod aggregate;
pub mod cli;
pub mod filter;
pub mod http;
pub mod join;
pub mod kernel;
pub mod lifecycle;
pub mod model;
pub mod output_file;
pub mod pipeline;
pub mod privileges;
pub mod replay;
pub mod sandbox;
mod selftest;
pub mod session;
pub mod source;
#[doc(hidden)]
pub mod synthetic;
pub mod view;
