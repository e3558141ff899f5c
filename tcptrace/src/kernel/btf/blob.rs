//! Parses BTF (`include/uapi/linux/btf.h`) from an untrusted blob: types by id, and requested types by name.
//!
//! A type's id is its position. So one pass records where each type begins, and finds the requested names on the way.

/// Kinds of types.
pub mod kind {
    pub const PTR: u32 = 2;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FWD: u32 = 7;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const TYPE_TAG: u32 = 18;
}

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 24;
/// Header of each type: name, information, and size or type.
const TYPE_BYTES: usize = 12;
/// `BTF_MAX_TYPE`, the kernel's own limit. A kernel has some 150,000.
const MAX_BTF_TYPES: usize = 0xf_ffff;
/// Longest chain of references: a type may refer to itself.
const MAX_CHAIN: usize = 32;

/// Bytes after the first [`TYPE_BYTES`], by kind: once, and per part.
const TRAILING_BYTES: [(usize, usize); 20] = [
    (0, 0),  // void, which has no entry
    (4, 0),  // INT
    (0, 0),  // PTR
    (12, 0), // ARRAY
    (0, 12), // STRUCT
    (0, 12), // UNION
    (0, 8),  // ENUM
    (0, 0),  // FWD
    (0, 0),  // TYPEDEF
    (0, 0),  // VOLATILE
    (0, 0),  // CONST
    (0, 0),  // RESTRICT
    (0, 0),  // FUNC
    (0, 8),  // FUNC_PROTO
    (4, 0),  // VAR
    (0, 12), // DATASEC
    (0, 0),  // FLOAT
    (4, 0),  // DECL_TAG
    (0, 0),  // TYPE_TAG
    (0, 12), // ENUM64
];

/// Why bytes can't be parsed as BTF.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Another format.
    #[error("it is not BTF: it begins with another magic number")]
    Magic,
    /// From a machine of the other byte order.
    #[error("it has the byte order of another machine")]
    ByteOrder,
    /// A later format.
    #[error("it has version {0} of the format, and only {VERSION} is known")]
    Version(u8),
    /// Shorter than it claims.
    #[error("it ends inside {0}")]
    Cut(&'static str),
    /// A type of unknown kind, whose length is therefore unknown.
    #[error("its type {id} is of kind {kind}, which is not known")]
    Kind {
        /// Id of the type.
        id: usize,
        /// Its kind.
        kind: u32,
    },
    /// More types than any kernel has.
    #[error("it has more than {MAX_BTF_TYPES} types")]
    TooManyTypes,
}

/// A type to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeName<'a> {
    pub kind: u32,
    pub text: &'a str,
}

/// A parsed blob.
pub struct Blob<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Offset of each type, from id 1 on.
    starts: Vec<u32>,
    /// The first type of each requested name.
    named: Vec<(TypeName<'a>, u32)>,
}

/// One type.
#[derive(Clone, Copy)]
pub struct BtfType<'a> {
    name_offset: u32,
    info: u32,
    /// The type it refers to, or its size, depending on the kind.
    size_or_type: u32,
    behind: &'a [u8],
}

/// A member of a structure or union.
pub struct Member {
    pub name_offset: u32,
    pub type_id: u32,
    /// From the start of the structure.
    pub bit_offset: u32,
}

