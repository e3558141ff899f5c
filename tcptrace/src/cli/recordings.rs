//! Several recordings as the input of a command: series of files, and hosts.

use std::{
    collections::{BTreeSet, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    exit::misuse,
    live::raise_descriptor_limit,
    recording::{RecordingSource, SharedEnding, ended, shown},
};
use crate::{
    model::{Source, text, units},
    output_file,
    pipeline::{HostByHost, MergedSource, Window},
    privileges::{self, Work},
    sandbox,
    session::{AtEnd, Ending, Input, ReadError, RecordingHead},
};

/// Most hosts that are read together.
const MAX_STREAMS: usize = 1 << 12;
/// Names listed in the name of several recordings.
const LISTED_NAMES: usize = 3;

/// Open recordings: one per boot of a host, each with its files in order of time.
pub struct Recordings {
    streams: Vec<OpenStream>,
    name: Arc<str>,
}

/// The recording of one boot of a host.
struct OpenStream {
    /// Name of the host; empty if there is only one file, whose head was not read.
    host: String,
    recording: RecordingSource,
    /// What identifies each of its files.
    heads: Vec<RecordingHead>,
}

/// The order in which the records of several hosts are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostOrder {
    /// By wall-clock time.
    ByTime,
    /// One host after the other, much faster: for results that depend on the end only.
    HostByHost,
}

/// How recordings ended, by name.
#[derive(Clone, Default)]
pub struct Endings(Vec<(String, SharedEnding)>);

impl Endings {
    /// Reports on stderr what is missing.
    pub fn report(&self) {
        for (name, ending) in &self.0 {
            if let Some(sentence) = ended(ending).and_then(Ending::sentence) {
                eprintln!("tcptrace: {name}: {sentence}");
            }
        }
    }

    /// What is missing, in sentences.
    pub fn sentences(&self) -> Vec<String> {
        let is_one = self.0.len() == 1;
        let of = |(name, ending): &(String, SharedEnding)| {
            let sentence = ended(ending).and_then(Ending::sentence)?;
            Some(if is_one { sentence } else { format!("{name}: {sentence}") })
        };
        self.0.iter().filter_map(of).collect()
    }
}

/// A file and its name.
struct OpenFile {
    path: PathBuf,
    input: Input,
    /// From a folder, in which other files are skipped.
    is_found: bool,
}

impl Recordings {
    /// Opens the recordings at `paths`; of a folder, those in it.
    pub fn open(paths: &[PathBuf], at_end: AtEnd) -> Result<Self> {
        if let [path] = paths
            && !path.is_dir()
        {
            let recording = RecordingSource::open(path, at_end)?;
            let name = recording.name().into();
            let stream = OpenStream { host: String::new(), recording, heads: Vec::new() };
            return Ok(Self { streams: vec![stream], name });
        }
        Self::open_identified(paths, at_end)
    }

    /// The same; what identifies each file is read in any case, so none is standard input.
    pub fn open_identified(paths: &[PathBuf], at_end: AtEnd) -> Result<Self> {
        if at_end == AtEnd::Follow {
            misuse("--follow reads one recording");
        }
        if paths.iter().any(|path| path == Path::new("-")) {
            misuse("standard input can't be read together with other recordings: save it to a file first");
        }
        raise_descriptor_limit()?;
        let mut files = Vec::new();
        for path in paths {
            if !path.is_dir() {
                files.push(OpenFile::open(path.clone(), false)?);
                continue;
            }
            for path in files_in(path).with_context(|| shown(path))? {
                files.push(OpenFile::open(path, true)?);
            }
        }
        // Read on a separate thread: reading confines the thread.
        let files = privileges::run_on_thread("heads", Work::Nothing, move || heads(files))
            .context("no thread to read")??;
        ensure!(!files.is_empty(), "{}: no recording is in it", shown(&paths[0]));
        let name = name_of(&files);
        Ok(Self { streams: series(files)?, name: name.into() })
    }

