//! Arguments for the names of pods, containers and programs.

use std::path::PathBuf;

use clap::Args;

use crate::source::NameOptions;

/// How names are read from the host.
#[derive(Args, Clone, Debug)]
pub struct NameArgs {
    /// Where the file system of the host is mounted, such as /host in a container: files there name pods and containers
    #[arg(long, value_name = "DIR", default_value = "/", hide_short_help = true)]
    host_root: PathBuf,
    /// Name a program by the first word after its interpreter: python3 /srv/app/worker.py. This reads command lines,
    /// which may hold secrets; no other word is kept
    #[arg(long)]
    show_command: bool,
}

impl NameArgs {
    /// The arguments for a source.
    pub fn options(&self) -> NameOptions {
        NameOptions { host_root: self.host_root.clone(), commands: self.show_command }
    }
}
