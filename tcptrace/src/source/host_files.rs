//! Reads files of the host that others may have written: only regular files, of a bounded size, and never waiting.

use std::{
    io::{self, Read as _},
    path::Path,
    time::{Duration, SystemTime},
};

use rustix::fs::{Mode, OFlags};

/// Most entries read of a folder.
const MAX_ENTRIES: usize = 1 << 16;
/// A file that changes again within one tick of the clock of its file system keeps its time.
const CLOCK_TICK: Duration = Duration::from_secs(1);

/// The content of a regular file of at most `max_bytes`.
pub(super) fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    // Opening a FIFO without a writer would wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > max_bytes {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut content = Vec::new();
    file.take(max_bytes).read_to_end(&mut content)?;
    Ok(content)
}

/// The names in a folder that are UTF-8.
pub(super) fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().take(MAX_ENTRIES);
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// When a file or folder was last read, to read it again only after a change.
#[derive(Debug, Default)]
pub(super) struct LastRead {
    modified: Option<SystemTime>,
    is_settled: bool,
}

impl LastRead {
    /// Whether `path` may have changed since the last call.
    pub(super) fn has_changed(&mut self, path: &Path) -> bool {
        let modified = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
        let age = modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        let is_settled = age.is_none_or(|age| age > CLOCK_TICK);
        let last = std::mem::replace(self, Self { modified, is_settled });
        last.modified != modified || !last.is_settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let folder = std::env::temp_dir().join(format!("tcptrace-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (file, fifo) = (folder.join("file"), folder.join("fifo"));
        std::fs::write(&file, "12345").expect("a file");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .expect("a FIFO");
        let read = |path: &Path, most| read(path, most).ok();
        let found = [read(&file, 5), read(&file, 4), read(&fifo, 5), read(&folder, 5)];
        let mut last = LastRead::default();
        let absent = folder.join("absent");
        let changes = [last.has_changed(&file), last.has_changed(&file), last.has_changed(&absent)];
        std::fs::remove_dir_all(&folder).expect("the test's own folder");
        assert_eq!(found, [Some(b"12345".to_vec()), None, None, None]);
        // It has just been written: it may change again without a newer time.
        assert_eq!(changes, [true, true, true]);
    }
}
