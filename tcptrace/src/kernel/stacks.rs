//! Reads captured user stacks from their ring and numbers them, so that the record of a call carries the number of its stack.
//!
//! A program submits a stack before it reads the clock for the record. So the stacks of all records up to a time can be read
//! once this time has passed.

use aya::maps::{MapData, RingBuf};
use hashbrown::HashMap;
use rustc_hash::FxHashMap;
use tcptrace_common::{
    record::{Kind, RawRecord, RawStack, flag, stack},
    state::TcpState,
};

use super::rings::{BufferHead, read_entry};

/// Stacks whose number is remembered. Beyond that all are numbered again.
const MAX_KNOWN: usize = 1 << 14;
/// Captures whose record was not read yet. Some never have one: their ring was full.
const MAX_UNJOINED: usize = 1 << 16;

/// A stack without a name so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedStack {
    /// Its number in the records of calls.
    pub number: u32,
    /// Process id.
    pub pid: u32,
    /// Words at the user stack pointer; all 0 if unknown.
    pub top: [u64; stack::TOP],
    /// The instruction pointer, then return addresses.
    pub frames: Vec<u64>,
}

/// Where a wrapper of a system call, which has no frame of its own, keeps its return address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerWord {
    /// Process id.
    pub pid: u32,
    /// The instruction pointer in the wrapper.
    pub instruction: u64,
    /// Index of the word above the stack pointer; `None` if it is not among those that are captured.
    pub word: Option<usize>,
}

/// Numbers stacks.
#[derive(Default)]
pub(super) struct StackNumbers {
    /// `arg0` of the record, by capture.
    unjoined: FxHashMap<u64, u64>,
    /// Randomly seeded: a process chooses its stack.
    known: HashMap<StackKey, u32>,
    callers: HashMap<(u32, u64), Option<usize>>,
    last: u32,
    new: Vec<CapturedStack>,
}

/// Identity of a stack. Until [`CallerWord`] is known, all words at the stack pointer belong to it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct StackKey {
    pid: u32,
    top: [u64; stack::TOP],
    frames: Box<[u64]>,
}

/// The ring of stacks.
pub(super) struct StackRing {
    ring: RingBuf<MapData>,
    numbers: StackNumbers,
}

impl StackRing {
    pub fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring, numbers: StackNumbers::default() }
    }

    /// Reads all stacks; returns false if an uncommitted one blocks those behind it.
    pub fn read(&mut self) -> bool {
        let Self { ring, numbers } = self;
        let mut add = |entry: &[u8]| {
            if let Ok(raw) = bytemuck::try_pod_read_unaligned(entry) {
                numbers.add(&raw);
            }
        };
        loop {
            match read_entry(ring, &mut add) {
                BufferHead::Entry(()) => {}
                BufferHead::Nothing => return true,
                BufferHead::Unfinished => return false,
            }
        }
    }

    pub const fn numbers(&mut self) -> &mut StackNumbers {
        &mut self.numbers
    }
}

impl StackNumbers {
    fn add(&mut self, raw: &RawStack) {
        let length = (raw.length as usize / size_of::<u64>()).min(stack::DEPTH);
        let frames = &raw.frames[..length];
        let Some(&instruction) = frames.first() else { return };
        let mut top = raw.top;
        if let Some(&place) = self.callers.get(&(raw.tgid, instruction)) {
            let caller = place.and_then(|word| top.get(word).copied());
            top = [0; stack::TOP];
            if let (Some(word), Some(caller)) = (place, caller) {
                top[word] = caller;
            }
        }
        let key = StackKey { pid: raw.tgid, top, frames: frames.into() };
        let number = match self.known.get(&key) {
            Some(&number) => number,
            None => self.number(key),
        };
        if self.unjoined.len() >= MAX_UNJOINED {
            self.unjoined.clear();
        }
        let sample = if raw.is_sample == 0 { 0 } else { stack::IS_SAMPLE };
        self.unjoined.insert(raw.capture, u64::from(number) | sample);
    }

