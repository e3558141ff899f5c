//! Errors about names in the configuration.

use crate::model::text::sanitise;

/// `unknown column 'x'; expected one of ...`
pub(super) fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.collect();
    format!("unknown {what} '{}'; expected one of {}", sanitise(name), known.join(", "))
}
