//! What a file has already said about a socket or a task, kept alike by the writer and the reader: rows name
//! both by numbers, and leave out what was said before.

use rustc_hash::FxHashMap;
use tcptrace_common::record as raw;

use crate::model::Addr;

/// Sockets with a number at once. The writer begins anew when it has none left; a reader takes no higher one.
pub const MOST_SOCKETS: usize = 1 << 19;
/// The same for tasks.
pub const MOST_TASKS: usize = 1 << 16;
/// Kernel objects with a number at once.
const MOST_OBJECTS: usize = 1 << 20;

/// The part of a hook's row that is left out while it stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
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
    /// Of a request socket: the listener's cookie.
    pub listener: u64,
}

impl Default for Said {
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

/// The writer's side: which number a socket has, and what was said of it.
#[derive(Debug, Default)]
pub struct Numbers {
    by_key: FxHashMap<u64, u32>,
    said: Vec<Said>,
    used: Vec<Use>,
    /// Where to look for the next free number. Numbers are used in turn: those of sockets that live at the
    /// same time, and end in the order in which they began, are close together, and compress well.
    next: usize,
    /// Free from the next batch on: what a batch says of numbers stands before its other rows.
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
    /// Nothing has been said about this socket yet.
    pub is_new: bool,
}

impl Numbers {
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
        // Not for ever: a batch ends before all are taken.
        while self.used.get(self.next) == Some(&Use::Taken) {
            self.next = (self.next + 1) % MOST_SOCKETS;
        }
        let number = self.next;
        if number == self.used.len() {
            self.used.push(Use::Taken);
            self.said.push(Said::default());
        } else {
            self.used[number] = Use::Taken;
        }
        self.next = (number + 1) % MOST_SOCKETS;
        number as u32
    }

    /// What was said of the socket `number`.
    pub fn said(&mut self, number: u32) -> &mut Said {
        &mut self.said[number as usize]
    }

    /// The socket with `key` is gone: its number is free, from the next batch on.
    pub fn release(&mut self, key: u64) {
        self.released.extend(self.by_key.remove(&key));
    }

    /// Whether there are no more numbers in this batch.
    pub fn is_full(&self) -> bool {
        self.by_key.len() + self.released.len() >= MOST_SOCKETS - 1
    }

    /// A batch is complete.
    pub fn end_batch(&mut self) {
        for number in self.released.drain(..) {
            self.used[number as usize] = Use::Free;
        }
        // Few numbers left would make for small batches, and for a long search.
        if self.by_key.len() >= MOST_SOCKETS / 8 * 7 {
            self.forget();
        }
    }

    /// Everything is said anew from here on.
    pub fn forget(&mut self) {
        self.by_key.clear();
        self.said.clear();
        self.used.clear();
        self.next = 0;
        self.released.clear();
    }
}

/// The numbers of tasks: a thread with another name is another one.
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

    /// Whether there are no more numbers in this batch.
    pub fn is_full(&self) -> bool {
        self.numbers.len() >= MOST_TASKS
    }

    /// Everything is said anew from here on.
    pub fn forget(&mut self) {
        self.numbers.clear();
    }
}

/// Kernel addresses are no one's business: each gets a number when it is first seen.
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
        if self.numbers.len() >= MOST_OBJECTS {
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
    fn a_number_is_used_again_when_its_socket_is_gone() {
        let mut numbers = Numbers::default();
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
