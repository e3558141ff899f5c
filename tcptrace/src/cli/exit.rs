//! Exit status, and errors in usage.

use clap::error::ErrorKind;

use crate::kernel::{LoadError, preflight::CannotTrace};

/// Exit status: this host or user can't trace.
pub const CANNOT_TRACE: u8 = 3;

/// Whether this host or user can't trace.
pub fn cannot_trace(error: &anyhow::Error) -> bool {
    error.is::<CannotTrace>() || error.is::<LoadError>()
}

/// Exits with a usage error.
pub fn misuse(message: &str) -> ! {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{message}\n")).exit()
}
