//! Writes the pieces of a recording to one file, or to a series of files of which it keeps the newest.

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::series::Series;
use crate::session::written::{Keep, Rotate, WriteError, Written, unwritten};
use crate::{
    model::Nanos,
    output_file::{self, Existing, OutputFile},
    session::message::END,
};

/// The path that means standard output.
const STDOUT: &str = "-";

/// The files of a recording.
pub struct Files {
    /// The current file, or the first one to be written.
    path: PathBuf,
    /// Base name of the series.
    base: PathBuf,
    keep: Keep,
    series: Option<Series>,
    made: usize,
    /// The first file, until it begins.
    opened: Option<FileSink>,
    file: Option<FileSink>,
    bytes: u64,
    bytes_before: u64,
    records: u64,
    began: Nanos,
    until: Nanos,
}

/// Destination of the bytes.
enum FileSink {
    /// Standard output: written bytes can't be truncated again.
    Stream(File),
    /// A file that has its name from its first bytes on: others read it while it grows.
    File(OutputFile),
}

impl FileSink {
    fn file(&self) -> &File {
        match self {
            Self::Stream(file) => file,
            Self::File(file) => file.file(),
        }
    }

    /// Fails if the file was unlinked: writes would still succeed, and be lost.
    fn check_linked(&self) -> io::Result<()> {
        match self {
            Self::File(file) if file.file().metadata()?.nlink() == 0 => {
                Err(io::Error::new(io::ErrorKind::NotFound, "the file was removed while it was written"))
            }
            _ => Ok(()),
        }
    }
}

impl Files {
    pub(super) fn open(path: &Path, keep: Keep, existing: Existing) -> Result<Self, WriteError> {
        let series = (keep != Keep::All).then(|| Series::of(path));
        let opened = if series.is_none() && path == Path::new(STDOUT) {
            output_file::standard_output(&[]).map(FileSink::Stream)
        } else {
            // A series only uses free names.
            let existing = if series.is_some() { Existing::Replace } else { existing };
            OutputFile::create(path, existing, &[]).map(FileSink::File)
        };
        Ok(Self {
            path: path.to_owned(),
            base: path.to_owned(),
            keep,
            series,
            made: 0,
            opened: Some(opened.map_err(unwritten(path))?),
            file: None,
            bytes: 0,
            bytes_before: 0,
            records: 0,
            began: Nanos(0),
            until: Nanos(0),
        })
    }

    /// Begins a file. If that fails, the previous file is closed and stays the last.
    pub(super) fn begin(&mut self, header: &[u8], ts: Nanos) -> Result<(), WriteError> {
        self.close()?;
        let mut next = match self.opened.take() {
            Some(opened) => opened,
            None => OutputFile::create(&self.base, Existing::Replace, &[])
                .map(FileSink::File)
                .map_err(unwritten(&self.base))?,
        };
        next.file().write_all(header).map_err(unwritten(&self.base))?;
        self.path = self.publish(&mut next).map_err(unwritten(&self.base))?;
        self.bytes_before += self.bytes;
        (self.file, self.bytes, self.records) = (Some(next), header.len() as u64, 0);
        (self.began, self.until) = (ts, ts);
        self.made += 1;
        if let (Some(series), Keep::Series { files: Some(most), .. }) = (&mut self.series, self.keep) {
            series.prune(most);
        }
        Ok(())
    }

    fn publish(&mut self, next: &mut FileSink) -> io::Result<PathBuf> {
        match (next, &mut self.series) {
            (FileSink::File(file), Some(series)) => return series.publish(file),
            (FileSink::File(file), None) => file.publish()?,
            (FileSink::Stream(_), _) => {}
        }
        Ok(self.base.clone())
    }

    pub(super) fn append(
        &mut self,
        batches: &[u8],
        records: u64,
        began: Nanos,
        ts: Nanos,
    ) -> Result<(), WriteError> {
        self.write(batches)?;
        self.records += records;
        self.began = if self.began == Nanos(0) { began } else { self.began };
        self.until = ts;
        Ok(())
    }

    /// Writes all of `batches`, or nothing: a batch that a full disk cut off is truncated.
    pub(super) fn write(&mut self, batches: &[u8]) -> Result<(), WriteError> {
        let Some(sink) = &self.file else { return Ok(()) };
        let mut file = sink.file();
        let Err(why) = file.write_all(batches).and_then(|()| sink.check_linked()) else {
            self.bytes += batches.len() as u64;
            return Ok(());
        };
        if matches!(sink, FileSink::File(_)) {
            let taken_back = file.set_len(self.bytes).and_then(|()| file.seek(io::SeekFrom::End(0)));
            if taken_back.is_ok() {
                // The end mark usually fits where the torn batch was; a reader does not require it.
                let _ = file.write_all(&END);
            }
        }
        Err(WriteError { path: self.path.clone(), why })
    }

    pub(super) fn is_full(&self, now: Nanos) -> bool {
        match self.keep {
            Keep::Series { rotate: Rotate::Size(size), .. } => self.bytes >= size,
            Keep::Series { rotate: Rotate::Time(length), .. } => {
                self.began != Nanos(0) && now.since(self.began) >= length
            }
            Keep::All | Keep::Last(_) | Keep::Incidents { .. } => false,
        }
    }

    pub(super) fn close(&mut self) -> Result<(), WriteError> {
        self.write(&END)?;
        match &self.file {
            Some(FileSink::File(file)) => file.file().sync_data().map_err(unwritten(&self.path)),
            Some(FileSink::Stream(_)) | None => Ok(()),
        }
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes_before + self.bytes
    }

    pub(super) fn current(&self) -> &Path {
        &self.path
    }

    pub(super) fn written(&self) -> Written {
        Written {
            path: self.path.clone(),
            files: self.made,
            records: self.records,
            left_out: 0,
            bytes: self.bytes,
            span: self.until.since(self.began),
        }
    }
}
