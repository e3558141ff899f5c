//! Filter flags of all commands, combined into one expression.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use super::source;
use crate::{
    filter::{Expr, Family, Filter, SyntaxError, Test, Word, parse, parse_values},
    source::netns,
};

/// Which sockets to show. Values of one flag are alternatives; different flags must all match.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(
    next_help_heading = "Filters (values of one flag are alternatives, different flags must all match)"
)]
pub struct FilterArgs {
    /// In one of these states: time-wait,fin-wait2, or teardown for all after the first FIN
    #[arg(long, value_name = "STATE,..")]
    pub state: Vec<String>,
    /// Local or remote port: 443, 80,443 or 8000-8999
    #[arg(long, value_name = "PORT,..")]
    pub port: Vec<String>,
    /// Local port
    #[arg(long, value_name = "PORT,..")]
    pub lport: Vec<String>,
    /// Remote port
    #[arg(long, value_name = "PORT,..")]
    pub rport: Vec<String>,
    /// Remote address or network: 10.0.0.5 or 10.0.0.0/8
    #[arg(long, value_name = "CIDR,..")]
    pub peer: Vec<String>,
    /// Local address or network
    #[arg(long, value_name = "CIDR,..")]
    pub local: Vec<String>,
    /// Process id of the owner
    #[arg(long, value_name = "PID,..")]
    pub pid: Vec<String>,
    /// Name of the owner's process; * matches anything
    #[arg(long, value_name = "NAME,..")]
    pub comm: Vec<String>,
    /// Kubernetes pod of the owner: checkout-7d9f or shop/checkout*
    #[arg(long, value_name = "NAME,..")]
    pub pod: Vec<String>,
    /// Container of the owner
    #[arg(long, value_name = "NAME,..")]
    pub container: Vec<String>,
    /// Kubernetes namespace of the owner
    #[arg(long, value_name = "NAME,..")]
    pub k8s_namespace: Vec<String>,
    /// systemd unit of the owner: nginx.service
    #[arg(long, value_name = "NAME,..")]
    pub unit: Vec<String>,
    /// Program of the owner: java or /usr/bin/java
    #[arg(long, value_name = "PATH,..")]
    pub exe: Vec<String>,
    /// User of the owner: name or number
    #[arg(long, value_name = "USER,..")]
    pub uid: Vec<String>,
    /// Network namespace: its name in `ip netns`, or its inode number
    #[arg(long, value_name = "NETNS,..")]
    pub netns: Vec<String>,
    /// inbound, outbound, listener or unknown
    #[arg(long, value_name = "ROLE,..")]
    pub role: Vec<String>,
    /// IPv4 only; with -6 both
    #[arg(short = '4', long)]
    pub ipv4: bool,
    /// IPv6 only; with -4 both
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Filter expression: 'state time-wait and not (lport 443 or comm nginx)'
    #[arg(long, value_name = "EXPR")]
    pub filter: Vec<String>,
}

impl FilterArgs {
    /// The filter of all flags. Takes namespace names from the recording, without one from the running host. Fails with a
    /// [`SyntaxError`] or an [`UnknownNetns`](crate::filter::UnknownNetns).
    pub fn filter(&self, recordings: &[PathBuf]) -> Result<Filter> {
        let expr = self.expr()?;
        let names = match recordings {
            _ if !expr.as_ref().is_some_and(Expr::names_netns) => BTreeMap::new(),
            [] => {
                netns::named().context("can't look up the names of network namespaces; is /proc mounted?")?
            }
            paths => source::netns_names(paths)?,
        };
        Ok(Filter::new(expr, &names)?)
    }

    /// All flags as one expression; `None` if none was given.
    pub fn expr(&self) -> Result<Option<Expr>, SyntaxError> {
        let flags = [
            ("--state", Word::State, &self.state),
            ("--port", Word::Port, &self.port),
            ("--lport", Word::Lport, &self.lport),
            ("--rport", Word::Rport, &self.rport),
            ("--peer", Word::Peer, &self.peer),
            ("--local", Word::Local, &self.local),
            ("--pid", Word::Pid, &self.pid),
            ("--comm", Word::Comm, &self.comm),
            ("--pod", Word::Pod, &self.pod),
            ("--container", Word::Container, &self.container),
            ("--k8s-namespace", Word::K8sNamespace, &self.k8s_namespace),
            ("--unit", Word::Unit, &self.unit),
            ("--exe", Word::Exe, &self.exe),
            ("--uid", Word::Uid, &self.uid),
            ("--netns", Word::Netns, &self.netns),
            ("--role", Word::Role, &self.role),
        ];
        let mut wanted = Vec::new();
        for (flag, word, texts) in flags {
            let tests = texts.iter().map(|text| parse_values(flag, word, text).map(Expr::Test));
            wanted.extend(Expr::any_of(tests.collect::<Result<_, _>>()?));
        }
        wanted.extend(self.family().map(|family| Expr::Test(Test::Family(family))));
        for text in &self.filter {
            wanted.push(parse("--filter", text)?);
        }
        Ok(Expr::all_of(wanted))
    }

    /// `-4 -6` together match both versions, so they filter nothing.
    const fn family(&self) -> Option<Family> {
        match (self.ipv4, self.ipv6) {
            (true, false) => Some(Family::Ipv4),
            (false, true) => Some(Family::Ipv6),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct FilterCommand {
        #[command(flatten)]
        filters: FilterArgs,
    }

    fn expr(args: &[&str]) -> String {
        let all = ["tcptrace"].iter().chain(args);
        let command = FilterCommand::try_parse_from(all).expect("arguments");
        match command.filters.expr() {
            Ok(Some(expr)) => expr.to_string(),
            Ok(None) => "everything".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn flags_become_one_expression() {
        let cases: &[(&[&str], &str)] = &[
            (&[], "everything"),
            (&["--state", "TIME_WAIT"], "state time-wait"),
            (&["--lport", "80,443", "--lport", "8000-8999"], "lport 80,443 or lport 8000-8999"),
            (
                &["--lport", "80", "--lport", "443", "--peer", "10.0.0.0/8"],
                "(lport 80 or lport 443) and peer 10.0.0.0/8",
            ),
            (&["-4", "--role=inbound,listener"], "role inbound,listener and ipv4"),
            (&["-4", "-6"], "everything"),
            (&["-6"], "ipv6"),
            (&["--comm", "my app,redis*"], "comm \"my app\",redis*"),
            (&["--comm", "it's"], "comm \"it's\""),
            (&["--comm", "and"], "comm \"and\""),
            (&["--netns", "blue, 4026531840"], "netns blue,4026531840"),
            (
                &["--pid", "7", "--filter", "port 80 or port 81", "--filter", "not ipv6"],
                "pid 7 and (port 80 or port 81) and not ipv6",
            ),
        ];
        for (args, expected) in cases {
            assert_eq!(expr(args), *expected, "{args:?}");
        }
    }

    #[test]
    fn an_error_names_its_flag() {
        assert_eq!(
            expr(&["--rport", "80,70000"]),
            "--rport: column 4: expected a port (0-65535), found \"70000\""
        );
        assert_eq!(
            expr(&["--pid", ""]),
            "--pid: column 1: expected a process id (1-4294967295), found the end"
        );
        assert_eq!(
            expr(&["--filter", "rport 80", "--filter", "("]),
            "--filter: column 2: expected a test such as `rport 5432`, `not` or `(`, found the end"
        );
    }
}
