//! Splits untrusted bytes into the messages of an Arrow IPC stream, with bounds on every length.

use std::io::{self, Read};

use polars_arrow_format::ipc::{MessageRef, planus::ReadAsRoot as _};

use super::{
    ending::{Damage, ReadError},
    message::CONTINUATION,
};

/// Largest metadata of a message: the schema, which includes the host's settings.
const MAX_META_BYTES: usize = 1 << 20;
/// Largest body: a few times the size of a full batch.
const MAX_BODY_BYTES: usize = 64 << 20;
/// Continuation marker and length.
const PREFIX: usize = 8;

/// The messages of a stream that may still be growing.
pub struct Frames<R> {
    input: R,
    buffer: Vec<u8>,
    /// Start of the next message in `buffer`.
    begin: usize,
    /// Bytes of the stream before `buffer`.
    before: u64,
    /// The input had nothing to read, but has not ended: more may come later.
    has_paused: bool,
}

/// The next element of the stream.
pub enum NextFrame<'a> {
    /// A message and its body.
    Message(MessageRef<'a>, &'a [u8]),
    /// The end mark.
    End,
    /// No complete message yet; this many bytes of it are available.
    Torn(usize),
}

impl<R: Read> Frames<R> {
    /// Starts at the current position of `input`.
    pub const fn new(input: R) -> Self {
        Self::at(input, 0)
    }

    /// Starts at the current position of `input`, which is byte `position` of the stream, between two messages.
    pub const fn at(input: R, position: u64) -> Self {
        Self { input, buffer: Vec::new(), begin: 0, before: position, has_paused: false }
    }

    /// Bytes of complete messages so far.
    pub const fn position(&self) -> u64 {
        self.before + self.begin as u64
    }

    /// The next message. May be called again after [`NextFrame::Torn`].
    pub fn next(&mut self) -> Result<NextFrame<'_>, ReadError> {
        let at = self.position();
        let damaged = |what| ReadError::Damaged(Damage { at, what });
        self.drop_consumed();
        if !self.has(PREFIX)? {
            return Ok(NextFrame::Torn(self.buffer.len()));
        }
        let (continuation, length) = self.buffer[..PREFIX].split_at(CONTINUATION.len());
        if continuation != CONTINUATION {
            return Err(damaged("no message begins here"));
        }
        let length = usize::try_from(i32::from_le_bytes(length.try_into().unwrap_or_default()))
            .map_err(|_| damaged("a negative length"))?;
        if length == 0 {
            self.begin = PREFIX;
            return Ok(NextFrame::End);
        }
        if length > MAX_META_BYTES {
            return Err(damaged("a message longer than any"));
        }
        if !self.has(PREFIX + length)? {
            return Ok(NextFrame::Torn(self.buffer.len()));
        }
        let body_length = parse(&self.buffer[PREFIX..PREFIX + length])
            .and_then(|message| message.body_length().ok())
            .ok_or(damaged("a message that can't be made out"))?;
        let body_length = usize::try_from(body_length)
            .ok()
            .filter(|&length| length <= MAX_BODY_BYTES)
            .ok_or(damaged("a batch longer than any"))?;
        if !self.has(PREFIX + length + body_length)? {
            return Ok(NextFrame::Torn(self.buffer.len()));
        }
        self.begin = PREFIX + length + body_length;
        let (meta, body) = self.buffer[PREFIX..self.begin].split_at(length);
        let message = parse(meta).ok_or(damaged("a message that can't be made out"))?;
        Ok(NextFrame::Message(message, body))
    }

    /// Skips available bytes; at the end of the stream, returns its length.
    pub fn discard(&mut self) -> io::Result<Option<u64>> {
        const AT_ONCE: usize = 64 << 10;
        self.begin = self.buffer.len();
        self.drop_consumed();
        let has_more = self.has(AT_ONCE)?;
        self.begin = self.buffer.len();
        Ok((!has_more && !self.has_paused).then(|| self.position()))
    }

    /// After [`NextFrame::Torn`]: whether the input only paused instead of ending.
    pub const fn has_paused(&self) -> bool {
        self.has_paused
    }

    /// Whether the available bytes could be the beginning of a message.
    pub fn may_be_message(&self) -> bool {
        self.buffer.iter().zip(&CONTINUATION).all(|(byte, wanted)| byte == wanted)
    }

    fn drop_consumed(&mut self) {
        self.buffer.drain(..self.begin);
        self.before += self.begin as u64;
        self.begin = 0;
    }

    /// Reads until `wanted` bytes are available; returns whether they are.
    fn has(&mut self, wanted: usize) -> io::Result<bool> {
        let missing = wanted.saturating_sub(self.buffer.len());
        // The buffer grows with the bytes available, not with the bytes missing; reading stops at the end.
        let read = self.input.by_ref().take(missing as u64).read_to_end(&mut self.buffer);
        self.has_paused = matches!(&read, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        if !self.has_paused {
            read?;
        }
        Ok(self.buffer.len() >= wanted)
    }
}

fn parse(meta: &[u8]) -> Option<MessageRef<'_>> {
    MessageRef::read_as_root(meta).ok()
}
