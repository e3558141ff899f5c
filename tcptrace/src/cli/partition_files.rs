//! The files of a partitioned export: their names, what is there from earlier exports, and the step that makes all visible.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::recording::shown;
use crate::{
    output_file::{Existing, OutputFile},
    session::RecordingHead,
    view::export::{PartitionKey, file_metadata},
};

/// Metadata of a file: the recordings whose rows it has.
const RECORDINGS: &str = "tcptrace.recordings";
/// Folders show with whom hosts communicate.
const FOLDER_MODE: u32 = 0o700;

/// A recording, in the metadata of files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct RecordingId {
    boot_id: String,
    began_ns: u64,
}

/// The recordings of one boot of a host, which are exported together.
pub struct PartitionHost {
    /// Name of the host; sanitised.
    pub name: String,
    /// Its boot id.
    pub boot_id: String,
    /// An earlier export had all of them, and others.
    pub is_exported: bool,
    recordings: BTreeSet<RecordingId>,
    began_ns: u64,
}

impl PartitionHost {
    /// Those of recordings with these heads.
    pub fn of(heads: &[RecordingHead]) -> Self {
        let id =
            |head: &RecordingHead| RecordingId { boot_id: head.boot_id.clone(), began_ns: head.began_ns };
        let first = heads.first();
        Self {
            name: first.map(|head| head.host.clone()).unwrap_or_default(),
            boot_id: first.map(|head| head.boot_id.clone()).unwrap_or_default(),
            is_exported: false,
            recordings: heads.iter().map(id).collect(),
            began_ns: heads.iter().map(|head| head.began_ns).min().unwrap_or_default(),
        }
    }

    /// The metadata of its files.
    pub fn metadata(&self) -> (&'static str, String) {
        (RECORDINGS, serde_json::to_string(&self.recordings).unwrap_or_default())
    }

    /// The folder of its files, below that of the export.
    fn folder(&self) -> String {
        let mut folder = "host=".to_owned();
        for byte in self.name.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => folder.push(byte.into()),
                byte => {
                    let _ = write!(folder, "%{byte:02X}");
                }
            }
        }
        if self.name.is_empty() { "host=__HIVE_DEFAULT_PARTITION__".into() } else { folder }
    }

    /// The same recordings always have the same file names: a repeated export replaces its files.
    fn file_stem(&self) -> String {
        let hash = Sha256::digest(self.metadata().1);
        let digits = hash.iter().take(8).fold(String::new(), |mut digits, byte| {
            let _ = write!(digits, "{byte:02x}");
            digits
        });
        format!("events-{digits}")
    }
}

/// The folder of an export, and the new files, which have temporary names until [`Self::finish`].
pub struct PartitionFiles {
    folder: PathBuf,
    hosts: Vec<PartitionHost>,
    inputs: Vec<PathBuf>,
    created: Vec<OutputFile>,
    /// Files whose rows are all in the new ones.
    superseded: Vec<PathBuf>,
}

impl PartitionFiles {
    /// Opens the export at `folder`, a new one if there is none.
    pub fn open(folder: &Path, hosts: Vec<PartitionHost>, inputs: &[PathBuf]) -> Result<Self> {
        if folder.exists() && !folder.is_dir() {
            bail!("this is no folder; without --partition, export writes one file");
        }
        let mut files = Self {
            folder: folder.to_owned(),
            hosts,
            inputs: inputs.to_vec(),
            created: Vec::new(),
            superseded: Vec::new(),
        };
        for number in 0..files.hosts.len() {
            files.compare(number)?;
        }
        create_folder(folder)?;
        Ok(files)
    }

    /// The hosts.
    pub fn hosts(&self) -> &[PartitionHost] {
        &self.hosts
    }

    /// Compares the recordings of a host with those in files of earlier exports, so that no row is there twice.
    fn compare(&mut self, number: usize) -> Result<()> {
        let host = &mut self.hosts[number];
        let first_day = format!("date={}", date(host.began_ns / HOUR_NS));
        for day in subfolders(&self.folder.join(host.folder()))? {
            if day.file_name().is_none_or(|name| *name.to_string_lossy() < *first_day) {
                continue;
            }
            for path in
                subfolders(&day)?.iter().map(|hour| entries(hour)).collect::<io::Result<Vec<_>>>()?.concat()
            {
                let Some(known) = recordings_of(&path) else { continue };
                if known.is_disjoint(&host.recordings) {
                    continue;
                }
                if known.is_subset(&host.recordings) {
                    self.superseded.push(path);
                } else if host.recordings.is_subset(&known) {
                    host.is_exported = true;
                } else {
                    bail!(
                        "{} has rows of some of these recordings and of others: export all of them together, or delete it",
                        shown(&path)
                    );
                }
            }
        }
        Ok(())
    }

