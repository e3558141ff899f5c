//! Idle sockets: time until the output is complete, and memory.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Bench;
use super::load::IdleSockets;
use super::spread::Spread;

/// The command of the load, the number of sockets, and their name in the table.
const IDLE: [(&str, &str, &str); 4] = [
    ("rest", "1000", "1,000 in TIME_WAIT"),
    ("hold", "9000", "18,000 connected"),
    ("rest", "120000", "120,000 in TIME_WAIT"),
    ("rest", "1000000", "1,000,000 in TIME_WAIT"),
];

/// A timewait socket lives for 60 s.
const LIFETIME: Duration = Duration::from_secs(50);

/// The timed commands; the first three are tcptrace.
const TIMED: [(&str, &str); 5] = [
    ("tcptrace states", "TCPTRACE states"),
    ("tcptrace top --once", "TCPTRACE top --once"),
    ("tcptrace ports, 1 s", "TCPTRACE ports --json --duration 1s"),
    ("ss -tan \\| awk", "ss -tan | awk '{ n[$1]++ } END { for (s in n) print s, n[s] }'"),
    ("netstat -tan \\| awk", "netstat -tan | awk '{ n[$6]++ } END { for (s in n) print s, n[s] }'"),
];

pub fn measure(bench: &Bench, rounds: u32) -> Result<()> {
    println!(
        "\nTime in ms until everything is printed, and the peak of resident memory in MiB. Medians of at most {rounds} \
         rounds.\n"
    );
    println!("| sockets | {} | `states` of `ss` |", TIMED.map(|(name, _)| name).join(" | "));
    println!("|---|{}---:|", "---:|".repeat(TIMED.len()));
    for (task, count, name) in IDLE {
        let made = Instant::now();
        let idle = IdleSockets::start(bench, [task, count])?;
        let mut times: [Vec<f64>; TIMED.len()] = Default::default();
        let mut peaks = times.clone();
        for round in 0..rounds {
            for (index, (_, line)) in TIMED.iter().enumerate() {
                let line = line.replace("TCPTRACE", &bench.tcptrace.display().to_string());
                let (milliseconds, peak) = timed(bench, &idle, &line)?;
                times[index].push(milliseconds);
                peaks[index].push(peak);
            }
            // Some would end during the next round.
            if made.elapsed() * (round + 2) / (round + 1) > LIFETIME {
                break;
            }
        }
        let [states, _, _, ss, _] = times.each_ref().map(|times| Spread::of(times).median());
        let ratio = states.zip(ss).map_or_else(String::new, |(states, ss)| format!("{:.2}", states / ss));
        let columns: Vec<String> = (times.iter().zip(&peaks))
            .map(|(times, peaks)| {
                format!("{}; {} MiB", Spread::of(times).rounded(), Spread::of(peaks).median_text())
            })
            .collect();
        println!("| {name} | {} | {ratio} |", columns.join(" | "));
    }
    Ok(())
}

/// Milliseconds, and the peak memory of its largest process in MiB.
fn timed(bench: &Bench, idle: &IdleSockets, line: &str) -> Result<(f64, f64)> {
    let peak = bench.scratch.join("peak");
    let mut command = idle.command("/usr/bin/time");
    command.args(["--format", "%M", "--output"]).arg(&peak).args(["sh", "-c", line]);
    let begun = Instant::now();
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output().context("cannot start it")?;
    let elapsed = begun.elapsed().as_secs_f64();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kib: f64 = std::fs::read_to_string(&peak)?.trim().parse()?;
    Ok((elapsed * 1e3, kib / 1024.0))
}
