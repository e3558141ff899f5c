//! What the fuzz targets share: an observer that counts beside the tracker, and what must hold between the two.

pub mod mirror;
pub mod script;
