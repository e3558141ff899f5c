//! tcptrace measures how long TCP sockets stay in each state, and who causes them.
//! ARCHITECTURE.md has the map.

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
