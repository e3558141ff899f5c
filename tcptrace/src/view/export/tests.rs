//! Tests that every format writes the same rows.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use super::{table::column, *};

/// An in-memory file that outlives its writer.
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

const COLUMNS: [ExportColumn; 5] = [
    column("ts_ns", ColumnKind::Time),
    column("n", ColumnKind::Number),
    column("signed", ColumnKind::Signed),
    column("flag", ColumnKind::Flag),
    column("text", ColumnKind::Text),
];

fn written(format: ExportFormat) -> Vec<u8> {
    let out = Shared::default();
    let mut table = format.table(&COLUMNS, Box::new(out.clone())).expect("memory");
    let rows = [
        [
            ExportValue::Number(1_767_323_045_000_000_000),
            ExportValue::Number(u64::MAX),
            ExportValue::Signed(-5),
            ExportValue::Flag(true),
            ExportValue::text("a,\"b\"\n"),
        ],
        [const { ExportValue::Missing }; 5],
    ];
    for row in &rows {
        table.row(row).expect("memory");
    }
    table.finish().expect("memory");
    out.0.lock().expect("no panic").clone()
}

#[test]
fn csv_quotes_special_characters() {
    assert_eq!(
        String::from_utf8_lossy(&written(ExportFormat::Csv)),
        "ts_ns,n,signed,flag,text\r\n1767323045000000000,18446744073709551615,-5,true,\"a,\"\"b\"\"\n\"\r\n,,,,\r\n"
    );
}

#[test]
fn json_lines_omit_missing_values() {
    assert_eq!(
        String::from_utf8_lossy(&written(ExportFormat::Jsonl)),
        "{\"ts_ns\":1767323045000000000,\"n\":18446744073709551615,\"signed\":-5,\"flag\":true,\
         \"text\":\"a,\\\"b\\\"\\n\"}\n{}\n"
    );
}

#[test]
fn parquet_round_trips() {
    use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
    let bytes = bytes::Bytes::from(written(ExportFormat::Parquet));
    let reader = SerializedFileReader::new(bytes).expect("Parquet");
    assert_eq!(reader.metadata().file_metadata().num_rows(), 2);
    let rows: Vec<String> =
        reader.get_row_iter(None).expect("rows").map(|row| row.expect("a row").to_string()).collect();
    assert!(rows[0].contains("n: 18446744073709551615") && rows[0].contains("signed: -5"), "{rows:?}");
    assert!(rows[1].contains("flag: null"), "{rows:?}");
}

#[test]
fn file_extension_selects_the_format() {
    assert_eq!(ExportFormat::of_extension("parquet"), Some(ExportFormat::Parquet));
    assert_eq!(ExportFormat::of_extension("CSV"), Some(ExportFormat::Csv));
    assert_eq!(ExportFormat::of_extension("xlsx"), None);
}
