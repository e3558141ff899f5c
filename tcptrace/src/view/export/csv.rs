//! Writes rows as CSV (RFC 4180).

use std::io::{self, BufWriter, Write};

use super::table::{ExportColumn, ExportValue, Table};
use crate::model::text::csv_cell;

/// CSV writer.
pub struct Csv<W: Write> {
    out: BufWriter<W>,
}

impl<W: Write> Csv<W> {
    /// Writes the header line.
    pub fn new(columns: &[ExportColumn], out: W) -> io::Result<Self> {
        let mut out = BufWriter::new(out);
        let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
        write!(out, "{}\r\n", names.join(","))?;
        Ok(Self { out })
    }
}

impl<W: Write + Send> Table for Csv<W> {
    fn row(&mut self, row: &[ExportValue<'_>]) -> io::Result<()> {
        for (n, value) in row.iter().enumerate() {
            if n > 0 {
                self.out.write_all(b",")?;
            }
            match value {
                ExportValue::Missing => {}
                ExportValue::Number(number) => write!(self.out, "{number}")?,
                ExportValue::Signed(number) => write!(self.out, "{number}")?,
                ExportValue::Flag(flag) => write!(self.out, "{flag}")?,
                ExportValue::Text(text) => self.out.write_all(csv_cell(text).as_bytes())?,
            }
        }
        self.out.write_all(b"\r\n")
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.out.flush()
    }
}
