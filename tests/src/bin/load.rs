//! Load for benchmarks, in a network namespace of its own: `load churn --threads 2 --seconds 3`.
//!
//! It prints its result as a line of JSON; `rest` and `hold` then keep their sockets until stdin ends.

use std::io::Read as _;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use tests::load::{self, LoadResult};

#[derive(Parser)]
struct LoadCli {
    #[command(subcommand)]
    task: LoadTask,
}

#[derive(Subcommand)]
enum LoadTask {
    /// Connections, as fast as they can be made without --rate
    Churn {
        #[command(flatten)]
        run: LoadRun,
        /// Go on in a new network namespace after so many
        #[arg(long)]
        per_namespace: Option<u64>,
        /// At most so many a second
        #[arg(long)]
        rate: Option<f64>,
    },
    /// Connections that stay, and messages over them
    Talk {
        connections: u64,
        #[command(flatten)]
        run: LoadRun,
    },
    /// Sockets in TIME_WAIT
    Rest { sockets: u64 },
    /// Connections that stay and are silent; each is two sockets
    Hold { connections: u64 },
}

#[derive(Args)]
struct LoadRun {
    #[arg(long, default_value_t = 2)]
    threads: u8,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

impl LoadRun {
    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn main() -> Result<()> {
    let cli = LoadCli::parse();
    load::enter_namespace()?;
    load::raise_descriptors()?;
    match cli.task {
        LoadTask::Churn { run, per_namespace, rate } => {
            print_result(load::churn(run.threads, run.time(), per_namespace, rate)?)
        }
        LoadTask::Talk { connections, run } => {
            print_result(load::talk(run.threads, connections, run.time())?)
        }
        LoadTask::Rest { sockets } => {
            load::rest(sockets)?;
            wait(sockets);
            Ok(())
        }
        LoadTask::Hold { connections } => {
            let _held = load::hold(0, connections)?;
            wait(connections * 2);
            Ok(())
        }
    }
}

fn print_result(done: LoadResult) -> Result<()> {
    println!("{}", serde_json::to_string(&done)?);
    Ok(())
}

fn wait(sockets: u64) {
    println!("{{\"sockets\":{sockets}}}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
