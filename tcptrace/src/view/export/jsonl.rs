//! Rows as JSON lines. A value that is missing is left out.

use std::io::{self, BufWriter, Write};

use super::{Column, Table, Value};

/// Writes JSON lines.
pub struct Jsonl<W: Write> {
    columns: &'static [Column],
    out: BufWriter<W>,
}

impl<W: Write> Jsonl<W> {
    /// Begins.
    pub fn new(columns: &'static [Column], out: W) -> Self {
        Self { columns, out: BufWriter::new(out) }
    }
}

impl<W: Write + Send> Table for Jsonl<W> {
    fn row(&mut self, row: &[Value<'_>]) -> io::Result<()> {
        let mut separator = "{";
        for (column, value) in self.columns.iter().zip(row) {
            if *value == Value::Missing {
                continue;
            }
            write!(self.out, "{separator}\"{}\":", column.name)?;
            separator = ",";
            match value {
                Value::Missing => {}
                Value::Number(number) => write!(self.out, "{number}")?,
                Value::Signed(number) => write!(self.out, "{number}")?,
                Value::Flag(flag) => write!(self.out, "{flag}")?,
                Value::Text(text) => serde_json::to_writer(&mut self.out, text)?,
            }
        }
        self.out.write_all(if separator == "{" { b"{}\n" } else { b"}\n" })
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.out.flush()
    }
}
