//! The handlers' addresses where `/proc/kallsyms` is hidden: one loopback connection of our own is
//! closed actively, and the timers whose containers are its request socket and its minisocket have
//! the two handlers.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{Btf, maps::Array};
use rustix::net::{AddressFamily, SocketType};
use tcptrace_common::config::{Config, learned};

use super::{
    loader::{attach, load_object},
    symbols::Handlers,
};

/// How long the minisocket may take to appear: it is a matter of microseconds.
const PATIENCE: Duration = Duration::from_secs(5);
const SMALLEST_RING: u32 = 64 << 10;

/// Finds both addresses.
pub fn handlers(config: &Config, btf: &Btf) -> Result<Handlers> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no loopback listener")?;
    let client = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&client, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let config = Config {
        learn_cookie: rustix::net::sockopt::socket_cookie(&client)?,
        learn_ports: u32::from(port(&client)?) << 16 | u32::from(listener.local_addr()?.port()),
        ..*config
    };
    let mut ebpf = load_object(&config, SMALLEST_RING, btf)?;
    attach(&mut ebpf, "learn_handlers", "timer_start", btf)?;
    let found: Array<_, u64> =
        ebpf.take_map("LEARNED").context("no LEARNED map")?.try_into().context("LEARNED is no array")?;

    rustix::net::connect(&client, &listener.local_addr()?).context("no loopback connection")?;
    let (server, _) = listener.accept()?;
    // The client closes first: its socket ends in a minisocket.
    drop(client);
    drop(server);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let handlers = Handlers {
            tw_timer: found.get(&learned::TW_TIMER_HANDLER, 0)?,
            reqsk_timer: found.get(&learned::REQSK_TIMER_HANDLER, 0)?,
        };
        if handlers.are_known() {
            return Ok(handlers);
        }
        if Instant::now() > deadline {
            bail!("its timers were not seen within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn port(socket: &OwnedFd) -> Result<u16> {
    let name = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
    Ok(name.port())
}
