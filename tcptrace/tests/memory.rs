//! Peak memory of commands that read a recording crafted to use much memory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use polars_arrow_format::ipc::{self as fb, planus::Builder};
use tcptrace::{
    model::{
        Addr, HookRecord, Nanos, NetnsId, Record, SocketId, TcpState,
        record::{HostFacts, Process},
    },
    output_file::Existing,
    session::{
        self, Keep, RecordPlan,
        schema::{ArrowType, Column, RowKind, index_of},
    },
};
use tcptrace_common::record::{self as raw, Kind};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// Limits of the decoder: text bytes per batch, and rows per batch.
const MOST_TEXT_BYTES: usize = 64 << 20;
const MOST_ROWS: usize = 1 << 18;
/// Bytes of the end mark of a closed recording.
const END: usize = 8;

/// Commands that read a recording from its first record to its last.
const COMMANDS: [&[&str]; 4] = [
    &["top", "--once", "--from", "FILE"],
    &["export", "FILE", "-o", "OUT.parquet"],
    &["report", "FILE", "-o", "OUT.html"],
    &["states", "--from", "FILE"],
];

/// A folder with a recording.
struct HostileFolder(TempDir);

impl HostileFolder {
    fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("a.tcptrace")
    }

    /// Writes `records` in the same way as `tcptrace record`.
    fn record(&self, records: impl IntoIterator<Item = Record>) {
        let plan = RecordPlan { path: self.file(), keep: Keep::All, existing: Existing::Replace };
        let (mut recorder, recording) = session::start(&plan).expect("a file");
        recorder.push(Record::Host(Box::new(HostFacts { host: "h".into(), ..HostFacts::default() })));
        for (n, record) in records.into_iter().enumerate() {
            recorder.push(record);
            while n % 4096 == 0 && !(recorder.is_empty() && recording.status.is_idle()) {
                recorder.flush();
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        assert_eq!(recorder.missed(), 0);
        drop(recorder);
        recording.done.blocking_recv().expect("the writer").expect("a disk");
    }

    /// Writes a recording that ends with `batches`.
    fn craft(&self, batches: &[Vec<u8>]) {
        self.record(tail());
        let mut bytes = fs::read(self.file()).expect("the recording");
        bytes.truncate(bytes.len() - END);
        for batch in batches {
            bytes.extend_from_slice(batch);
        }
        fs::write(self.file(), bytes).expect("a disk");
    }

    /// Runs every command on the recording, and fails if its peak memory exceeds `most_mib`.
    fn check(&self, name: &str, most_mib: u64) {
        for args in COMMANDS {
            let out = self.0.path().join("out").display().to_string();
            let file = self.file().display().to_string();
            let args = args.iter().map(|arg| arg.replace("FILE", &file).replace("OUT", &out));
            let mut command = Command::new(env!("CARGO_BIN_EXE_tcptrace"));
            command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
            let (peak, took) = peak_bytes(&mut command);
            println!(
                "{name}: {:?}: {} MiB, {:.1} s",
                command.get_args().next(),
                peak / MIB,
                took.as_secs_f64()
            );
            assert!(peak <= most_mib * MIB, "{name}: {command:?} had {} MiB, not {most_mib}", peak / MIB);
        }
    }
}

/// Peak resident memory of `command`. It may refuse the recording, but must not end by a signal.
fn peak_bytes(command: &mut Command) -> (u64, Duration) {
    let began = Instant::now();
    let mut child = command.stderr(Stdio::null()).spawn().expect("the binary runs");
    let status = Path::new("/proc").join(child.id().to_string()).join("status");
    let mut peak = 0;
    loop {
        // A process that has ended has no memory any more.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or_default() * 1024);
        if let Some(status) = child.try_wait().expect("a child") {
            assert!(status.code().is_some_and(|code| code < 2), "{command:?}: {status}");
            return (peak, began.elapsed());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Records that complete the seed, so that the recording can be shown.
fn tail() -> [Record; 3] {
    let ts = Nanos::SECOND;
    [Record::SeedEnd { ts, began: ts }, Record::OwnersEnd { ts }, Record::Tick { ts }]
}

/// Values of a column in a crafted batch.
enum CraftedValues {
    Number(Vec<u8>),
    Texts(Vec<String>),
    /// Empty texts over the maximum number of bytes of a column.
    Bomb,
}

/// A message with a batch of `rows` rows; missing columns are null.
fn batch(rows: usize, columns: &[(Column, CraftedValues)]) -> Vec<u8> {
    let (mut body, mut buffers, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
    for column in Column::ALL {
        let values = columns.iter().find(|(of, _)| *of == column).map(|(_, values)| values);
        let null_count = if values.is_some() { 0 } else { rows as i64 };
        nodes.push(fb::FieldNode { length: rows as i64, null_count });
        let mut parts = vec![Vec::new()];
        match (values, column.of_type().width()) {
            (Some(CraftedValues::Number(bytes)), Some(width)) => {
                parts.push(bytes.repeat(rows * width / bytes.len()));
            }
            (Some(CraftedValues::Texts(texts)), None) => {
                let mut ends = vec![0];
                ends.extend(texts.iter().scan(0, |end, text| {
                    *end += text.len() as i32;
                    Some(*end)
                }));
                parts.push(ends.into_iter().flat_map(i32::to_le_bytes).collect());
                parts.push(texts.concat().into_bytes());
            }
            (Some(CraftedValues::Bomb), None) => {
                parts.extend([vec![0; 4 * (rows + 1)], vec![b' '; MOST_TEXT_BYTES]]);
            }
            (None, width) => parts.resize(if width.is_some() { 2 } else { 3 }, Vec::new()),
            _ => panic!("{column:?} has other values"),
        }
        for part in parts {
            let begin = body.len();
            if !part.is_empty() {
                body.extend_from_slice(&(part.len() as i64).to_le_bytes());
                body.extend(zstd::bulk::compress(&part, 1).expect("a frame"));
            }
            buffers.push(fb::Buffer { offset: begin as i64, length: (body.len() - begin) as i64 });
            body.resize(body.len().next_multiple_of(8), 0);
        }
    }
    message(rows, nodes, buffers, &body)
}

fn message(rows: usize, nodes: Vec<fb::FieldNode>, buffers: Vec<fb::Buffer>, body: &[u8]) -> Vec<u8> {
    let compression =
        fb::BodyCompression { codec: fb::CompressionType::Zstd, method: fb::BodyCompressionMethod::Buffer };
    let batch = fb::RecordBatch {
        length: rows as i64,
        nodes: Some(nodes),
        buffers: Some(buffers),
        compression: Some(Box::new(compression)),
        variadic_buffer_counts: None,
    };
    let message = fb::Message {
        version: fb::MetadataVersion::V5,
        header: Some(fb::MessageHeader::RecordBatch(Box::new(batch))),
        body_length: body.len() as i64,
        custom_metadata: None,
    };
    let mut builder = Builder::new();
    let meta = builder.finish(&message, None);
    let length = meta.len().next_multiple_of(8);
    let mut out = vec![0xff; 4];
    out.extend_from_slice(&(length as i32).to_le_bytes());
    out.extend_from_slice(meta);
    out.resize(8 + length, 0);
    out.extend_from_slice(body);
    out
}

/// Rows of `kind` with `facts`, each in a different namespace.
fn facts(kind: RowKind, first_netns: u32, facts: Vec<String>) -> Vec<u8> {
    let rows = facts.len();
    let netns = (first_netns..).take(rows).flat_map(u32::to_le_bytes).collect();
    let kind = vec![index_of(kind).expect("a kind")];
    let ts = Nanos::SECOND.0.to_le_bytes().to_vec();
    let columns = [
        (Column::Ts, CraftedValues::Number(ts)),
        (Column::Kind, CraftedValues::Number(kind)),
        (Column::Netns, CraftedValues::Number(netns)),
        (Column::Facts, CraftedValues::Texts(facts)),
    ];
    batch(rows, &columns)
}

/// A JSON object with `entries` short names, each with `value`.
fn object(entries: usize, value: &str) -> String {
    let entries: Vec<String> = (0..entries).map(|n| format!("\"{n:x}\":{value}")).collect();
    format!("{{{}}}", entries.join(","))
}

#[test]
fn batches_decompress_to_the_maximum() {
    let folder = HostileFolder::new();
    let texts = [Column::Comm, Column::Name, Column::Facts];
    let bombs = texts.map(|text| {
        let columns = Column::ALL.into_iter().filter_map(|column| {
            let values = match column.of_type() {
                ArrowType::Text => CraftedValues::Bomb,
                ArrowType::Kind => CraftedValues::Number(vec![index_of(RowKind::Tick).expect("a kind")]),
                _ => CraftedValues::Number(vec![0]),
            };
            (column == text || !texts.contains(&column)).then_some((column, values))
        });
        batch(MOST_ROWS, &columns.collect::<Vec<_>>())
    });
    folder.craft(&bombs);
    folder.check("decompressed batches", 200);
}

#[test]
fn counters_and_settings_with_many_names() {
    let folder = HostileFolder::new();
    let counters = vec![object(5_000, "1"); 300];
    let settings = vec![object(150, "\"\""); 6_000];
    folder.craft(&[facts(RowKind::NetnsCounters, 0, counters), facts(RowKind::NetnsSettings, 0, settings)]);
    folder.check("counters and settings", 120);
}

#[test]
fn huge_host_facts() {
    let folder = HostileFolder::new();
    let host = serde_json::to_value(HostFacts::default()).expect("facts");
    let with = |name: &str, value: serde_json::Value| {
        let mut host = host.clone();
        host[name] = value;
        vec![host.to_string()]
    };
    let limits = with("limits", vec![""; 4 << 20].into());
    let sysctls = with("sysctls", serde_json::from_str(&object(1 << 20, "\"\"")).expect("an object"));
    folder.craft(&[facts(RowKind::Host, 0, limits), facts(RowKind::Host, 0, sysctls)]);
    folder.check("facts about a host", 120);
}

#[test]
fn many_long_names() {
    const NAMES: u32 = 180_000;
    let folder = HostileFolder::new();
    let ts = Nanos::SECOND;
    let names = (0..NAMES).flat_map(|n| {
        let name: Arc<str> = format!("{n:0>200}").into();
        let path: Arc<str> = format!("/{n:0>1000}").into();
        let process = Process::new(n, format!("{n:x}"), n.into());
        [
            Record::NetnsName { ts, netns: NetnsId(n), name },
            Record::CgroupPath { ts, cgroup: n.into(), path },
            Record::Owner { ts, id: SocketId(n.into()), process, fd: Some(n) },
        ]
    });
    folder.record(names.chain(tail()));
    folder.check("names", 110);
}

/// The `n`-th connection, from another peer to another port in another namespace, up to the end of TIME_WAIT.
fn connection(n: u32, ts: u64) -> impl Iterator<Item = Record> {
    use TcpState::{Close, Established, FinWait1, FinWait2, SynSent};
    let addr = |n: u32| Addr::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(n)));
    let record = raw::RawRecord {
        ts_ns: ts,
        cookie: u64::from(n) + 1,
        object: u64::from(n) + 1,
        arg0: 15_000,
        arg1: 0,
        saddr: addr(0x7f00_0001).0,
        daddr: addr(0x0b00_0000 + n).0,
        netns: n,
        ifindex: 0,
        sport: n as u16 | 1,
        dport: (n >> 3) as u16 | 1,
        kind: Kind::Transition as u8,
        old: TcpState::Close as u8,
        new: TcpState::SynSent as u8,
        flags: 0,
    };
    let transition =
        move |old: TcpState, new: TcpState| raw::RawRecord { old: old as u8, new: new as u8, ..record };
    let timewait = move |kind: Kind| raw::RawRecord {
        kind: kind as u8,
        old: 0,
        new: TcpState::TimeWait as u8,
        ..record
    };
    let records = [
        record,
        transition(SynSent, Established),
        transition(Established, FinWait1),
        transition(FinWait1, FinWait2),
        timewait(Kind::TimewaitArmed),
        transition(FinWait2, Close),
        timewait(Kind::TimewaitExpired),
    ];
    records.into_iter().map(|raw| Record::Kernel(HookRecord { raw, task: None }))
}

#[test]
fn more_peers_than_groups() {
    const PEERS: u32 = 140_000;
    let folder = HostileFolder::new();
    folder.record(
        tail().into_iter().chain((0..PEERS).flat_map(|n| connection(n, Nanos::SECOND.0 + u64::from(n)))),
    );
    folder.check("peers", 380);
}

#[test]
fn clock_jumps() {
    const LEAPS: u32 = 20_000;
    let folder = HostileFolder::new();
    // Pseudo-random times up to 2^63 ns.
    let at = |n: u32| u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1;
    let leaps = (0..LEAPS).flat_map(|n| {
        let ts = Nanos(at(n));
        connection(n, at(n)).chain([Record::Tick { ts }])
    });
    folder.record(tail().into_iter().chain(leaps));
    folder.check("clock jumps", 160);
}
