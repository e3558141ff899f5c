//! Writes stacks as a profile in the format of pprof (`profile.proto`), not compressed.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use super::listed::{StackSubject, comm, counted, name, traced};
use crate::{
    aggregate::Snapshot,
    model::{stack::StackFrame, text::sanitise},
    view::clock,
};

/// Fields of the messages.
mod field {
    pub const SAMPLE_TYPE: u64 = 1;
    pub const SAMPLE: u64 = 2;
    pub const LOCATION: u64 = 4;
    pub const FUNCTION: u64 = 5;
    pub const STRING: u64 = 6;
    pub const TIME_NANOS: u64 = 9;
    pub const DURATION_NANOS: u64 = 10;
    pub const SAMPLE_LOCATIONS: u64 = 1;
    pub const SAMPLE_VALUES: u64 = 2;
    pub const SAMPLE_LABEL: u64 = 3;
    pub const LOCATION_LINE: u64 = 4;
    pub const FUNCTION_FILE: u64 = 4;
}

pub(super) fn write(out: &mut impl Write, snapshot: &Snapshot, on: StackSubject) -> io::Result<()> {
    let mut profile = Profile::default();
    // The string with the number 0 is empty.
    profile.string("");
    let what = match on {
        StackSubject::Close => "closes",
        StackSubject::Connect => "connects",
        StackSubject::Accept => "accepts",
        StackSubject::Leak => "sockets",
    };
    let of_type = ProtoMessage::default().number(1, profile.string(what)).number(2, profile.string("count"));
    profile.add(field::SAMPLE_TYPE, &of_type);
    for counted in counted(snapshot, on) {
        let frames = counted.stack.map(|stack| stack.frames.as_slice()).unwrap_or_default();
        let unknown = [StackFrame::default()];
        let frames = if frames.is_empty() { &unknown } else { frames };
        let locations: Vec<u64> = frames.iter().map(|frame| profile.location(frame)).collect();
        let (key, value) = (profile.string("process"), profile.string(&comm(counted.process)));
        let label = ProtoMessage::default().number(1, key).number(2, value);
        let sample = ProtoMessage::default()
            .numbers(field::SAMPLE_LOCATIONS, &locations)
            .numbers(field::SAMPLE_VALUES, &[counted.count])
            .message(field::SAMPLE_LABEL, &label);
        profile.add(field::SAMPLE, &sample);
    }
    let began = clock::wall(&snapshot.host, snapshot.began).as_nanosecond();
    let message = profile
        .message
        .number(field::TIME_NANOS, u64::try_from(began).unwrap_or(0))
        .number(field::DURATION_NANOS, traced(snapshot).0);
    out.write_all(&message.0)
}

/// A profile; its strings, functions and locations are written when they are first used.
#[derive(Default)]
struct Profile {
    message: ProtoMessage,
    strings: HashMap<String, u64>,
    /// By function, file and line.
    locations: HashMap<(u64, u64, u32), u64>,
    functions: HashMap<(u64, u64), u64>,
}

impl Profile {
    fn add(&mut self, field: u64, message: &ProtoMessage) {
        self.message = std::mem::take(&mut self.message).message(field, message);
    }

    fn string(&mut self, text: &str) -> u64 {
        if let Some(&known) = self.strings.get(text) {
            return known;
        }
        let number = self.strings.len() as u64;
        self.strings.insert(text.to_owned(), number);
        self.message = std::mem::take(&mut self.message).bytes(field::STRING, text.as_bytes());
        number
    }

    fn location(&mut self, frame: &StackFrame) -> u64 {
        let function = (self.string(&name(frame)), self.string(&sanitise(&frame.file)));
        let function_id = self.function(function);
        let number = self.locations.len() as u64 + 1;
        let key = (function.0, function.1, frame.line);
        if let Some(&known) = self.locations.get(&key) {
            return known;
        }
        self.locations.insert(key, number);
        let line = ProtoMessage::default().number(1, function_id).number(2, frame.line.into());
        self.add(
            field::LOCATION,
            &ProtoMessage::default().number(1, number).message(field::LOCATION_LINE, &line),
        );
        number
    }

    fn function(&mut self, (name, file): (u64, u64)) -> u64 {
        if let Some(&known) = self.functions.get(&(name, file)) {
            return known;
        }
        let number = self.functions.len() as u64 + 1;
        self.functions.insert((name, file), number);
        let function = ProtoMessage::default()
            .number(1, number)
            .number(2, name)
            .number(3, name)
            .number(field::FUNCTION_FILE, file);
        self.add(field::FUNCTION, &function);
        number
    }
}

/// A message of protocol buffers.
#[derive(Default)]
struct ProtoMessage(Vec<u8>);

impl ProtoMessage {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn number(mut self, field: u64, number: u64) -> Self {
        self.varint(field << 3);
        self.varint(number);
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn message(self, field: u64, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }

    fn numbers(self, field: u64, numbers: &[u64]) -> Self {
        let mut packed = Self::default();
        for &number in numbers {
            packed.varint(number);
        }
        self.bytes(field, &packed.0)
    }
}
