//! Writes files that the user names: an output file is never one of the inputs, only its owner may read it, and
//! it gets its name when it is complete.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, IsTerminal as _},
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use rustix::{
    fs::{CWD, OFlags, RenameFlags, renameat_with},
    io::Errno,
};

/// The path that means standard input or output.
const STANDARD: &str = "-";
/// Only the owner may read which peers this host has.
const MODE: u32 = 0o600;

/// Whether an existing file may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Keep it, and fail.
    Keep,
    /// Replace it.
    Replace,
}

/// The output is one of the inputs.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the output is the same file as the input; name another one")]
pub struct SameFile;

/// A new file under a temporary name in the folder of its path. Removed if dropped before it gets its own name.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    temporary: Option<PathBuf>,
    path: PathBuf,
    existing: Existing,
}

impl OutputFile {
    /// Creates the file that is to be at `path`. Fails if it must not be there: `path` is one of `inputs`,
    /// exists and must be kept, or is no regular file.
    pub fn create(path: &Path, existing: Existing, inputs: &[&Path]) -> io::Result<Self> {
        check(path, existing, inputs)?;
        let (file, temporary) = create_temporary(folder(path))?;
        Ok(Self { file, temporary: Some(temporary), path: path.to_owned(), existing })
    }

    /// The file.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// The path that it has, or will get.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name now, before it is complete, so that others can read it while it grows.
    pub fn publish(&mut self) -> io::Result<()> {
        let Some(temporary) = &self.temporary else { return Ok(()) };
        match self.existing {
            Existing::Replace => fs::rename(temporary, &self.path)?,
            Existing::Keep => rename_new(temporary, &self.path)?,
        }
        self.temporary = None;
        Ok(())
    }

    /// Gives the file the name `path`, which must be free: nothing is replaced.
    pub fn publish_new(&mut self, path: &Path) -> io::Result<()> {
        path.clone_into(&mut self.path);
        self.existing = Existing::Keep;
        self.publish()
    }

    /// Syncs the complete file to disk, and gives it its name.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.publish()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // It may have been removed already.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Checks whether a file may be created at `path`, without creating it.
pub fn check(path: &Path, existing: Existing, inputs: &[&Path]) -> io::Result<()> {
    let refused = |kind, what: &str| Err(io::Error::new(kind, what));
    let there = path.metadata();
    if let Ok(there) = &there {
        refuse_inputs(there, inputs)?;
    }
    match there {
        Ok(there) if there.is_dir() => {
            refused(io::ErrorKind::IsADirectory, "this is a directory; name a file in it")
        }
        // Only regular files are replaced, never a device or a link to one.
        Ok(there) if !there.is_file() => {
            refused(io::ErrorKind::InvalidInput, "this is no regular file; -o - writes to standard output")
        }
        _ if existing == Existing::Keep && path.symlink_metadata().is_ok() => Err(exists()),
        _ => Ok(()),
    }
}

/// Standard output for binary data: fails on a terminal.
pub fn standard_output(inputs: &[&Path]) -> io::Result<File> {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "standard output is a terminal; send it to a file or another program",
        ));
    }
    refuse_as_standard_output(inputs)?;
    stdout.as_fd().try_clone_to_owned().map(File::from)
}

/// Fails if standard output is one of `inputs`: appended output would be read again.
pub fn refuse_as_standard_output(inputs: &[&Path]) -> io::Result<()> {
    // If it is closed, writing to it reports that.
    let Ok(stdout) = io::stdout().as_fd().try_clone_to_owned() else { return Ok(()) };
    refuse_inputs(&File::from(stdout).metadata()?, inputs)
}

/// Whether two paths name one file.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let [one, other] = [one, other].map(|path| path.metadata().map(|meta| (meta.dev(), meta.ino())));
    matches!((one, other), (Ok(one), Ok(other)) if one == other)
}

/// Fails if `output` is one of `inputs`, under any name.
fn refuse_inputs(output: &Metadata, inputs: &[&Path]) -> io::Result<()> {
    let is_output = |input: &&Path| {
        // If metadata can't be read, opening the input fails and reports why.
        let input = if *input == Path::new(STANDARD) {
            io::stdin().as_fd().try_clone_to_owned().map(File::from).and_then(|file| file.metadata())
        } else {
            input.metadata()
        };
        input.is_ok_and(|input| input.dev() == output.dev() && input.ino() == output.ino())
    };
    if output.is_file() && inputs.iter().any(is_output) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, SameFile));
    }
    Ok(())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates a file in `folder` under an unused name.
