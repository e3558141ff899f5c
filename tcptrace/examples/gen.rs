//! Generates man pages and shell completions from the argument definitions into a folder; a completion asks the program. `cargo xtask gen` and
//! `cargo xtask dist` run this; the output is not committed, so that it cannot be outdated.

use std::{fs, io, path::PathBuf};

use clap::CommandFactory as _;
use clap_complete::env::Shells;
use tcptrace::cli::{Cli, help};

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("expected a folder"))?;
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    for folder in [&man, &completions] {
        fs::create_dir_all(folder)?;
    }
    clap_mangen::generate_to(help::definition(Cli::command()), &man)?;
    for shell in Shells::builtins().iter() {
        let mut script = fs::File::create(completions.join(shell.name()))?;
        shell.write_registration("COMPLETE", "tcptrace", "tcptrace", "tcptrace", &mut script)?;
    }
    Ok(())
}
