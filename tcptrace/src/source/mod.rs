//! Where observations come from: the live kernel and what `/proc` knows about it. Everything that
//! depends on the host is read here, and nowhere further down.

pub mod host;
pub mod netns;
pub mod owners;
pub mod sock_diag;
