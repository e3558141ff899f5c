//! Shared parts of the fuzz targets: an observer that counts sockets itself, and a generator of records.

pub mod mirror;
pub mod script;
