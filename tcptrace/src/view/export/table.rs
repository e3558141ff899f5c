//! A table: its columns, its values, and the interface of its writers.

use std::{borrow::Cow, io};

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportColumn {
    /// Its name.
    pub name: &'static str,
    /// The type of its values.
    pub kind: ColumnKind,
}

/// Type of a column. Any value may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// Nanoseconds since the epoch; in Parquet a timestamp.
    Time,
    /// An unsigned integer; in Parquet 64 bits.
    Number,
    /// A signed integer.
    Signed,
    /// True or false.
    Flag,
    /// A text.
    Text,
}

/// A value in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportValue<'a> {
    /// No value.
    Missing,
    /// For [`ColumnKind::Time`] and [`ColumnKind::Number`].
    Number(u64),
    /// For [`ColumnKind::Signed`].
    Signed(i64),
    /// For [`ColumnKind::Flag`].
    Flag(bool),
    /// For [`ColumnKind::Text`].
    Text(Cow<'a, str>),
}

impl<'a> ExportValue<'a> {
    pub(super) fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn optional<T: Into<u64>>(number: Option<T>) -> Self {
        number.map_or(Self::Missing, |number| Self::Number(number.into()))
    }
}

/// Writes rows in one format.
pub trait Table: Send {
    /// Writes one row: a value per column.
    fn row(&mut self, row: &[ExportValue<'_>]) -> io::Result<()>;
    /// Writes the rest after the last row.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

pub(super) const fn column(name: &'static str, kind: ColumnKind) -> ExportColumn {
    ExportColumn { name, kind }
}
