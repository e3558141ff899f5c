//! Rows as CSV (RFC 4180).

use std::io::{self, BufWriter, Write};

use super::{Column, Table, Value};

/// Writes CSV.
pub struct Csv<W: Write> {
    out: BufWriter<W>,
}

impl<W: Write> Csv<W> {
    /// Writes the line of names.
    pub fn new(columns: &[Column], out: W) -> io::Result<Self> {
        let mut out = BufWriter::new(out);
        let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
        write!(out, "{}\r\n", names.join(","))?;
        Ok(Self { out })
    }
}

impl<W: Write + Send> Table for Csv<W> {
    fn row(&mut self, row: &[Value<'_>]) -> io::Result<()> {
        for (n, value) in row.iter().enumerate() {
            if n > 0 {
                self.out.write_all(b",")?;
            }
            match value {
                Value::Missing => {}
                Value::Number(number) => write!(self.out, "{number}")?,
                Value::Signed(number) => write!(self.out, "{number}")?,
                Value::Flag(flag) => write!(self.out, "{flag}")?,
                Value::Text(text) if text.contains([',', '"', '\r', '\n']) => {
                    write!(self.out, "\"{}\"", text.replace('"', "\"\""))?;
                }
                Value::Text(text) => self.out.write_all(text.as_bytes())?,
            }
        }
        self.out.write_all(b"\r\n")
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.out.flush()
    }
}
