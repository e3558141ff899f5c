//! Socket and task numbers of a recording. Writer and reader keep the same dictionary: rows refer to sockets
//! and tasks by number and omit fields that have not changed.

use rustc_hash::FxHashMap;
use tcptrace_common::record as raw;

use crate::model::Addr;

/// Most sockets with a number at once. The writer starts over when it runs out; a reader rejects higher
/// numbers.
pub const MAX_SOCKET_NUMBERS: usize = 1 << 19;
/// Most tasks with a number at once.
pub const MAX_TASK_NUMBERS: usize = 1 << 16;
/// Most kernel objects with a number at once.
const MAX_OBJECT_NUMBERS: usize = 1 << 20;

/// The columns of a hook's row that are omitted while unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DictEntry {
    /// Socket cookie.
    pub cookie: u64,
    /// Number of the kernel object.
    pub object: u32,
    /// Network namespace.
    pub netns: u32,
    /// Local address.
    pub saddr: Addr,
    /// Remote address.
    pub daddr: Addr,
    /// Local port.
    pub sport: u16,
    /// Remote port.
    pub dport: u16,
    /// Interface.
    pub ifindex: u32,
    /// Request sockets: the listener's cookie.
    pub listener: u64,
}

impl Default for DictEntry {
    fn default() -> Self {
        Self {
            cookie: 0,
            object: 0,
            netns: 0,
            saddr: Addr::ANY,
            daddr: Addr::ANY,
            sport: 0,
            dport: 0,
            ifindex: 0,
            listener: 0,
        }
    }
}

/// Writer side: the number of each socket, and its last written entry.
#[derive(Debug, Default)]
pub struct NumberTable {
    by_key: FxHashMap<u64, u32>,
    entries: Vec<DictEntry>,
    used: Vec<Use>,
    /// Where the search for a free number begins. Numbers are allocated in rotation: sockets that live at the
    /// same time, and end in the order in which they began, get adjacent numbers, which compress well.
    next: usize,
    /// Free from the next batch on, because a batch's definitions precede its other rows.
    released: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Free,
    Taken,
}

/// A socket's number.
#[derive(Clone, Copy, Debug)]
pub struct Numbered {
    /// The number.
    pub number: u32,
    /// The socket has no entry yet.
    pub is_new: bool,
}

impl NumberTable {
    /// The number of the socket with `key`.
    pub fn of(&mut self, key: u64) -> Numbered {
        if let Some(&number) = self.by_key.get(&key) {
            return Numbered { number, is_new: false };
        }
        let number = self.next_free();
        self.by_key.insert(key, number);
        Numbered { number, is_new: true }
    }

    fn next_free(&mut self) -> u32 {
        // Terminates: a batch ends before all numbers are in use.
        while self.used.get(self.next) == Some(&Use::Taken) {
            self.next = (self.next + 1) % MAX_SOCKET_NUMBERS;
        }
        let number = self.next;
        if number == self.used.len() {
            self.used.push(Use::Taken);
            self.entries.push(DictEntry::default());
        } else {
            self.used[number] = Use::Taken;
        }
        self.next = (number + 1) % MAX_SOCKET_NUMBERS;
        number as u32
    }

    /// The last written entry of the socket `number`.
    pub fn entry(&mut self, number: u32) -> &mut DictEntry {
        &mut self.entries[number as usize]
    }

    /// Frees the number of the socket with `key`, from the next batch on.
    pub fn release(&mut self, key: u64) {
        self.released.extend(self.by_key.remove(&key));
    }

    /// Whether this batch has run out of numbers.
    pub fn is_full(&self) -> bool {
        self.by_key.len() + self.released.len() >= MAX_SOCKET_NUMBERS - 1
    }

    /// Ends a batch.
    pub fn end_batch(&mut self) {
        for number in self.released.drain(..) {
            self.used[number as usize] = Use::Free;
        }
        // With few numbers left, batches would be small and the search for a free one long.
        if self.by_key.len() >= MAX_SOCKET_NUMBERS / 8 * 7 {
            self.forget();
        }
    }

    /// Discards all entries: every socket is defined again.
    pub fn forget(&mut self) {
        self.by_key.clear();
        self.entries.clear();
        self.used.clear();
        self.next = 0;
        self.released.clear();
    }
}

/// Task numbers. A thread that changes its name becomes a new task.
#[derive(Debug, Default)]
pub struct Tasks {
    numbers: FxHashMap<[u8; TASK_LEN], u32>,
}

const TASK_LEN: usize = size_of::<raw::Task>();

impl Tasks {
    /// The number of `task`.
    pub fn of(&mut self, task: &raw::Task) -> Numbered {
        let next = self.numbers.len() as u32;
        let number = *self.numbers.entry(bytemuck::cast(*task)).or_insert(next);
        Numbered { number, is_new: number == next }
    }

    /// Whether this batch has run out of numbers.
    pub fn is_full(&self) -> bool {
        self.numbers.len() >= MAX_TASK_NUMBERS
    }

    /// Discards all numbers: every task is defined again.
    pub fn forget(&mut self) {
        self.numbers.clear();
    }
}

/// Replaces kernel addresses, which must not leak into files, with numbers in order of first appearance.
#[derive(Debug, Default)]
pub struct Objects {
    numbers: FxHashMap<u64, u32>,
    given: u32,
}

impl Objects {
    /// The number of the object at `address`; 0 for none.
    pub fn number(&mut self, address: u64) -> u32 {
        if address == 0 {
            return 0;
        }
        if let Some(&number) = self.numbers.get(&address) {
            return number;
        }
        if self.numbers.len() >= MAX_OBJECT_NUMBERS {
            self.numbers.clear();
        }
        self.given = self.given.wrapping_add(1).max(1);
        self.numbers.insert(address, self.given);
        self.given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_released_socket_is_reused() {
        let mut numbers = NumberTable::default();
        assert_eq!((numbers.of(7).number, numbers.of(8).number), (0, 1));
        assert!(!numbers.of(7).is_new);
        numbers.release(7);
        assert_eq!(numbers.of(9).number, 2);
        numbers.end_batch();
        assert_eq!(numbers.of(10).number, 3);
        numbers.next = 0;
        let again = numbers.of(11);
        assert!(again.is_new && again.number == 0);
        numbers.forget();
        assert!(numbers.of(8).is_new);
    }

    #[test]
    fn an_object_keeps_its_number() {
        let mut objects = Objects::default();
        let (a, b) = (objects.number(0xffff_8880_0000_1000), objects.number(0xffff_8880_0000_2000));
        assert_eq!((a, b), (1, 2));
        assert_eq!(objects.number(0xffff_8880_0000_1000), 1);
        assert_eq!(objects.number(0), 0);
    }
}