    /// Creates a file under a temporary name.
    pub fn create(&mut self, key: PartitionKey) -> io::Result<File> {
        let host = &self.hosts[key.host];
        let folder = self.folder.join(host.folder()).join(format!("date={}", date(key.hour)));
        let folder = folder.join(format!("hour={:02}", key.hour % 24));
        create_folder(&folder)?;
        let stem = host.file_stem();
        let is_taken = |path: &Path| self.created.iter().any(|file| file.path() == path);
        let mut path = folder.join(format!("{stem}.parquet"));
        // It was completed early, because too many files were open.
        for part in 2.. {
            if !is_taken(&path) {
                break;
            }
            path = folder.join(format!("{stem}-{part}.parquet"));
        }
        let inputs: Vec<&Path> = self.inputs.iter().map(AsRef::as_ref).collect();
        let file = OutputFile::create(&path, Existing::Replace, &inputs)?;
        let opened = file.file().try_clone()?;
        self.created.push(file);
        Ok(opened)
    }

    /// Gives all files their names, and removes those that they replace. Returns how many there are.
    pub fn finish(self) -> io::Result<usize> {
        let count = self.created.len();
        let mut superseded: BTreeSet<PathBuf> = self.superseded.into_iter().collect();
        for file in self.created {
            superseded.remove(file.path());
            file.finish()?;
        }
        superseded.iter().try_for_each(fs::remove_file)?;
        Ok(count)
    }
}

const HOUR_NS: u64 = 3_600_000_000_000;

/// The UTC date of an hour since the epoch.
fn date(hour: u64) -> String {
    let time = Timestamp::from_second((hour * 3_600).cast_signed()).unwrap_or_default();
    time.strftime("%Y-%m-%d").to_string()
}

fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)
}

/// The recordings whose rows are in a file of an export; `None` if it is none.
fn recordings_of(path: &Path) -> Option<BTreeSet<RecordingId>> {
    let is_parquet = path.extension().is_some_and(|extension| extension == "parquet");
    let value = is_parquet.then(|| file_metadata(File::open(path).ok()?, RECORDINGS)).flatten()?;
    serde_json::from_str(&value).ok()
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = entries(folder).with_context(|| shown(folder))?;
    all.retain(|path| path.is_dir());
    Ok(all)
}

/// What is in a folder, in order; nothing if it does not exist.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut all = folder.read_dir()?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    all.sort_unstable();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{join::tests::any_event, model::record::HostFacts, view::export::PartitionedEvents};

    fn host(name: &str, began: &[u64]) -> PartitionHost {
        let head = |began_s: &u64| RecordingHead {
            host: name.into(),
            boot_id: "boot".into(),
            began_ns: (1_767_323_045 + began_s) * 1_000_000_000,
        };
        PartitionHost::of(&began.iter().map(head).collect::<Vec<_>>())
    }

    /// Exports one event of an hour of a host with recordings that began at these times.
    fn export(folder: &Path, name: &str, began: &[u64]) -> Result<PartitionFiles> {
        let mut files = PartitionFiles::open(folder, vec![host(name, began)], &[])?;
        let metadata = vec![files.hosts()[0].metadata()];
        let mut events = PartitionedEvents::new(metadata, |key| files.create(key));
        let facts = HostFacts { clock_offset_ns: 1_767_323_045_000_000_000, ..HostFacts::default() };
        events.event(0, &any_event(), &facts)?;
        events.finish()?;
        Ok(files)
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for path in entries(&next).expect("a folder") {
                if path.is_dir() {
                    folders.push(path);
                } else {
                    names.push(path.strip_prefix(folder).expect("below it").display().to_string());
                }
            }
        }
        names.sort_unstable();
        names
    }

    #[test]
    fn no_row_is_there_twice() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let folder = folder.path();
        let export = |name: &str, began: &[u64]| export(folder, name, began);
        let add = |name: &str, began: &[u64]| {
            export(name, began).and_then(|files| Ok(files.finish()?)).map(|_| names(folder))
        };
        let first = add("web-1", &[10]).expect("an export");
        assert_eq!(first.len(), 1);
        assert!(first[0].starts_with("host=web-1/date=2026-01-02/hour=03/events-"), "{first:?}");
        assert_eq!(add("web-1", &[10]).expect("an export"), first, "the same again");
        // Nothing is visible, and nothing is left, of an export that is not finished.
        let unfinished = export("web-1", &[20]).expect("an export");
        assert_eq!(names(folder).iter().filter(|name| name.ends_with(".parquet")).count(), 1);
        drop(unfinished);
        assert_eq!(names(folder), first);
        assert_eq!(add("web-1", &[20]).expect("an export").len(), 2, "another recording");
        let both = add("web-1", &[10, 20, 30]).expect("an export");
        assert!(both.len() == 1 && both != first, "one file instead of two: {both:?}");
        let again = export("web-1", &[20]).expect("an export");
        assert!(again.hosts()[0].is_exported);
        drop(again);
        let error = export("web-1", &[20, 40]).err().expect("an overlap");
        assert!(error.to_string().contains("export all of them together"), "{error:#}");
        assert_eq!(add("../a b/\u{1b}", &[10]).expect("an export").len(), 2);
        assert!(names(folder)[0].starts_with("host=..%2Fa%20b%2F%1B/date="), "{:?}", names(folder));
    }

    #[test]
    fn an_export_is_a_folder() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(PartitionFiles::open(file.path(), Vec::new(), &[]).is_err());
    }
}
