//! Reads addresses of kernel functions from `/proc/kallsyms`.

use std::{
    io::{BufRead as _, BufReader},
    sync::LazyLock,
};

use anyhow::{Context as _, Result};

/// The two timer handlers that identify timewait sockets and request sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handlers {
    /// `tw_timer_handler`; 0 when unknown.
    pub tw_timer: u64,
    /// `reqsk_timer_handler`; 0 when unknown.
    pub reqsk_timer: u64,
}

impl Handlers {
    /// Whether both addresses are known.
    pub const fn are_known(self) -> bool {
        self.tw_timer != 0 && self.reqsk_timer != 0
    }

    /// The addresses in `/proc/kallsyms`, read once because it takes as long as the rest of a start. They are 0 where
    /// `kptr_restrict` or a missing `CAP_SYSLOG` hides them.
    pub fn from_kallsyms() -> Self {
        static READ: LazyLock<Handlers> = LazyLock::new(|| Handlers::read().unwrap_or_default());
        *READ
    }

    fn read() -> Result<Self> {
        let file = std::fs::File::open("/proc/kallsyms").context("/proc/kallsyms can't be opened")?;
        let mut found = Self::default();
        let mut reader = BufReader::with_capacity(256 << 10, file);
        let mut line = Vec::new();
        while !found.are_known() {
            line.clear();
            if reader.read_until(b'\n', &mut line).context("/proc/kallsyms can't be read")? == 0 {
                break;
            }
            found.take_line(&line);
        }
        Ok(found)
    }

    fn take_line(&mut self, line: &[u8]) {
        // `ffffffff82006070 t tw_timer_handler`, followed by `\t[module]` for a module's symbol.
        if !line.ends_with(b"_timer_handler\n") {
            return;
        }
        let Ok(text) = std::str::from_utf8(line) else { return };
        let mut words = text.split_whitespace();
        let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next()) else { return };
        let address = u64::from_str_radix(address, 16).unwrap_or(0);
        match name {
            "tw_timer_handler" => self.tw_timer = address,
            "reqsk_timer_handler" => self.reqsk_timer = address,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_handlers_are_parsed() {
        let mut found = Handlers::default();
        for line in [
            &b"ffffffff82006070 t tw_timer_handler\n"[..],
            b"ffffffff820085b0 t reqsk_timer_handler\n",
            b"ffffffff82000000 t other_timer_handler\n",
            b"\xff\xff t tw_timer_handler\n",
            b"_timer_handler\n",
        ] {
            found.take_line(line);
        }
        assert_eq!(found, Handlers { tw_timer: 0xffff_ffff_8200_6070, reqsk_timer: 0xffff_ffff_8200_85b0 });
    }

    #[test]
    fn hidden_addresses_are_unknown() {
        let mut found = Handlers::default();
        found.take_line(b"0000000000000000 t tw_timer_handler\n");
        found.take_line(b"0000000000000000 t reqsk_timer_handler\n");
        assert!(!found.are_known());
    }
}
