//! A file that is there from the beginning, so that it is told early when it can't be made, and stays only with all
//! of it inside.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::source::shown;
use crate::session::{self, Existing};

/// Removes the file it stands for, unless that is whole.
pub struct Whole {
    path: PathBuf,
    is_whole: bool,
}

impl Whole {
    /// Makes the file at `path`.
    pub fn create(path: &Path, existing: Existing) -> Result<(File, Self)> {
        let file = session::create(path, existing).with_context(|| shown(path))?;
        Ok((file, Self { path: path.to_owned(), is_whole: false }))
    }

    /// All of it is written: it stays.
    pub fn stays(mut self) {
        self.is_whole = true;
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if !self.is_whole {
            // One that is gone already need not go.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
