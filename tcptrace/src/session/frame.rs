//! Bytes in, messages of an Arrow IPC stream out: cut to size, bounded, and nothing in them believed yet.

use std::io::{self, Read};

use arrow_ipc::{Message, root_as_message};

use super::{
    message::CONTINUATION,
    reader::{Damage, ReadError},
};

/// The longest description of a message: the schema, with the settings of the host in it.
const MOST_META_BYTES: usize = 1 << 20;
/// The longest body: some times what a full batch takes.
const MOST_BODY_BYTES: usize = 64 << 20;
/// Continuation and length.
const PREFIX: usize = 8;

/// The messages of a stream that may still be growing.
pub struct Frames<R> {
    input: R,
    buffer: Vec<u8>,
    /// Where the next message begins in `buffer`.
    begin: usize,
    /// Bytes of the stream before `buffer`.
    before: u64,
    /// The end has not been reached: more may come later.
    has_paused: bool,
}

/// What comes next.
pub enum Next<'a> {
    /// A message and its body.
    Message(Message<'a>, &'a [u8]),
    /// The end mark.
    End,
    /// Nothing more for now; so many bytes of a message are there.
    Torn(usize),
}

impl<R: Read> Frames<R> {
    /// Begins where `input` is.
    pub const fn new(input: R) -> Self {
        Self::at(input, 0)
    }

    /// Begins where `input` is: before the byte `position` of the stream, between two messages.
    pub const fn at(input: R, position: u64) -> Self {
        Self { input, buffer: Vec::new(), begin: 0, before: position, has_paused: false }
    }

    /// Bytes of whole messages so far.
    pub const fn position(&self) -> u64 {
        self.before + self.begin as u64
    }

    /// The next message. Can be asked again after [`Next::Torn`].
    pub fn next(&mut self) -> Result<Next<'_>, ReadError> {
        let at = self.position();
        let damaged = |what| ReadError::Damaged(Damage { at, what });
        self.drop_consumed();
        if !self.has(PREFIX)? {
            return Ok(Next::Torn(self.buffer.len()));
        }
        let (continuation, length) = self.buffer[..PREFIX].split_at(CONTINUATION.len());
        if continuation != CONTINUATION {
            return Err(damaged("no message begins here"));
        }
        let length = usize::try_from(i32::from_le_bytes(length.try_into().unwrap_or_default()))
            .map_err(|_| damaged("a negative length"))?;
        if length == 0 {
            self.begin = PREFIX;
            return Ok(Next::End);
        }
        if length > MOST_META_BYTES {
            return Err(damaged("a message longer than any"));
        }
        if !self.has(PREFIX + length)? {
            return Ok(Next::Torn(self.buffer.len()));
        }
        let body_length = parse(&self.buffer[PREFIX..PREFIX + length])
            .map(|message| message.bodyLength())
            .ok_or(damaged("a message that can't be made out"))?;
        let body_length = usize::try_from(body_length)
            .ok()
            .filter(|&length| length <= MOST_BODY_BYTES)
            .ok_or(damaged("a batch longer than any"))?;
        if !self.has(PREFIX + length + body_length)? {
            return Ok(Next::Torn(self.buffer.len()));
        }
        self.begin = PREFIX + length + body_length;
        let (meta, body) = self.buffer[PREFIX..self.begin].split_at(length);
        let message = parse(meta).ok_or(damaged("a message that can't be made out"))?;
        Ok(Next::Message(message, body))
    }

    /// After [`Next::Torn`]: whether this is no end, only that nothing came for a while.
    pub const fn has_paused(&self) -> bool {
        self.has_paused
    }

    /// Whether what is there could be the beginning of a message.
    pub fn looks_right(&self) -> bool {
        self.buffer.iter().zip(&CONTINUATION).all(|(byte, wanted)| byte == wanted)
    }

    fn drop_consumed(&mut self) {
        self.buffer.drain(..self.begin);
        self.before += self.begin as u64;
        self.begin = 0;
    }

    /// Reads until `wanted` bytes are there; whether they are.
    fn has(&mut self, wanted: usize) -> Result<bool, ReadError> {
        let missing = wanted.saturating_sub(self.buffer.len());
        // Grows with what is there, not with what is missing, and gives up at the end.
        let read = self.input.by_ref().take(missing as u64).read_to_end(&mut self.buffer);
        self.has_paused = matches!(&read, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        if !self.has_paused {
            read?;
        }
        Ok(self.buffer.len() >= wanted)
    }
}

fn parse(meta: &[u8]) -> Option<Message<'_>> {
    root_as_message(meta).ok()
}
