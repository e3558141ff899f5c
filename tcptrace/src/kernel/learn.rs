//! Learns the addresses of the timer handlers where `/proc/kallsyms` is hidden: closes a loopback connection actively,
//! and reads the handlers from the timers of its request socket and its timewait socket.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::{Btf, maps::Array};
use tcptrace_common::{
    config::{Config, learned},
    filter::KernelFilter,
};

use super::{
    loopback::Loopback,
    object::{RingKind, attach, load_object},
    symbols::Handlers,
};

/// Most time for the timewait socket to appear; microseconds are normal.
const LEARN_TIMEOUT: Duration = Duration::from_secs(5);

/// Learns both addresses.
pub fn handlers(kind: RingKind, config: &Config, btf: &Btf) -> Result<Handlers> {
    let connection = Loopback::prepare()?;
    let config = Config {
        learn_cookie: connection.cookie()?,
        learn_ports: u32::from(connection.client_port()?) << 16 | u32::from(connection.server_port()?),
        ring_mask: 0,
        ring_slots: 1,
        ..*config
    };
    let mut ebpf = load_object(kind, &config, &KernelFilter::default())?;
    attach(&mut ebpf, &[("learn_handlers", "timer_start")], btf)?;
    let found: Array<_, u64> =
        ebpf.take_map("LEARNED").context("no LEARNED map")?.try_into().context("LEARNED is no array")?;
    connection.run()?;
    let deadline = Instant::now() + LEARN_TIMEOUT;
    loop {
        let handlers = Handlers {
            tw_timer: found.get(&learned::TW_TIMER_HANDLER, 0)?,
            reqsk_timer: found.get(&learned::REQSK_TIMER_HANDLER, 0)?,
        };
        if handlers.are_known() {
            return Ok(handlers);
        }
        if Instant::now() > deadline {
            bail!("its timers were not seen within {} s", LEARN_TIMEOUT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
