//! `cargo xtask btf`: in, Debian's kernels; out, for each the part of its BTF that tcptrace reads, as test data for
//! `kernel::btf`. It has a reader of its own, as a fault of the reader under test would shape the fixtures. Not `bpftool gen
//! min_core_btf`: it keeps the types that CO-RE relocations name, and rustc emits no relocations.

use std::collections::HashMap;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::repo::Repo;
use crate::vm::{KERNELS, vmlinux};

/// The table of hooks, for its tracepoints.
#[allow(dead_code)]
#[path = "../../tcptrace/src/model/hooks.rs"]
mod hooks;
use hooks::HOOKS;

/// Structures whose members tcptrace reads. Members that are other structures lose their type.
const STRUCTS: [&str; 17] = [
    "sock_common",
    "sock",
    "socket",
    "socket_alloc",
    "inode",
    "tcp_sock",
    "inet_sock",
    "net",
    "netns_ipv4",
    "ns_common",
    "inet_timewait_sock",
    "request_sock",
    "timer_list",
    "sk_buff",
    "task_struct",
    "thread_info",
    "bpf_prog",
];
const ENUMS: [&str; 2] = ["sock_flags", "sk_rst_reason"];
const FUNCTIONS: [&str; 1] = ["bpf_get_socket_ptr_cookie"];

/// Kernels of arm64 among the fixtures: their layouts hardly differ from those of x86-64.
const ARM64: &str = "7.2";

/// Writes `tcptrace/src/kernel/fixtures/VERSION.btf` for every kernel of the table, and one of arm64.
pub fn run(repo: &Repo) -> Result<ExitCode> {
    let folder = repo.root.join("tcptrace/src/kernel/fixtures");
    fs::create_dir_all(&folder)?;
    let of_amd64 = KERNELS.iter().map(|kernel| (Arch::Amd64, kernel, kernel.version.to_owned()));
    let of_arm64 = KERNELS.iter().filter(|kernel| kernel.version == ARM64);
    let of_arm64 = of_arm64.map(|kernel| (Arch::Arm64, kernel, format!("{}-arm64", kernel.version)));
    for (arch, kernel, name) in of_amd64.chain(of_arm64) {
        let files = kernel.fetch(repo, arch)?;
        let full = vmlinux::btf(arch, &files.image, &repo.vm().join(format!("vmlinux-{name}")))?;
        let reduced = reduce(&full).with_context(|| format!("the BTF of {name}"))?;
        let path = folder.join(format!("{name}.btf"));
        fs::write(&path, &reduced).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}: {} of {} bytes", path.display(), reduced.len(), full.len());
    }
    Ok(ExitCode::SUCCESS)
}

/// Kinds of types (include/uapi/linux/btf.h).
mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

const MAGIC: u32 = 0xeb9f;
const HEADER_LEN: usize = 24;
const VOID: u32 = 0;

/// The words of one type: name, kind and count, size or type; then three, two or one for each entry.
struct BtfType<'a> {
    words: Vec<u32>,
    name: &'a [u8],
}

impl BtfType<'_> {
    fn kind(&self) -> u32 {
        self.words[1] >> 24 & 0x1f
    }

    /// Words of each entry.
    fn entry_len(kind: u32) -> usize {
        match kind {
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 3,
            kind::ENUM | kind::FUNC_PROTO => 2,
            _ => 0,
        }
    }

    /// Words after the first three.
    fn rest_len(info: u32) -> usize {
        match info >> 24 & 0x1f {
            kind::INT | kind::VAR | kind::DECL_TAG => 1,
            kind::ARRAY => 3,
            kind => Self::entry_len(kind) * (info & 0xffff) as usize,
        }
    }
}

struct Btf<'a> {
    /// The first is void.
    types: Vec<BtfType<'a>>,
    strings: &'a [u8],
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        if word(0)? & 0xffff != MAGIC {
            return None;
        }
        let header = word(4)? as usize;
        let mut at = header + word(8)? as usize;
        let end = at + word(12)? as usize;
        let strings = bytes.get(header + word(16)? as usize..)?.get(..word(20)? as usize)?;
        let mut types = vec![BtfType { words: vec![0; 3], name: b"" }];
        while at < end {
            let count = 3 + BtfType::rest_len(word(at + 4)?);
            let words = (0..count).map(|index| word(at + 4 * index)).collect::<Option<Vec<_>>>()?;
            types.push(BtfType { name: string(strings, words[0])?, words });
            at += 4 * count;
        }
        Some(Self { types, strings })
    }

    /// The type `id` without typedefs and qualifiers.
    fn target(&self, mut id: u32) -> u32 {
        use kind::{CONST, RESTRICT, TYPE_TAG, TYPEDEF, VOLATILE};
        while let Some(found) = self.types.get(id as usize) {
            if !matches!(found.kind(), TYPEDEF | CONST | VOLATILE | RESTRICT | TYPE_TAG) {
                break;
            }
            id = found.words[2];
        }
        id
    }
}

