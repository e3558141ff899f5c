//! Generates man pages and shell completions from the argument definitions into a folder. `cargo xtask gen` and
//! `cargo xtask dist` run this; the output is not committed, so that it cannot be outdated.

use std::{fs, io, path::PathBuf};

use clap::{CommandFactory as _, ValueEnum as _};
use clap_complete::Shell;
use tcptrace::cli::{Cli, help};

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("expected a folder"))?;
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    for folder in [&man, &completions] {
        fs::create_dir_all(folder)?;
    }
    clap_mangen::generate_to(help::definition(Cli::command()), &man)?;
    for &shell in Shell::value_variants() {
        clap_complete::generate_to(shell, &mut help::definition(Cli::command()), "tcptrace", &completions)?;
    }
    Ok(())
}
