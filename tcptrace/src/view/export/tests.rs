//! The same rows in every format.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use super::*;

/// A file in memory that outlives its writer.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const COLUMNS: [Column; 5] = [
    column("ts_ns", Kind::Time),
    column("n", Kind::Number),
    column("signed", Kind::Signed),
    column("flag", Kind::Flag),
    column("text", Kind::Text),
];

fn written(format: Format) -> Vec<u8> {
    let out = Shared::default();
    let mut table = format.table(&COLUMNS, Box::new(out.clone())).expect("memory");
    let rows = [
        [
            Value::Number(1_767_323_045_000_000_000),
            Value::Number(u64::MAX),
            Value::Signed(-5),
            Value::Flag(true),
            Value::text("a,\"b\"\n"),
        ],
        [const { Value::Missing }; 5],
    ];
    for row in &rows {
        table.row(row).expect("memory");
    }
    table.finish().expect("memory");
    out.0.lock().expect("no panic").clone()
}

#[test]
fn csv_quotes_what_it_must() {
    assert_eq!(
        String::from_utf8_lossy(&written(Format::Csv)),
        "ts_ns,n,signed,flag,text\r\n1767323045000000000,18446744073709551615,-5,true,\"a,\"\"b\"\"\n\"\r\n,,,,\r\n"
    );
}

#[test]
fn json_lines_leave_out_what_is_missing() {
    assert_eq!(
        String::from_utf8_lossy(&written(Format::Jsonl)),
        "{\"ts_ns\":1767323045000000000,\"n\":18446744073709551615,\"signed\":-5,\"flag\":true,\
         \"text\":\"a,\\\"b\\\"\\n\"}\n{}\n"
    );
}

#[test]
fn parquet_comes_back() {
    use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
    let bytes = bytes::Bytes::from(written(Format::Parquet));
    let reader = SerializedFileReader::new(bytes).expect("Parquet");
    assert_eq!(reader.metadata().file_metadata().num_rows(), 2);
    let rows: Vec<String> =
        reader.get_row_iter(None).expect("rows").map(|row| row.expect("a row").to_string()).collect();
    assert!(rows[0].contains("n: 18446744073709551615") && rows[0].contains("signed: -5"), "{rows:?}");
    assert!(rows[1].contains("flag: null"), "{rows:?}");
}

#[test]
fn the_end_of_a_name_tells_the_format() {
    assert_eq!(Format::of_extension("parquet"), Some(Format::Parquet));
    assert_eq!(Format::of_extension("CSV"), Some(Format::Csv));
    assert_eq!(Format::of_extension("xlsx"), None);
}
