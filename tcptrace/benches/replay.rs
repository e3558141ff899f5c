//! Seekable replay: time to read a recording, time to seek to a moment, memory.
//!
//! `cargo bench -p tcptrace --bench replay -- FILE [--seeks 200]`; `--bench session -- --keep FILE` creates a file.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use tcptrace::{
    aggregate::{Grouping, Scope, detail::Query},
    filter::Filter,
    model::Nanos,
    replay::{Player, SeekResult, SeekTarget},
    session::Input,
};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let Some(path) = args.first() else {
        eprintln!("replay: skipped, it takes a recording: --bench replay -- FILE");
        return;
    };
    let seeks = args.iter().position(|arg| arg == "--seeks").and_then(|at| args.get(at + 1)?.parse().ok());
    let wanted = SeekTarget {
        filter: Filter::EVERYTHING,
        query: Query::new(Grouping::SERVICE),
        scope: Scope::TimewaitSockets,
        interval: Nanos::SECOND,
        source: "bench".into(),
        peer_names: std::sync::Arc::default(),
        window: tcptrace::pipeline::Window::default(),
    };
    let before = status_kib("VmRSS:");
    let began = Instant::now();
    let mut player =
        Player::open(Input::open(Path::new(path)).expect("a file"), wanted, |_, _| {}).expect("a recording");
    let took = began.elapsed();
    let last = seek_to(&mut player, usize::MAX).0;
    let (kept, bytes) = player.kept();
    println!("snapshots                 {}", player.index().len());
    println!("records                   {last}");
    println!(
        "read and indexed in       {:.2} s, {:.0} records/s",
        took.as_secs_f64(),
        last as f64 / took.as_secs_f64()
    );
    println!("states kept               {kept}, some {} MiB", bytes >> 20);
    let (random, back, on) = seek(&mut player, seeks.unwrap_or(200));
    for (name, mut times) in [("to any moment", random), ("one back", back), ("one on", on)] {
        times.sort_unstable();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        println!("{name:25} p50 {:.0} ms, p90 {:.0} ms, max {:.0} ms", at(0.5), at(0.9), at(1.0));
    }
    println!("peak memory               {} MiB ({} before)", status_kib("VmHWM:") / 1024, before / 1024);
}

fn seek(player: &mut Player, seeks: usize) -> (Vec<Duration>, Vec<Duration>, Vec<Duration>) {
    let snapshots = player.index().len() as u64;
    let mut random: u64 = 1;
    let mut times = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..seeks {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n = ((random >> 33) % snapshots.max(1)) as usize;
        times.0.push(seek_to(player, n).1);
        times.1.push(seek_to(player, n.saturating_sub(1)).1);
        times.2.push(seek_to(player, n).1);
    }
    times
}

/// Seeks to snapshot `n`; returns its records so far and the time of the seek.
fn seek_to(player: &mut Player, n: usize) -> (u64, Duration) {
    let began = Instant::now();
    match player.show(n, &mut || true).expect("a recording") {
        SeekResult::Snapshot(snapshot) => (snapshot.records, began.elapsed()),
        SeekResult::Interrupted => unreachable!("nothing interrupts"),
    }
}

fn status_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}
