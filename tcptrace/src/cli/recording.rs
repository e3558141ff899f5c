//! Recording as the input of a command: opened with the user's privileges, read with none.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};

use super::progress::Progress;
use crate::{
    model::{Flow, Record, Source, text},
    output_file,
    pipeline::{Window, Windowed},
    sandbox,
    session::{AtEnd, Ending, Input, Reader},
};

/// How a recording ended; `None` until it has.
pub type SharedEnding = Arc<Mutex<Option<Ending>>>;

/// A recording as a source. The thread that creates it only opens the file; the thread that reads it drops every
/// capability and confines itself before it reads the first byte.
pub struct RecordingSource {
    name: String,
    at_end: AtEnd,
    length: Option<u64>,
    /// `None` once reading has begun.
    input: Option<Input>,
    /// The later files of the series.
    parts: VecDeque<(String, Input)>,
    /// Set when reading begins; `None` if the header can't be read.
    reader: Option<Reader>,
    ending: SharedEnding,
    progress: Option<Progress>,
}

impl RecordingSource {
    /// Opens the recording at `path`; refuses a file that is also standard output.
    pub fn open(path: &Path, at_end: AtEnd) -> Result<Self> {
        output_file::refuse_as_standard_output(&[path]).context("standard output")?;
        let name = shown(path);
        let input = Input::open(path).with_context(|| name.clone())?;
        Ok(Self::new(name, input, VecDeque::new(), at_end))
    }

    /// The recording in `input`, called `name`, continued by `parts`.
    pub fn new(name: String, input: Input, parts: VecDeque<(String, Input)>, at_end: AtEnd) -> Self {
        let length = parts.iter().fold(input.length(), |sum, (_, part)| Some(sum? + part.length()?));
        let ending = SharedEnding::default();
        Self { name, at_end, length, input: Some(input), parts, reader: None, ending, progress: None }
    }

    /// Its name, or that of its first file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a progress line.
    #[must_use]
    pub fn watched(self) -> Self {
        let progress = Progress::new(format!("reading {}", self.name), self.length);
        Self { progress: Some(progress), ..self }
    }

    /// Restricts the source to `window`, and files that overlap to one of them at a time.
    pub fn within(self, window: Window) -> Box<dyn Source> {
        if window.is_everything() && self.parts.is_empty() {
            return Box::new(self);
        }
        let name = self.name.clone();
        Box::new(Windowed::new(self, window, name))
    }

    /// Shared cell that receives the ending.
    pub fn ending(&self) -> SharedEnding {
        Arc::clone(&self.ending)
    }
}

impl Source for RecordingSource {
    fn fill(&mut self, take: &mut dyn FnMut(Record)) -> Result<Flow> {
        if let Some(input) = self.input.take() {
            let reader = Reader::confined(input, self.at_end, &sandbox::confine());
            let reader = reader.with_context(|| self.name.clone())?.report_ending_to(&self.ending);
            let parts = std::mem::take(&mut self.parts);
            self.reader =
                Some(if parts.is_empty() { reader } else { reader.followed_by(self.name.clone(), parts) });
        }
        let Some(reader) = &mut self.reader else { return Ok(Flow::Ended) };
        let flow = reader.fill(take).with_context(|| self.name.clone())?;
        if let Some(progress) = &mut self.progress {
            progress.at(reader.position());
        }
        Ok(flow)
    }
}

/// Returns the ending, if the recording has ended.
pub fn ended(ending: &SharedEnding) -> Option<Ending> {
    *ending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A path, sanitised for display.
pub fn shown(path: &Path) -> String {
    if path == Path::new("-") {
        "standard input".into()
    } else {
        text::sanitise(&path.to_string_lossy()).into()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::privileges::{self, Work};

    const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/session-v1.tcptrace");

    #[test]
    fn reader_is_confined_before_the_first_byte() {
        let mut source = RecordingSource::open(FIXTURE.as_ref(), AtEnd::Stop).expect("a recording");
        let read = move || {
            let mut records = 0;
            let opens = || File::open(FIXTURE).is_ok();
            let mut open_after_first = None;
            while source
                .fill(&mut |_| {
                    open_after_first.get_or_insert_with(opens);
                    records += 1;
                })
                .expect("a recording")
                == Flow::Running
            {}
            let may = privileges::may_inspect_processes();
            (records, open_after_first, may)
        };
        let thread = privileges::spawn("test", Work::Command, read).expect("a thread");
        let (records, opens, may) = thread.join().expect("no panic");
        assert!(records > 500 && !may);
        let probe = privileges::spawn("test", Work::Nothing, || sandbox::confine().is_closed);
        if probe.expect("a thread").join().expect("no panic") {
            assert_eq!(opens, Some(false), "the reader can still open files");
        }
        assert!(File::open(FIXTURE).is_ok(), "this thread must not be confined");
    }

    #[test]
    fn an_error_names_the_recording_once() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("not.tcptrace");
        std::fs::write(&path, "something else").expect("a file");
        let mut source = RecordingSource::open(&path, AtEnd::Stop).expect("it opens");
        let thread = privileges::spawn("test", Work::Nothing, move || source.fill(&mut drop).map(drop));
        let error = thread.expect("a thread").join().expect("no panic").expect_err("no recording");
        let message = format!("{error:#}");
        assert!(
            message.starts_with(&shown(&path)) && message.matches("not.tcptrace").count() == 1,
            "{message}"
        );
    }
}