    /// What identifies the files of each host and boot.
    pub fn heads(&self) -> impl Iterator<Item = &[RecordingHead]> {
        self.streams.iter().map(|stream| &*stream.heads)
    }

    /// Number of hosts and boots.
    pub fn count(&self) -> usize {
        self.streams.len()
    }

    /// Name of all of them.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Each host and boot on its own.
    pub fn split(self) -> Vec<Self> {
        let name = &self.name;
        let is_one = self.streams.len() == 1;
        let each = self.streams.into_iter().map(|stream| {
            let name = if is_one { Arc::clone(name) } else { stream.recording.name().into() };
            Self { streams: vec![stream], name }
        });
        each.collect()
    }

    /// Adds progress lines.
    #[must_use]
    pub fn watched(self) -> Self {
        let watched = |stream: OpenStream| OpenStream { recording: stream.recording.watched(), ..stream };
        Self { streams: self.streams.into_iter().map(watched).collect(), ..self }
    }

    /// One source of `window` of each, and how they end.
    pub fn source(self, window: Window, order: HostOrder) -> (Box<dyn Source>, Endings) {
        let endings = self.streams.iter().map(|OpenStream { host, recording, .. }| {
            let name = if host.is_empty() { recording.name().to_owned() } else { host.clone() };
            (name, recording.ending())
        });
        let endings = Endings(endings.collect());
        let mut sources: Vec<Box<dyn Source>> =
            self.streams.into_iter().map(|stream| stream.recording.within(window)).collect();
        let source = match (sources.len(), order) {
            (1, _) => sources.remove(0),
            (_, HostOrder::ByTime) => Box::new(MergedSource::new(sources)),
            (_, HostOrder::HostByHost) => Box::new(HostByHost::new(sources)),
        };
        (source, endings)
    }
}

impl OpenFile {
    fn open(path: PathBuf, is_found: bool) -> Result<Self> {
        output_file::refuse_as_standard_output(&[&path]).context("standard output")?;
        let input = Input::open(&path).with_context(|| shown(&path))?;
        Ok(Self { path, input, is_found })
    }
}

/// The files in a folder, by name; hidden ones are temporary.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = BTreeSet::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        if entry.path().is_file() && !entry.file_name().as_encoded_bytes().starts_with(b".") {
            files.insert(entry.path());
        }
    }
    Ok(files.into_iter().collect())
}

/// The files of one boot of a host.
struct FileSeries {
    heads: Vec<RecordingHead>,
    first: OpenFile,
    parts: VecDeque<(String, Input)>,
}

type HeadedFile = (RecordingHead, OpenFile);

/// Reads the beginning of every file.
fn heads(files: Vec<OpenFile>) -> Result<Vec<HeadedFile>> {
    let confined = sandbox::confine();
    let mut headed = Vec::with_capacity(files.len());
    for mut file in files {
        match RecordingHead::read(&mut file.input, &confined) {
            Ok(mut head) => {
                head.host = text::sanitise(&head.host).into_owned();
                if head.host.is_empty() {
                    head.host = shown(file.path.file_stem().unwrap_or_default().as_ref());
                }
                headed.push((head, file));
            }
            Err(error @ (ReadError::Foreign | ReadError::Empty | ReadError::OnlyHeader)) if file.is_found => {
                eprintln!("tcptrace: {}: skipped: {error}", shown(&file.path));
            }
            Err(error) => return Err(anyhow::Error::new(error).context(shown(&file.path))),
        }
    }
    Ok(headed)
}

fn name_of(files: &[HeadedFile]) -> String {
    let hosts: BTreeSet<&str> = files.iter().map(|(head, _)| &*head.host).collect();
    if files.len() > LISTED_NAMES {
        return format!(
            "{} recordings of {}",
            files.len(),
            units::plural(hosts.len() as u64, "host", "hosts")
        );
    }
    files.iter().map(|(_, file)| shown(&file.path)).collect::<Vec<_>>().join(", ")
}

