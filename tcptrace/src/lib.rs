//! tcptrace tells how long TCP sockets stay in every state, and who produces them.
//! ARCHITECTURE.md has the map.

// The first lines of a folder name its rooms, which are private.
#![allow(rustdoc::private_intra_doc_links)]

// First: what comes after it has its macro.
#[macro_use]
mod say;

pub mod aggregate;
pub mod cli;
pub mod filter;
pub mod http;
pub mod inspect;
pub mod kernel;
pub mod lifecycle;
pub mod model;
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