    fn number(&mut self, key: StackKey) -> u32 {
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
            self.callers.clear();
        }
        self.last = self.last % (stack::IS_SAMPLE as u32 - 1) + 1;
        let frames = key.frames.to_vec();
        self.new.push(CapturedStack { number: self.last, pid: key.pid, top: key.top, frames });
        self.known.insert(key, self.last);
        self.last
    }

    /// Replaces the capture in the record of a call by the number of its stack.
    pub fn join(&mut self, raw: &mut RawRecord) {
        const OPENS_OR_CLOSES: [u8; 3] =
            [TcpState::SynSent as u8, TcpState::FinWait1 as u8, TcpState::LastAck as u8];
        let is_call = raw.kind == Kind::Accepted as u8
            || (raw.kind == Kind::Transition as u8 && OPENS_OR_CLOSES.contains(&raw.new));
        if is_call && raw.flags & flag::TASK != 0 && raw.arg0 != 0 {
            raw.arg0 = self.unjoined.remove(&raw.arg0).unwrap_or(0);
        }
    }

    /// Stacks that are new since the last call.
    pub fn take_new(&mut self) -> Vec<CapturedStack> {
        std::mem::take(&mut self.new)
    }

    /// From now on only this word belongs to the stack.
    pub fn set_caller(&mut self, caller: CallerWord) {
        if self.callers.len() < MAX_KNOWN {
            self.callers.insert((caller.pid, caller.instruction), caller.word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(capture: u64, top: u64, frames: &[u64]) -> RawStack {
        let mut raw = RawStack {
            capture,
            tgid: 7,
            is_sample: u32::from(capture == 9),
            length: size_of_val(frames) as u64,
            top: [5; stack::TOP],
            frames: [0; stack::DEPTH],
        };
        raw.top[1] = top;
        raw.frames[..frames.len()].copy_from_slice(frames);
        raw
    }

    fn joined(numbers: &mut StackNumbers, capture: u64) -> u64 {
        let mut record: RawRecord = bytemuck::Zeroable::zeroed();
        (record.kind, record.flags) = (Kind::Transition as u8, flag::TASK);
        (record.new, record.arg0) = (TcpState::FinWait1 as u8, capture);
        numbers.join(&mut record);
        record.arg0
    }

    #[test]
    fn equal_stacks_have_one_number() {
        let mut numbers = StackNumbers::default();
        for (capture, top, frames) in [(8, 1, [1, 2]), (9, 1, [1, 2]), (10, 1, [1, 3]), (11, 2, [1, 2])] {
            numbers.add(&raw(capture, top, &frames));
        }
        let found = [8, 9, 10, 11, 12].map(|capture| joined(&mut numbers, capture));
        assert_eq!(found, [1, 1 | stack::IS_SAMPLE, 2, 3, 0]);
        assert_eq!(numbers.take_new().iter().map(|new| new.number).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(numbers.unjoined.is_empty() && numbers.take_new().is_empty());
    }

    #[test]
    fn once_the_caller_is_known_other_words_do_not_count() {
        let mut numbers = StackNumbers::default();
        numbers.set_caller(CallerWord { pid: 7, instruction: 1, word: Some(1) });
        let mut other = raw(9, 4, &[1, 2]);
        other.top[0] = 99;
        numbers.add(&raw(8, 4, &[1, 2]));
        numbers.add(&other);
        numbers.add(&raw(10, 6, &[1, 2]));
        assert_eq!([8, 9, 10].map(|capture| joined(&mut numbers, capture) as u32 & 0xff), [1, 1, 2]);
        let new = numbers.take_new();
        assert_eq!((new[0].top[1], new[0].top[0], new[1].top[1]), (4, 0, 6));
    }

    #[test]
    fn a_length_beyond_the_entry_is_no_panic() {
        let mut numbers = StackNumbers::default();
        numbers.add(&RawStack { length: u64::MAX, ..raw(8, 1, &[1]) });
        assert_eq!(numbers.take_new()[0].frames.len(), stack::DEPTH);
    }
}
