//! Names the frames of captured user stacks on a thread of its own, while their process lives.
//!
//! Without frame pointers a walk over the stack finds nothing, or garbage: a frame is kept only if it is an address after a call.
//! A wrapper of a system call in the C library has no frame of its own, so the walk skips its caller; the call frame
//! information of the library tells where its return address is.

mod process_code;
mod symbols;
mod unwind;

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, mpsc::SyncSender},
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

use super::{
    host,
    poller::{Poller, PollerEnded, PollerThread},
    process_facts,
};
use crate::{
    kernel::{CallerWord, CapturedStack},
    model::{
        Record,
        stack::{MAX_FRAMES, UserStack},
    },
    privileges::CpuTimer,
};
use process_code::{FileId, ProcessCode};

/// Stacks that wait; more stay without names.
const MAX_WAITING: usize = 1 << 12;
/// Places of callers remembered.
const MAX_PLACES: usize = 1 << 12;
/// Bytes of the names of one stack.
const MAX_BYTES: usize = 48 << 10;
/// CPU time without a pause, and the share of one CPU beyond.
const BURST: Duration = Duration::from_secs(5);
const SHARE: u32 = 4;

/// A message to the thread.
pub(super) enum StackRequest {
    /// Name this stack.
    Name(Box<CapturedStack>),
    /// End once all are named.
    Last,
}

/// What it found about a stack.
pub(super) struct StackFinding {
    /// Its frames.
    pub record: Record,
    /// Where its wrapper keeps the return address, if it is new.
    pub caller: Option<CallerWord>,
}

/// Names stacks.
pub(super) struct StackNamer {
    waiting: VecDeque<StackRequest>,
    sees_all_pids: bool,
    /// By file and offset of the instruction: the word above the stack pointer.
    places: FxHashMap<(FileId, u64), Option<usize>>,
    spent: Duration,
    polled: Instant,
    findings: SyncSender<StackFinding>,
}

impl StackNamer {
    /// Starts the thread.
    pub fn start() -> io::Result<PollerThread<Self>> {
        PollerThread::start(|findings| Self {
            waiting: VecDeque::new(),
            sees_all_pids: process_facts::sees_all_pids(),
            places: FxHashMap::default(),
            spent: Duration::ZERO,
            polled: Instant::now(),
            findings,
        })
    }

    fn name(&mut self, captured: &CapturedStack) -> (UserStack, Option<CallerWord>) {
        let code = self.sees_all_pids.then(|| ProcessCode::read(captured.pid)).flatten();
        let (Some(code), Some((&instruction, returns))) = (code, captured.frames.split_first()) else {
            return (UserStack::default(), None);
        };
        let valid = returns.iter().take_while(|&&address| code.is_after_call(address)).count();
        let is_cut = valid < returns.len() || returns.is_empty();
        let word = self.caller_word(&code, instruction);
        let caller = word.and_then(|word| captured.top.get(word).copied());
        let caller = caller.filter(|&caller| returns.first() != Some(&caller) && code.is_after_call(caller));
        let mut addresses = vec![instruction];
        // The instruction before a return address is that of the call.
        addresses.extend(caller.iter().chain(&returns[..valid]).map(|address| address - 1));
        let mut frames = symbols::frames(&code, &addresses);
        let mut bytes = 0;
        let fit = frames.iter().take_while(|frame| {
            bytes += frame.function.len() + frame.file.len() + frame.module.len() + 100;
            bytes <= MAX_BYTES
        });
        let most = fit.count().min(MAX_FRAMES);
        frames.truncate(most);
        (UserStack { frames, is_cut }, Some(CallerWord { pid: captured.pid, instruction, word }))
    }

    fn caller_word(&mut self, code: &ProcessCode, instruction: u64) -> Option<usize> {
        let place = code.file_offset(instruction)?;
        if let Some(&known) = self.places.get(&place) {
            return known;
        }
        let word = code.open(instruction).and_then(|file| unwind::caller_word(&file, place.1));
        if self.places.len() >= MAX_PLACES {
            self.places.clear();
        }
        self.places.insert(place, word);
        word
    }
}

impl Poller for StackNamer {
    const NAME: &'static str = "stacks";
    const REQUESTS: usize = 256;
    type Request = StackRequest;
    type Finding = StackFinding;

    fn due(&self) -> Option<Instant> {
        // At the end the user waits.
        let is_last = matches!(self.waiting.back(), Some(StackRequest::Last));
        let excess = if is_last { Duration::ZERO } else { self.spent.saturating_sub(BURST) };
        (!self.waiting.is_empty()).then(|| self.polled + excess * SHARE)
    }

    fn request(&mut self, request: StackRequest) {
        if self.waiting.len() < MAX_WAITING || matches!(request, StackRequest::Last) {
            self.waiting.push_back(request);
        }
    }

    fn poll(&mut self) -> Result<(), PollerEnded> {
        let now = Instant::now();
        self.spent = self.spent.saturating_sub(now.duration_since(self.polled) / SHARE);
        self.polled = now;
        let captured = match self.waiting.pop_front() {
            None => return Ok(()),
            Some(StackRequest::Last) => return Err(PollerEnded),
            Some(StackRequest::Name(captured)) => captured,
        };
        let began = CpuTimer::start();
        let (stack, caller) = self.name(&captured);
        self.spent += began.elapsed();
        let ts = host::monotonic_now();
        let record = Record::Stack { ts, number: captured.number, stack: Arc::new(stack) };
        Ok(self.findings.send(StackFinding { record, caller })?)
    }
}
