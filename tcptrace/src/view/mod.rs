//! What is shown: each view turns counts or a snapshot into text or JSON, and reads nothing else.

pub mod explain;
pub mod states;
