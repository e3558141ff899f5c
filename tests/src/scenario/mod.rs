//! The scenarios by theme. Each makes its traffic, proves it with the kernel, and states what the tracer must say.

pub mod abort;
pub mod close;
pub mod doctor;
pub mod documents;
pub mod dwells;
pub mod ending;
pub mod fallback;
pub mod faults;
pub mod filters;
pub mod flood;
pub mod handshake;
pub mod million;
pub mod owner;
pub mod ports;
pub mod privileges;
pub mod program;
pub mod prometheus;
pub mod recording;
pub mod report;
pub mod scrape;
pub mod screen;
pub mod seed;
pub mod serve;
pub mod servers;
pub mod storm;
