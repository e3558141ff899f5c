//! The format (`include/uapi/linux/btf.h`): in, a blob of bytes that need not be trusted; out, its types by number, and those
//! asked for by name.
//!
//! A type has no number written on it: it is the how-manieth. So one pass notes where each begins, and on its way finds the
//! names asked for.

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
/// Name, information, and size or type: what each type begins with.
const TYPE_BYTES: usize = 12;
/// `BTF_MAX_TYPE`: the kernel takes no more itself. It has some 150,000.
const MOST_TYPES: usize = 0xf_ffff;
/// How many types are followed into one another: a type may refer to itself.
const LONGEST_CHAIN: usize = 32;

/// How many bytes follow the first [`TYPE_BYTES`], by kind: once, and for each of its parts.
const BEHIND: [(usize, usize); 20] = [
    (0, 0),  // void, which no type is written for
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

/// Why bytes are not BTF that can be read here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Something else.
    #[error("it is not BTF: it begins with another magic number")]
    Magic,
    /// Made for a machine of the other byte order.
    #[error("it has the byte order of another machine")]
    ByteOrder,
    /// A later format.
    #[error("it has version {0} of the format, and only {VERSION} is known")]
    Version(u8),
    /// Fewer bytes than it says it has.
    #[error("it ends inside {0}")]
    Cut(&'static str),
    /// A type whose length is therefore unknown.
    #[error("its type {id} is of kind {kind}, which is not known")]
    Kind {
        /// Number of the type.
        id: usize,
        /// What it says it is.
        kind: u32,
    },
    /// More than any kernel has.
    #[error("it has more than {MOST_TYPES} types")]
    TooManyTypes,
}

/// A type to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    pub kind: u32,
    pub text: &'static str,
}

/// A blob, gone through once.
pub struct Blob<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins, from number 1 on.
    starts: Vec<u32>,
    /// The first type of each name that was asked for.
    named: Vec<(Name, u32)>,
}

/// One type.
#[derive(Clone, Copy)]
pub struct Type<'a> {
    name_offset: u32,
    info: u32,
    /// The type it refers to or, for other kinds, its size.
    size_or_reference: u32,
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
    /// Goes through `bytes` and looks for `names`.
    pub fn read(bytes: &'a [u8], names: &[Name]) -> Result<Self, FormatError> {
        let (types, strings) = sections(bytes)?;
        let at_most = (types.len() / TYPE_BYTES).min(MOST_TYPES);
        let mut blob = Self {
            types,
            strings,
            starts: Vec::with_capacity(at_most),
            named: Vec::with_capacity(names.len()),
        };
        let mut at = 0;
        while at < types.len() {
            let id = blob.starts.len() + 1;
            if id > MOST_TYPES {
                return Err(FormatError::TooManyTypes);
            }
            let found = Type::at(types, at, id)?;
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

    /// Number of the first type of this kind and name, which must have been among the names looked for.
    pub fn id_of(&self, kind: u32, text: &str) -> Option<u32> {
        self.named.iter().find(|(name, _)| name.kind == kind && name.text == text).map(|&(_, id)| id)
    }

    /// The type with the number `id`; none for void.
    pub fn type_by_id(&self, id: u32) -> Option<Type<'a>> {
        let index = (id as usize).checked_sub(1)?;
        let start = *self.starts.get(index)? as usize;
        Type::at(self.types, start, id as usize).ok()
    }

    /// The type `id`, typedefs and qualifiers taken off.
    pub fn target(&self, id: u32) -> Option<Type<'a>> {
        use kind::{CONST, RESTRICT, TYPE_TAG, TYPEDEF, VOLATILE};
        self.chain(id).find(|found| !matches!(found.kind(), TYPEDEF | CONST | VOLATILE | RESTRICT | TYPE_TAG))
    }

    /// The type `id`, the one it refers to, and so on.
    pub fn chain(&self, id: u32) -> impl Iterator<Item = Type<'a>> {
        std::iter::successors(self.type_by_id(id), |found| self.type_by_id(found.refers_to()?))
            .take(LONGEST_CHAIN)
    }

    /// Whether the string at `offset` is `text`.
    pub fn has_name(&self, offset: u32, text: &str) -> bool {
        let rest = self.strings.get(offset as usize..).and_then(|rest| rest.strip_prefix(text.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }
}

impl<'a> Type<'a> {
    fn at(types: &'a [u8], at: usize, id: usize) -> Result<Self, FormatError> {
        const CUT: FormatError = FormatError::Cut("its types");
        let rest = types.get(at..).ok_or(CUT)?;
        let (head, rest) = rest.split_at_checked(TYPE_BYTES).ok_or(CUT)?;
        let [name_offset, info, size_or_reference] = words(head);
        let mut found = Type { name_offset, info, size_or_reference, behind: &[] };
        let kind = found.kind();
        let (once, each) =
            BEHIND.get(kind as usize).filter(|_| kind != 0).ok_or(FormatError::Kind { id, kind })?;
        found.behind = rest.get(..once + each * found.parts()).ok_or(CUT)?;
        Ok(found)
    }

    /// One of [`kind`]. The unused bits above are read along: should they come to mean something, the kind is unknown.
    pub const fn kind(&self) -> u32 {
        self.info >> 24 & 0x7f
    }

    /// How many members, enumerators or parameters it has; the unused bits above read along, too.
    pub const fn parts(&self) -> usize {
        (self.info & 0x00ff_ffff) as usize
    }

    fn refers_to(&self) -> Option<u32> {
        use kind::{CONST, FUNC, PTR, RESTRICT, TYPE_TAG, TYPEDEF, VOLATILE};
        let refers = matches!(self.kind(), PTR | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | TYPE_TAG);
        refers.then_some(self.size_or_reference)
    }

    /// Members of a structure or union; nothing for other kinds.
    pub fn members(&self) -> impl Iterator<Item = Member> + 'a {
        let is_layout = matches!(self.kind(), kind::STRUCT | kind::UNION);
        let behind = if is_layout { self.behind } else { &[] };
        // Where bit fields are, the upper byte of an offset is the width of one.
        let offset_bits = if self.info >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
        behind.chunks_exact(12).map(move |member| {
            let [name_offset, type_id, offset] = words(member);
            Member { name_offset, type_id, bit_offset: offset & offset_bits }
        })
    }

    /// Enumerators, as the offset of a name and a value; nothing for other kinds.
    pub fn enumerators(&self) -> impl Iterator<Item = (u32, u32)> + 'a {
        let behind = if self.kind() == kind::ENUM { self.behind } else { &[] };
        behind.chunks_exact(8).map(|enumerator| {
            let [name_offset, value] = words(enumerator);
            (name_offset, value)
        })
    }
}

/// The bytes of all types, and those of all names.
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

/// A blob in which `types` (number, kind, name) have these numbers, and all others are declared without a name.
pub fn with_types(types: impl Iterator<Item = (u32, u32, &'static str)> + Clone) -> Vec<u8> {
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

/// The first `N` numbers in `bytes`, which has them.
fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let (words, _) = bytes.as_chunks();
    std::array::from_fn(|index| words.get(index).map_or(0, |&word| u32::from_ne_bytes(word)))
}