fn string(strings: &[u8], at: u32) -> Option<&[u8]> {
    strings.get(at as usize..)?.split(|&byte| byte == 0).next()
}

fn reduce(bytes: &[u8]) -> Result<Vec<u8>> {
    let full = Btf::parse(bytes).context("not BTF")?;
    let mut reduced = Reduced::new(&full);
    let typedefs: Vec<String> = HOOKS.iter().map(|hook| format!("btf_trace_{}", hook.tracepoint)).collect();
    let typedefs: Vec<&str> = typedefs.iter().map(String::as_str).collect();
    let at_functions = HOOKS.iter().filter(|hook| hook.is_at_function()).map(|hook| hook.tracepoint);
    let functions: Vec<&str> = at_functions.chain(FUNCTIONS).collect();
    let wanted = [
        (kind::STRUCT, STRUCTS.as_slice()),
        (kind::ENUM, &ENUMS),
        (kind::TYPEDEF, &typedefs),
        (kind::FUNC, &functions),
    ];
    for (id, found) in (0..).zip(&full.types) {
        let is_wanted = |(kind, names): &(u32, &[&str])| {
            found.kind() == *kind && names.iter().any(|name| name.as_bytes() == found.name)
        };
        if wanted.iter().any(is_wanted) {
            reduced.keep(id);
        }
    }
    if reduced.types.len() < STRUCTS.len() {
        bail!("it describes hardly any of the structures");
    }
    Ok(reduced.bytes())
}

/// The kept types, under new numbers.
struct Reduced<'a> {
    full: &'a Btf<'a>,
    types: Vec<Vec<u32>>,
    ids: HashMap<u32, u32>,
    strings: Vec<u8>,
    names: HashMap<Vec<u8>, u32>,
}

impl<'a> Reduced<'a> {
    fn new(full: &'a Btf<'a>) -> Self {
        let names = HashMap::from([(Vec::new(), 0)]);
        Self { full, types: Vec::new(), ids: HashMap::new(), strings: vec![0], names }
    }

    /// The new number of the type `id`, kept with the types it refers to.
    fn keep(&mut self, id: u32) -> u32 {
        if id == VOID {
            return VOID;
        }
        if let Some(&kept) = self.ids.get(&id) {
            return kept;
        }
        let kept = self.types.len() as u32 + 1;
        self.ids.insert(id, kept);
        self.types.push(Vec::new());
        let found = &self.full.types[id as usize];
        let mut words = found.words.clone();
        words[0] = self.name(found.name);
        let kind = found.kind();
        if matches!(kind, kind::TYPEDEF | kind::PTR | kind::FUNC) {
            words[2] = self.keep(words[2]);
        }
        if kind == kind::FUNC_PROTO {
            words[2] = VOID;
        }
        let entry_len = BtfType::entry_len(kind);
        if entry_len > 0 {
            for entry in words[3..].chunks_exact_mut(entry_len) {
                let name = string(self.full.strings, entry[0]).unwrap_or_default();
                entry[0] = self.name(name);
                match kind {
                    kind::STRUCT | kind::UNION => entry[1] = self.member(name, entry[1]),
                    kind::FUNC_PROTO => entry[1] = VOID,
                    _ => {}
                }
            }
        }
        self.types[kept as usize - 1] = words;
        kept
    }

    /// The type of a member: kept if tcptrace reads members of it.
    fn member(&mut self, name: &[u8], id: u32) -> u32 {
        let target = self.full.target(id);
        let found = &self.full.types[target as usize];
        let is_layout = matches!(found.kind(), kind::STRUCT | kind::UNION);
        let is_wanted = name.is_empty() || STRUCTS.iter().any(|wanted| wanted.as_bytes() == found.name);
        if is_layout && is_wanted { self.keep(target) } else { VOID }
    }

    fn name(&mut self, name: &[u8]) -> u32 {
        if let Some(&known) = self.names.get(name) {
            return known;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(name);
        self.strings.push(0);
        self.names.insert(name.to_vec(), at);
        at
    }

    fn bytes(&self) -> Vec<u8> {
        let types: Vec<u8> = self.types.iter().flatten().flat_map(|word| word.to_le_bytes()).collect();
        let (types_len, strings_len) = (types.len() as u32, self.strings.len() as u32);
        let header = [MAGIC | 1 << 16, HEADER_LEN as u32, 0, types_len, types_len, strings_len];
        let header = header.into_iter().flat_map(u32::to_le_bytes);
        header.chain(types).chain(self.strings.iter().copied()).collect()
    }
}
