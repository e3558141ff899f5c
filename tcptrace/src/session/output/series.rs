//! Numbers the files of a series; continues after the highest number in the folder.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
};

use crate::output_file::OutputFile;

/// Inserts the number into the name: `recording.tcptrace` and 3 give `recording-0003.tcptrace`.
pub fn numbered(path: &Path, n: u64) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = match path.extension() {
        Some(extension) => format!("{stem}-{n:04}.{}", extension.to_string_lossy()),
        None => format!("{stem}-{n:04}"),
    };
    path.with_file_name(name)
}

/// The numbered files of a path.
pub struct Series {
    path: PathBuf,
    /// The last number used.
    last: u64,
    /// The files that exist, by number.
    files: VecDeque<PathBuf>,
}

impl Series {
    /// Lists the existing files of the series of `path`.
    pub fn of(path: &Path) -> Self {
        let mut numbers = numbers(path);
        numbers.sort_unstable();
        let files = numbers.iter().map(|&n| numbered(path, n)).collect();
        Self { path: path.to_owned(), last: numbers.last().copied().unwrap_or(0), files }
    }

    /// Gives `file` the next name. Skips a name that another process has taken meanwhile: files of a series are
    /// never replaced.
    pub fn publish(&mut self, file: &mut OutputFile) -> io::Result<PathBuf> {
        loop {
            self.last = self
                .last
                .checked_add(1)
                .ok_or_else(|| io::Error::other("the number of the last file is the highest there can be"))?;
            let path = numbered(&self.path, self.last);
            match file.publish_new(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                published => {
                    published?;
                    self.files.push_back(path.clone());
                    return Ok(path);
                }
            }
        }
    }

    /// Removes the oldest files until no more than `most` are left.
    pub fn prune(&mut self, most: usize) {
        while self.files.len() > most.max(1) {
            self.remove_oldest();
        }
    }

    /// Removes the oldest files until the others have no more than `most` bytes; the newest stays.
    pub fn prune_bytes(&mut self, most: u64) {
        let bytes = |file: &PathBuf| file.symlink_metadata().map_or(0, |file| file.len());
        let mut sum: u64 = self.files.iter().map(bytes).sum();
        while sum > most && self.files.len() > 1 {
            sum -= self.files.front().map_or(0, bytes);
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        if let Some(oldest) = self.files.pop_front()
            && oldest.symlink_metadata().is_ok_and(|oldest| oldest.is_file())
        {
            // It may have been removed already.
            let _ = std::fs::remove_file(oldest);
        }
    }
}

/// The numbers of the existing files; none if the folder can't be listed, because `publish` skips names in use.
fn numbers(path: &Path) -> Vec<u64> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    let number = |name: &Path| {
        let digits = name.file_stem()?.to_str()?.rsplit_once('-')?.1;
        let n = digits.parse().ok()?;
        // Other numbers (`-1`, `-00001`) do not belong to this series.
        (numbered(path, n).file_name() == Some(name.as_os_str())).then_some(n)
    };
    entries.filter_map(|entry| number(Path::new(&entry.ok()?.file_name()))).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::output_file::Existing;

    #[test]
    fn a_series_continues_after_the_highest_number() {
        let folder = TempDir::new().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["a-0002.tcpt", "a-0009.tcpt", "a-12345.tcpt"] {
            fs::write(at(name), "a recording").expect("a file");
        }
        for other in
            ["a.tcpt", "a-1.tcpt", "a-00010.tcpt", "b-0100.tcpt", "a-0100.txt", "a-x.tcpt", "a-+200.tcpt"]
        {
            fs::write(at(other), "another").expect("a file");
        }
        let mut series = Series::of(&at("a.tcpt"));
        let create = || OutputFile::create(&at("a.tcpt"), Existing::Replace, &[]).expect("a file");
        // Another process was faster.
        fs::write(at("a-12346.tcpt"), "not mine").expect("a file");
        assert_eq!(series.publish(&mut create()).expect("a name"), at("a-12347.tcpt"));
        series.prune(2);
        let exists = |name| at(name).exists();
        assert!(!exists("a-0002.tcpt") && !exists("a-0009.tcpt"));
        assert!(exists("a-12345.tcpt") && exists("a-12346.tcpt") && exists("a-12347.tcpt"));
        assert!(exists("a-1.tcpt") && exists("a-00010.tcpt") && exists("a.tcpt"));
        assert_eq!(fs::read(at("a-12346.tcpt")).expect("the file"), b"not mine");
        // The last is empty; the one before has 8 bytes, the first 11.
        fs::write(at("a-12345.tcpt"), "a recording").expect("a file");
        let mut series = Series::of(&at("a.tcpt"));
        series.prune_bytes(18);
        assert!(!exists("a-12345.tcpt") && exists("a-12346.tcpt") && exists("a-12347.tcpt"));
        series.prune_bytes(0);
        assert!(!exists("a-12346.tcpt") && exists("a-12347.tcpt"), "the newest stays");
    }
}
