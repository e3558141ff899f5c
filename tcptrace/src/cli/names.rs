//! Arguments for the names of pods, containers, programs and peers.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use super::recording::shown;
use crate::{
    filter::Cidr,
    model::{
        peer_names::{MAX_PEER_NAMES, NameOrigin, PeerNames},
        text,
    },
    source::NameOptions,
};

/// Largest file of `--names`.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// How names are read from the host.
#[derive(Args, Clone, Debug)]
pub struct NameArgs {
    /// Where the file system of the host is mounted, such as /host in a container: files there name pods, containers
    /// and peers
    #[arg(long, value_name = "DIR", default_value = "/", hide_short_help = true)]
    host_root: PathBuf,
    /// Name a program by the first word after its interpreter: python3 /srv/app/worker.py. This reads command lines,
    /// which may hold secrets; no other word is kept
    #[arg(long, hide_short_help = true)]
    show_command: bool,
    #[command(flatten)]
    peers: PeerNameArgs,
}

/// Names of peers that the user gives; for recordings, too.
#[derive(Args, Clone, Debug)]
pub struct PeerNameArgs {
    /// Name peers by the lines of this file: 10.0.0.0/24 db-subnet. The longest prefix wins
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    names: Option<PathBuf>,
}

impl PeerNameArgs {
    /// The names in the file.
    pub fn read(&self) -> Result<Arc<PeerNames>> {
        let Some(path) = &self.names else { return Ok(Arc::default()) };
        let mut content = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content))
            .with_context(|| shown(path))?;
        ensure!(content.len() as u64 <= MAX_FILE_BYTES, "{}: larger than 1 MiB", shown(path));
        parse(path, &String::from_utf8_lossy(&content)).map(Arc::new)
    }
}

/// Parses lines of a network and its name, which may contain blanks; `#` begins a comment.
fn parse(path: &Path, content: &str) -> Result<PeerNames> {
    let mut names = PeerNames::default();
    for (line, number) in content.lines().zip(1..) {
        let line = line.split_once('#').map_or(line, |(line, _)| line).trim();
        if line.is_empty() {
            continue;
        }
        let at = || format!("{}, line {number}", shown(path));
        let (network, name) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let network = Cidr::parse(network).map_err(|error| anyhow::anyhow!("{}: {error}", at()))?;
        let name = name.trim();
        if name.is_empty() {
            bail!("{}: expected a name after {network}", at());
        }
        let has_room = names.insert(NameOrigin::Given, network.prefix(), &text::bounded(name));
        ensure!(has_room, "{}: more than {MAX_PEER_NAMES} names", at());
    }
    Ok(names)
}

impl NameArgs {
    /// The arguments for a source.
    pub fn options(&self) -> NameOptions {
        NameOptions { host_root: self.host_root.clone(), commands: self.show_command }
    }

    /// Names of peers that the user gives.
    pub fn peers(&self) -> Result<Arc<PeerNames>> {
        self.peers.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_networks() {
        let content =
            "# ours\n10.0.0.0/24\tdb subnet  # left\n\n10.0.0.5 \u{1b}[2Jdb-0\r\n2001:db8::/32 doc\n";
        let names = parse(Path::new("names"), content).expect("names");
        let mut all: Vec<_> = names.iter().map(|(_, _, name)| &**name).collect();
        all.sort_unstable();
        assert_eq!(all, ["?[2Jdb-0", "db subnet", "doc"]);
    }

    #[test]
    fn errors_have_their_line() {
        let error = |content: &str| parse(Path::new("names"), content).expect_err("no names").to_string();
        assert_eq!(error("\n10.0.0.0/33 db"), "names, line 2: expected a prefix length (0-32), found \"33\"");
        assert_eq!(
            error("10.0.0.5/24 db"),
            "names, line 1: 10.0.0.5/24 has host bits set, the network is 10.0.0.0/24"
        );
        assert_eq!(error("10.0.0.0/24 # db"), "names, line 1: expected a name after 10.0.0.0/24");
        assert!(error("db 10.0.0.5").starts_with("names, line 1: expected an address"));
        let many: Vec<String> =
            (0..=MAX_PEER_NAMES).map(|n| format!("10.{}.{}.0/24 a", n >> 8, n & 255)).collect();
        assert_eq!(error(&many.join("\n")), "names, line 8193: more than 8192 names");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let args = PeerNameArgs { names: Some("/nonexistent/names".into()) };
        let error = format!("{:#}", args.read().expect_err("no file"));
        assert!(error.starts_with("/nonexistent/names: No such file"), "{error}");
        assert!(PeerNameArgs { names: Some("/dev/zero".into()) }.read().is_err());
    }
}
