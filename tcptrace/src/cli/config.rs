//! Reads the configuration: `$XDG_CONFIG_HOME/tcptrace/config.toml`, else `~/.config/tcptrace/config.toml`.
//!
//! `sudo` usually sets `$HOME` to root's home: then this is root's file.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{model::text::sanitise, view::top::ScreenConfig};

/// Reads at most this many bytes: a longer file is not a configuration.
const LONGEST: u64 = 1 << 20;

/// Returns the configuration, or the default if there is no file.
pub fn read() -> Result<ScreenConfig> {
    let Some(path) = path() else { return Ok(ScreenConfig::default()) };
    let name = || format!("{}", sanitise(&path.to_string_lossy()));
    let Some(text) = content(&path).with_context(name)? else { return Ok(ScreenConfig::default()) };
    ScreenConfig::parse(&text).with_context(|| {
        format!(
            "{}: fix it, or move it away: then tcptrace top --print-config shows the valid settings",
            name()
        )
    })
}

fn path() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The XDG specification says to ignore a relative path.
    let base = variable("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let base = base.or_else(|| variable("HOME").map(|home| home.join(".config")))?;
    Some(base.join("tcptrace/config.toml"))
}

/// The file's text; `None` if the file does not exist.
fn content(path: &Path) -> Result<Option<String>> {
    match path.metadata() {
        // `$HOME` of another user, as `sudo -u` may leave it, cannot be searched.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
        Ok(metadata) if !metadata.is_file() => bail!("not a file"),
        Ok(_) => {}
    }
    let mut text = String::new();
    File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(Some(text))
}