impl<'a> Blob<'a> {
    /// Parses `bytes` and looks up `names`.
    pub fn read(bytes: &'a [u8], names: &[TypeName<'a>]) -> Result<Self, FormatError> {
        let (types, strings) = sections(bytes)?;
        let at_most = (types.len() / TYPE_BYTES).min(MAX_BTF_TYPES);
        let mut blob = Self {
            types,
            strings,
            starts: Vec::with_capacity(at_most),
            named: Vec::with_capacity(names.len()),
        };
        let mut at = 0;
        while at < types.len() {
            let id = blob.starts.len() + 1;
            if id > MAX_BTF_TYPES {
                return Err(FormatError::TooManyTypes);
            }
            let found = BtfType::at(types, at, id)?;
            blob.starts.push(at as u32);
            for name in names {
                if found.kind() == name.kind && blob.has_name(found.name_offset, name.text) {
                    blob.named.push((*name, id as u32));
                }
            }
            at += TYPE_BYTES + found.behind.len();
        }
        Ok(blob)
    }

    /// Id of the first type of this kind and name, which must be one of the requested names.
    pub fn id_of(&self, kind: u32, text: &str) -> Option<u32> {
        self.named.iter().find(|(name, _)| name.kind == kind && name.text == text).map(|&(_, id)| id)
    }

    /// The type with this id; `None` for void.
    pub fn type_by_id(&self, id: u32) -> Option<BtfType<'a>> {
        let index = (id as usize).checked_sub(1)?;
        let start = *self.starts.get(index)? as usize;
        BtfType::at(self.types, start, id as usize).ok()
    }

    /// The type `id` without typedefs and qualifiers.
    pub fn target(&self, id: u32) -> Option<BtfType<'a>> {
        use kind::{CONST, RESTRICT, TYPE_TAG, TYPEDEF, VOLATILE};
        self.chain(id).find(|found| !matches!(found.kind(), TYPEDEF | CONST | VOLATILE | RESTRICT | TYPE_TAG))
    }

    /// The type `id`, the type it refers to, and so on.
    pub fn chain(&self, id: u32) -> impl Iterator<Item = BtfType<'a>> {
        std::iter::successors(self.type_by_id(id), |found| self.type_by_id(found.refers_to()?))
            .take(MAX_CHAIN)
    }

    /// Whether the string at `offset` is `text`.
    pub fn has_name(&self, offset: u32, text: &str) -> bool {
        let rest = self.strings.get(offset as usize..).and_then(|rest| rest.strip_prefix(text.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }
}

impl<'a> BtfType<'a> {
    fn at(types: &'a [u8], at: usize, id: usize) -> Result<Self, FormatError> {
        const CUT: FormatError = FormatError::Cut("its types");
        let rest = types.get(at..).ok_or(CUT)?;
        let (head, rest) = rest.split_at_checked(TYPE_BYTES).ok_or(CUT)?;
        let [name_offset, info, size_or_type] = words(head);
        let mut found = BtfType { name_offset, info, size_or_type, behind: &[] };
        let kind = found.kind();
        let (once, each) =
            TRAILING_BYTES.get(kind as usize).filter(|_| kind != 0).ok_or(FormatError::Kind { id, kind })?;
        found.behind = rest.get(..once + each * found.parts()).ok_or(CUT)?;
        Ok(found)
    }

    /// One of [`kind`]. Includes the unused bits above: if they get a meaning, the kind is unknown.
    pub const fn kind(&self) -> u32 {
        self.info >> 24 & 0x7f
    }

    /// Number of members, enumerators or parameters; includes the unused bits above, too.
    pub const fn parts(&self) -> usize {
        (self.info & 0x00ff_ffff) as usize
    }

    fn refers_to(&self) -> Option<u32> {
        use kind::{CONST, FUNC, PTR, RESTRICT, TYPE_TAG, TYPEDEF, VOLATILE};
        let refers = matches!(self.kind(), PTR | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | TYPE_TAG);
        refers.then_some(self.size_or_type)
    }

    /// Members of a structure or union; none for other kinds.
    pub fn members(&self) -> impl Iterator<Item = Member> + 'a {
        let is_layout = matches!(self.kind(), kind::STRUCT | kind::UNION);
        let behind = if is_layout { self.behind } else { &[] };
        // With bit fields, the upper byte of an offset is the field's width.
        let offset_bits = if self.info >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
        behind.chunks_exact(12).map(move |member| {
            let [name_offset, type_id, offset] = words(member);
            Member { name_offset, type_id, bit_offset: offset & offset_bits }
        })
    }

    /// Enumerators, as name offset and value; none for other kinds.
    pub fn enumerators(&self) -> impl Iterator<Item = (u32, u32)> + 'a {
        let behind = if self.kind() == kind::ENUM { self.behind } else { &[] };
        behind.chunks_exact(8).map(|enumerator| {
            let [name_offset, value] = words(enumerator);
            (name_offset, value)
        })
    }
}

/// The type section and the string section.
fn sections(bytes: &[u8]) -> Result<(&[u8], &[u8]), FormatError> {
    match bytes.first_chunk().map(|magic| u16::from_ne_bytes(*magic)) {
        Some(MAGIC) => {}
        Some(magic) if magic.swap_bytes() == MAGIC => return Err(FormatError::ByteOrder),
        _ => return Err(FormatError::Magic),
    }
    let header = bytes.get(..HEADER_BYTES).ok_or(FormatError::Cut("its header"))?;
    if header[2] != VERSION {
        return Err(FormatError::Version(header[2]));
    }
    let [_, header_len, types_at, types_len, strings_at, strings_len] = words(header);
    let section = |at: u32, len: u32, name| {
        let behind = bytes.get(header_len as usize..).and_then(|behind| behind.get(at as usize..));
        behind.and_then(|found| found.get(..len as usize)).ok_or(FormatError::Cut(name))
    };
    Ok((section(types_at, types_len, "its types")?, section(strings_at, strings_len, "its names")?))
}

/// Builds a blob in which `types` (id, kind, name) keep their ids; all other types are unnamed forward declarations.
pub fn with_types<'a>(types: impl Iterator<Item = (u32, u32, &'a str)> + Clone) -> Vec<u8> {
    let types_len = types.clone().map(|(id, ..)| id as usize * TYPE_BYTES).max().unwrap_or(0);
    let mut strings = vec![0];
    let mut words = vec![0; types_len / 4];
    for declared in words.chunks_exact_mut(TYPE_BYTES / 4) {
        declared[1] = kind::FWD << 24;
    }
    for (id, kind, name) in types {
        let at = (id as usize - 1) * TYPE_BYTES / 4;
        words[at] = strings.len() as u32;
        words[at + 1] = kind << 24;
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + types_len + strings.len());
    bytes.extend(MAGIC.to_ne_bytes());
    bytes.extend([VERSION, 0]);
    let header = [HEADER_BYTES as u32, 0, types_len as u32, types_len as u32, strings.len() as u32];
    for word in header.into_iter().chain(words) {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(strings);
    bytes
}

/// The first `N` words of `bytes`, which must be long enough.
fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let (words, _) = bytes.as_chunks();
    std::array::from_fn(|index| words.get(index).map_or(0, |&word| u32::from_ne_bytes(word)))
}
