//! The `tcptrace` command.

use std::process::ExitCode;

use tcptrace::privileges::{self, Work};

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    privileges::set_no_new_privileges();
    privileges::keep_for(Work::Command);
    tcptrace::cli::Cli::of_process().run()
}