fn create_temporary(folder: &Path) -> io::Result<(File, PathBuf)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = NEXT.fetch_add(1, Relaxed);
        let path = folder.join(format!(".tcptrace-{}-{n}.tmp", std::process::id()));
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path);
        match opened {
            // Left by a killed process that had the same pid.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            opened => return Ok((opened?, path)),
        }
    }
}

/// Renames without replacing.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(exists()),
        // The file system does not support it: a hard link does not replace files either.
        Err(Errno::INVAL | Errno::NOSYS) => match fs::hard_link(from, to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(exists()),
            Err(error) => Err(error),
            Ok(()) => fs::remove_file(from),
        },
        Err(error) => Err(error.into()),
    }
}

fn exists() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "there is such a file already; --force replaces it")
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::fs::symlink};

    use tempfile::TempDir;

    use super::*;

    fn names(folder: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(folder.path()).expect("the folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into()).collect();
        names.sort_unstable();
        names
    }

    fn refusal(made: io::Result<OutputFile>) -> bool {
        made.err().and_then(io::Error::into_inner).is_some_and(|why| why.is::<SameFile>())
    }

    #[test]
    fn an_input_is_refused_under_any_name() {
        let folder = TempDir::new().expect("a folder");
        let at = |name| folder.path().join(name);
        fs::write(at("a"), "precious").expect("a file");
        symlink("a", at("link")).expect("a link");
        fs::hard_link(at("a"), at("hard")).expect("a link");
        for name in ["a", "link", "hard"] {
            let output = OutputFile::create(&at(name), Existing::Replace, &[&at("a")]);
            assert!(refusal(output), "{name}");
            let output = OutputFile::create(&at("a"), Existing::Replace, &[Path::new("other"), &at(name)]);
            assert!(refusal(output), "{name}");
        }
        assert_eq!(fs::read(at("a")).expect("the file"), b"precious");
        assert_eq!(names(&folder), ["a", "hard", "link"]);
    }

    #[test]
    fn a_complete_file_gets_its_name_and_replaces_nothing() {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("out");
        drop(OutputFile::create(&path, Existing::Keep, &[]).expect("a file"));
        assert!(names(&folder).is_empty(), "an unfinished file is removed");
        let first = OutputFile::create(&path, Existing::Keep, &[]).expect("a file");
        let second = OutputFile::create(&path, Existing::Keep, &[]).expect("a file");
        first.file().write_all(b"first").expect("a disk");
        assert!(!path.exists());
        first.finish().expect("its name");
        assert_eq!(path.metadata().expect("the file").mode() & 0o777, MODE);
        let late = second.finish().expect_err("the file exists by now");
        assert_eq!(late.kind(), io::ErrorKind::AlreadyExists);
        assert!(OutputFile::create(&path, Existing::Keep, &[]).is_err());
        assert_eq!(fs::read(&path).expect("the file"), b"first");
        assert_eq!(names(&folder), ["out"]);
    }

    #[test]
    fn a_replaced_file_is_kept_until_the_new_one_is_complete() {
        let folder = TempDir::new().expect("a folder");
        let at = |name| folder.path().join(name);
        fs::write(at("other"), "not mine").expect("a file");
        symlink("other", at("out")).expect("a link");
        let failed = OutputFile::create(&at("out"), Existing::Replace, &[]).expect("a file");
        failed.file().write_all(b"half").expect("a disk");
        drop(failed);
        assert_eq!(fs::read(at("out")).expect("the file"), b"not mine");
        let mut whole = OutputFile::create(&at("out"), Existing::Replace, &[]).expect("a file");
        whole.publish().expect("its name");
        whole.file().write_all(b"grows").expect("a disk");
        whole.finish().expect("a disk");
        assert_eq!(fs::read(at("out")).expect("the file"), b"grows");
        assert_eq!(fs::read(at("other")).expect("the file"), b"not mine", "a link is replaced, not followed");
        assert_eq!(names(&folder), ["other", "out"]);
    }

    #[test]
    fn directories_and_devices_are_never_replaced() {
        for there in ["/tmp", "/dev/null"] {
            assert!(OutputFile::create(Path::new(there), Existing::Replace, &[]).is_err(), "{there}");
        }
    }
}
