//! Pieces of a recording: length, time span, number, and the start of the next one.

use super::*;
use crate::session::{frame, message::END, output::RecordingOutput};

const S: u64 = 1_000_000_000;

fn length_of(path: &Path) -> u64 {
    std::fs::metadata(path).expect("the file").len()
}

fn open(folder: &TempDir, keep: Keep) -> RecordingOutput {
    RecordingOutput::open(&folder.path().join("a.tcptrace"), keep, Existing::Keep).expect("a folder")
}

#[test]
fn file_status_matches_its_content() {
    let folder = TempDir::new().expect("a folder");
    let mut output = open(&folder, Keep::All);
    assert!(output.has_header_per_piece());
    output.begin(b"header", Nanos(5 * S)).expect("a disk");
    output.head(b"known").expect("a disk");
    assert_eq!(output.bytes(), 11);
    for (records, ts) in [(3, 6 * S), (4, 8 * S)] {
        output.append(b"batch", records, Nanos(5 * S), Nanos(ts)).expect("a disk");
        assert!(!output.wants_piece(Nanos(u64::MAX)), "there is one file");
        assert_eq!(output.bytes(), length_of(output.path()));
    }
    assert!(output.dump(b"header").is_none(), "nothing is held");
    let written = output.finish().expect("a disk");
    assert_eq!((written.files, written.records, written.left_out, written.span), (1, 7, 0, Nanos(3 * S)));
    assert_eq!(written.bytes, length_of(&written.path));
    assert_eq!(
        std::fs::read(&written.path).expect("the file"),
        [&b"headerknownbatchbatch"[..], &END].concat()
    );
}

#[test]
fn series_file_ends_at_its_size_or_time() {
    let folder = TempDir::new().expect("a folder");
    let mut output = open(&folder, Keep::Series { rotate: Rotate::Size(10), files: Some(2) });
    let mut before = 0;
    for n in 1..=4 {
        output.begin(b"head", Nanos(S)).expect("a disk");
        output.append(b"batch", 1, Nanos(S), Nanos(2 * S)).expect("a disk");
        assert!(!output.wants_piece(Nanos(u64::MAX)), "9 bytes");
        output.append(b"x", 1, Nanos(S), Nanos(2 * S)).expect("a disk");
        assert!(output.wants_piece(Nanos(S)), "10 bytes");
        assert_eq!(output.bytes(), before + 10);
        before += 10 + END.len() as u64;
        assert_eq!((output.written().records, output.written().files), (2, n));
        let name = format!("a-000{n}.tcptrace");
        assert_eq!(output.path().file_name().expect("a name").to_str(), Some(&*name));
    }
    let written = output.finish().expect("a disk");
    assert_eq!((written.bytes, length_of(&written.path)), (10 + END.len() as u64, 10 + END.len() as u64));
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 2, "the newest stay");

    let folder = TempDir::new().expect("a folder");
    let mut output = open(&folder, Keep::Series { rotate: Rotate::Time(Nanos(2 * S)), files: None });
    // Its start is unknown before the first record.
    output.begin(b"head", Nanos(0)).expect("a disk");
    assert!(!output.wants_piece(Nanos(9 * S)));
    output.append(b"x", 1, Nanos(5 * S), Nanos(5 * S)).expect("a disk");
    assert!(!output.wants_piece(Nanos(7 * S - 1)) && output.wants_piece(Nanos(7 * S)));
    output.begin(b"head", Nanos(8 * S)).expect("a disk");
    output.append(b"x", 1, Nanos(6 * S), Nanos(8 * S)).expect("a disk");
    assert!(!output.wants_piece(Nanos(10 * S - 1)) && output.wants_piece(Nanos(10 * S)));
}

