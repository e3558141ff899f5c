//! Writes rows as JSON lines. Missing values are left out.

use std::io::{self, BufWriter, Write};

use super::table::{ExportColumn, ExportValue, Table};

/// JSON lines writer.
pub struct Jsonl<W: Write> {
    columns: &'static [ExportColumn],
    out: BufWriter<W>,
}

impl<W: Write> Jsonl<W> {
    /// Creates a writer; JSON lines have no header.
    pub fn new(columns: &'static [ExportColumn], out: W) -> Self {
        Self { columns, out: BufWriter::new(out) }
    }
}

impl<W: Write + Send> Table for Jsonl<W> {
    fn row(&mut self, row: &[ExportValue<'_>]) -> io::Result<()> {
        let mut separator = "{";
        for (column, value) in self.columns.iter().zip(row) {
            if *value == ExportValue::Missing {
                continue;
            }
            write!(self.out, "{separator}\"{}\":", column.name)?;
            separator = ",";
            match value {
                ExportValue::Missing => {}
                ExportValue::Number(number) => write!(self.out, "{number}")?,
                ExportValue::Signed(number) => write!(self.out, "{number}")?,
                ExportValue::Flag(flag) => write!(self.out, "{flag}")?,
                ExportValue::Text(text) => serde_json::to_writer(&mut self.out, text)?,
            }
        }
        self.out.write_all(if separator == "{" { b"{}\n" } else { b"}\n" })
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.out.flush()
    }
}