/// Joins the files of each host and boot in order of time.
fn series(mut files: Vec<HeadedFile>) -> Result<Vec<OpenStream>> {
    files.sort_by(|(a, _), (b, _)| (&a.host, &a.boot_id, a.began_ns).cmp(&(&b.host, &b.boot_id, b.began_ns)));
    let mut streams: Vec<FileSeries> = Vec::new();
    for (head, file) in files {
        match streams.last_mut() {
            Some(FileSeries { heads, parts, .. })
                if heads[0].host == head.host && heads[0].boot_id == head.boot_id =>
            {
                heads.push(head);
                parts.push_back((shown(&file.path), file.input));
            }
            _ => streams.push(FileSeries { heads: vec![head], first: file, parts: VecDeque::new() }),
        }
    }
    if streams.len() > MAX_STREAMS {
        bail!("recordings of {} hosts; at most {MAX_STREAMS} can be read together", streams.len());
    }
    // By time, so that the numbers of hosts do not depend on their names.
    streams.sort_by_key(|series| series.heads[0].began_ns);
    let open = |FileSeries { heads, first, parts }| OpenStream {
        host: heads[0].host.clone(),
        recording: RecordingSource::new(shown(&first.path), first.input, parts, AtEnd::Stop),
        heads,
    };
    Ok(streams.into_iter().map(open).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Flow, Record};

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

    /// Hosts, records per host, and what is missing.
    fn read(paths: &[PathBuf]) -> (Vec<String>, Vec<u64>, Vec<String>) {
        let (mut source, endings) = Recordings::open(paths, AtEnd::Stop)
            .expect("recordings")
            .source(Window::default(), HostOrder::ByTime);
        let thread = privileges::spawn("test", Work::Nothing, move || {
            let (mut hosts, mut records, mut stream) = (vec![String::new()], vec![0], 0);
            let mut take = |record| match record {
                Record::Stream { number } => {
                    stream = usize::from(number);
                    hosts.resize(hosts.len().max(stream + 1), String::new());
                    records.resize(hosts.len(), 0);
                }
                Record::Host(facts) => hosts[stream].clone_from(&facts.host),
                Record::Kernel(_) => records[stream] += 1,
                _ => {}
            };
            while source.fill(&mut take).expect("a recording") == Flow::Running {}
            (hosts, records)
        });
        let (hosts, records) = thread.expect("a thread").join().expect("no panic");
        (hosts, records, endings.sentences())
    }

    #[test]
    fn a_folder_is_the_recordings_in_it() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let copy = |from: &str, to: &str| {
            std::fs::copy(Path::new(ROOT).join(from), folder.path().join(to)).expect("a copy");
        };
        copy("tests/fixtures/session-v1.tcptrace", "a.tcptrace");
        let one = read(&[folder.path().into()]);
        assert_eq!((one.0.len(), one.1.len(), one.2.len()), (1, 1, 0));
        assert!(one.1[0] > 100);
        // Neither is a recording.
        std::fs::write(folder.path().join("notes.txt"), "notes").expect("a file");
        std::fs::write(folder.path().join("empty"), "").expect("a file");
        std::fs::write(folder.path().join(".hidden"), "hidden").expect("a file");
        assert_eq!(read(&[folder.path().into()]), one);
        // A named file must be one.
        let notes = folder.path().join("notes.txt");
        let error =
            Recordings::open(&[folder.path().into(), notes], AtEnd::Stop).err().expect("no recording");
        assert!(format!("{error:#}").contains("notes.txt"), "{error:#}");
        // The same time of the same boot twice.
        copy("tests/fixtures/session-v1.tcptrace", "b.tcptrace");
        assert_eq!(read(&[folder.path().into()]), one);
        // Another host.
        copy("docs/samples/ports.tcptrace", "c.tcptrace");
        let two = read(&[folder.path().into()]);
        assert_eq!(two.0.len(), 2);
        assert!(two.0.contains(&one.0[0]) && two.1.contains(&one.1[0]), "{two:?}");
        let empty = tempfile::TempDir::new().expect("a folder");
        assert!(Recordings::open(&[empty.path().into()], AtEnd::Stop).is_err());
    }
}