#[test]
fn flight_pieces_cover_the_time_plus_one_piece() {
    let folder = TempDir::new().expect("a folder");
    let mut output = open(&folder, Keep::Last(Nanos(16 * S)));
    assert!(!output.has_header_per_piece());
    let mut held = Vec::new();
    for n in 0..30 {
        let began = (100 + 2 * n) * S;
        output.begin(b"header", Nanos(began)).expect("memory");
        output.head(b"k").expect("memory");
        output
            .append(format!("<{n}>").as_bytes(), 1, Nanos(began), Nanos(began + 2 * S - 1))
            .expect("memory");
        // An eighth of the retained time.
        assert!(!output.wants_piece(Nanos(began + 2 * S - 1)) && output.wants_piece(Nanos(began + 2 * S)));
        held.push((n, began));
        // The first piece is not needed if the second covers the retained time up to the start of the newest.
        while held.get(1).is_some_and(|&(_, second)| began - second >= 16 * S) {
            held.remove(0);
        }
        let bytes: usize = held.iter().map(|(n, _)| format!("k<{n}>").len()).sum();
        assert_eq!((output.bytes(), output.written().left_out), (bytes as u64, held.len() as u64), "{n}");
    }
    assert_eq!((output.written().files, output.written().records), (0, 0), "nothing is written yet");
    let bodies = held.iter().map(|(n, _)| format!("<{n}>")).collect::<Vec<_>>().concat();
    let wanted = [b"headerk", bodies.as_bytes(), &END].concat();
    for (files, name) in [(1, "a-0001.tcptrace"), (2, "a-0002.tcptrace"), (3, "a.tcptrace")] {
        let written =
            if files == 3 { output.finish() } else { output.dump(b"header").expect("something is held") };
        let written = written.expect("a disk");
        assert_eq!(written.path.file_name().expect("a name").to_str(), Some(name));
        assert_eq!(std::fs::read(&written.path).expect("the file"), wanted, "{name}");
        assert_eq!((written.files, written.records, written.left_out), (files, held.len() as u64, 0));
        assert_eq!((written.bytes, written.span), (wanted.len() as u64, Nanos(18 * S - 1)));
    }
}

#[test]
fn incidents_are_numbered_bounded_and_not_written_at_the_end() {
    let folder = TempDir::new().expect("a folder");
    let mut output = open(&folder, Keep::Incidents { last: Nanos(16 * S), files: Some(2), bytes: None });
    assert!(output.is_for_incidents() && !output.has_header_per_piece());
    output.begin(b"header", Nanos(S)).expect("memory");
    output.append(b"<0>", 1, Nanos(S), Nanos(2 * S)).expect("memory");
    for n in 1..=3 {
        let written =
            output.dump(format!("incident {n}").as_bytes()).expect("something is held").expect("a disk");
        let content = std::fs::read(&written.path).expect("the file");
        assert!(content.starts_with(format!("incident {n}<0>").as_bytes()));
    }
    let written = output.finish().expect("nothing to write");
    assert_eq!((written.files, written.records), (0, 0));
    let exists = |name: &str| folder.path().join(name).exists();
    assert!(!exists("a.tcptrace") && !exists("a-0001.tcptrace"));
    assert!(exists("a-0002.tcptrace") && exists("a-0003.tcptrace"));
}

#[test]
fn impossible_message_length_is_damage() {
    let next = |length: i32, rest: usize| {
        let bytes = [&[0xff; 4][..], &length.to_le_bytes(), &vec![0xff; rest]].concat();
        let mut frames = frame::Frames::at(io::Cursor::new(bytes), 100);
        match frames.next() {
            Ok(frame::NextFrame::Torn(bytes)) => format!("torn at {bytes}"),
            Ok(frame::NextFrame::End) => "end".to_owned(),
            Ok(frame::NextFrame::Message(..)) => "a message".to_owned(),
            Err(ReadError::Damaged(damage)) => format!("{} at {}", damage.what, damage.at),
            Err(error) => error.to_string(),
        }
    };
    assert_eq!(next(0, 3), "end");
    assert_eq!(next(-1, 3), "a negative length at 100");
    assert_eq!(next((1 << 20) + 1, 3), "a message longer than any at 100");
    assert_eq!(next(i32::MAX, 3), "a message longer than any at 100");
    assert_eq!(next(1 << 20, 3), "torn at 11", "it may still come");
    assert_eq!(next(8, 7), "torn at 15");
    assert_eq!(next(8, 8), "a message that can't be made out at 100");
    let mut frames = frame::Frames::new(io::Cursor::new(b"no message".to_vec()));
    assert!(matches!(
        frames.next(),
        Err(ReadError::Damaged(Damage { at: 0, what: "no message begins here" }))
    ));
}
