//! Where the configuration is: `$XDG_CONFIG_HOME/tcptrace/config.toml`, else `~/.config/tcptrace/config.toml`.
//!
//! The home is that of `$HOME`: under `sudo`, which usually sets it to root's, that is root's.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{model::text::sanitise, view::top::Config};

/// Longer files are something else.
const LONGEST: u64 = 1 << 20;

/// The configuration, or the usual one where there is no file.
pub fn read() -> Result<Config> {
    let Some(path) = path() else { return Ok(Config::default()) };
    let name = || format!("{}", sanitise(&path.to_string_lossy()));
    let Some(text) = content(&path).with_context(name)? else { return Ok(Config::default()) };
    Config::parse(&text).with_context(|| {
        format!(
            "{}: correct it, or move it away: then tcptrace top --print-config shows what it may say",
            name()
        )
    })
}

fn path() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // A relative path is to be ignored, says the specification.
    let base = variable("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let base = base.or_else(|| variable("HOME").map(|home| home.join(".config")))?;
    Some(base.join("tcptrace/config.toml"))
}

/// The file's text; `None` where there is none.
fn content(path: &Path) -> Result<Option<String>> {
    match path.metadata() {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
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
