//! The live tests: `cargo test -p tests --test live`, as root. See `tests::runner` for the options.

use std::process::ExitCode;

use tests::runner::ScenarioPace::{Alone, Short, Waiting};
use tests::runner::{self, Scenario};
use tests::scenario::{
    abort, accepts, binds, budget, churn, close, containerd, doctor, documents, dwells, ending, fallback,
    faults, filters, flood, handshake, hosts, identity, joined, million, names, nat, odd, owner, pools,
    ports, privileges, program, prometheus, recording, report, restarts, scrape, screen, seed, serve,
    servers, stacks, storm, threads, triggers, verdict, workloads,
};

macro_rules! scenarios {
    ($($module:ident :: $name:ident, $pace:expr;)*) => {
        &[$(Scenario { name: concat!(stringify!($module), "::", stringify!($name)), run: $module::$name, pace: $pace }),*]
    };
}

const SCENARIOS: &[Scenario] = scenarios! {
    close::active_close_until_expiry, Waiting;
    close::late_fin_in_a_later_timer_bucket, Waiting;
    close::repeated_fin_extends_time_wait, Waiting;
    close::late_fin_in_the_same_timer_bucket, Short;
    close::orphan_times_out, Short;
    close::orphan_as_a_full_socket, Short;
    close::held_fin_wait2, Short;
    close::simultaneous_close, Short;
    close::close_wait_held, Short;
    close::fin_wait1_held, Short;
    close::mapped_addresses, Short;
    ending::reused_by_connect, Short;
    ending::reopened_by_syn, Short;
    ending::time_wait_reset, Short;
    ending::fin_wait2_reset, Short;
    ending::fin_wait2_gets_data, Short;
    ending::overflow, Short;
    ending::time_wait_killed, Short;
    ending::fin_wait2_killed, Short;
    ending::established_killed, Short;
    ending::namespace_purged, Short;
    ending::last_ack_reset, Short;
    abort::linger_zero, Short;
    abort::unread_bytes, Short;
    abort::lost_peer, Short;
    handshake::refused, Short;
    handshake::syn_timeout, Short;
    handshake::syn_recv_timeout, Short;
    handshake::syn_recv_reset, Short;
    handshake::syn_recv_held, Short;
    handshake::no_port_left, Short;
    handshake::syncookies, Short;
    fallback::late_fin_without_segments, Short;
    fallback::hidden_symbols, Short;
    fallback::no_cookies, Short;
    filters::events, Short;
    filters::counts, Short;
    names::added_renamed_deleted, Short;
    workloads::named, Short;
    workloads::peers, Short;
    workloads::come_and_go, Short;
    workloads::podman, Short;
    containerd::pod, Short;
    odd::attempts, Short;
    odd::icmp, Short;
    odd::resets, Short;
    odd::orphans, Alone;
    odd::time_wait, Short;
    odd::fast_open, Short;
    odd::listeners, Short;
    odd::migration, Short;
    odd::kinds, Short;
    odd::mptcp, Short;
    odd::owners, Short;
    odd::io_uring, Short;
    odd::counters, Alone;
    owner::handed_over_to_a_child, Short;
    owner::hostile_name, Short;
    seed::older_than_the_tracer, Short;
    seed::time_wait_killed, Short;
    seed::two_tracers, Short;
    identity::one_cookie_many_sockets, Short;
    identity::full_orphan, Waiting;
    identity::namespace_nobody_can_enter, Short;
    binds::budget, Short;
    binds::free_ports, Short;
    binds::haproxy, Short;
    pools::nginx_without_keepalive, Short;
    stacks::c_with_frame_pointers, Short;
    stacks::c_without_frame_pointers, Short;
    stacks::recorded, Short;
    accepts::in_this_program, Alone;
    accepts::server_in_c, Alone;
    accepts::by_many_threads, Alone;
    stacks::rust, Short;
    stacks::go, Short;
    stacks::python, Short;
    stacks::node, Short;
    stacks::podman, Short;
    ports::exhaustion, Short;
    ports::search, Alone;
    budget::views_agree, Short;
    ports::budgets, Short;
    ports::single_snapshot, Short;
    nat::masquerade, Short;
    nat::backends, Short;
    privileges::least_to_trace, Short;
    privileges::file_capabilities, Short;
    threads::of_live_commands, Short;
    threads::of_readers, Short;
    program::closed_pipe, Short;
    program::ordinary_user, Short;
    dwells::known_dwells, Short;
    servers::postgres_and_redis, Short;
    recording::same_as_live, Short;
    recording::killed, Alone;
    recording::full_disk, Short;
    recording::series, Short;
    hosts::merged, Short;
    joined::both_ends, Short;
    triggers::incidents, Short;
    triggers::beside_traffic, Short;
    restarts::series, Short;
    restarts::killed, Alone;
    restarts::full_disk, Short;
    restarts::hangup, Short;
    restarts::pipe_without_a_writer, Short;
    faults::stalled_reader, Alone;
    faults::full_stdout, Short;
    faults::no_stderr, Short;
    faults::few_descriptors, Short;
    faults::little_memory, Short;
    faults::detached_from_outside, Short;
    faults::namespace_deleted_under_load, Alone;
    faults::clock_stepped, Alone;
    faults::cpu_offlined, Short;
    report::in_a_browser, Short;
    screen::numbers_and_keys, Short;
    screen::dumb_and_pasted, Short;
    verdict::healthy, Short;
    verdict::no_port_left, Short;
    verdict::leak, Short;
    verdict::gateway, Short;
    verdict::losses, Short;
    verdict::no_privilege, Short;
    doctor::time_wait_overflow, Short;
    doctor::forgotten_close, Short;
    doctor::syn_meets_time_wait, Short;
    doctor::accept_queue, Short;
    doctor::syn_queue, Short;
    doctor::bad_ends, Short;
    doctor::half_closed, Short;
    doctor::settings, Short;
    doctor::ports_exhausted, Short;
    doctor::from_recording, Short;
    doctor::ordinary_user, Short;
    documents::commands_run, Short;
    serve::counters, Short;
    serve::slow_scrapers, Short;
    serve::formats, Short;
    prometheus::rules_and_panels, Short;
    prometheus::metrics_pass_promtool, Short;
    scrape::busy, Alone;
    churn::containers, Alone;
    storm::storm, Alone;
    million::time_wait, Alone;
    flood::highest_rate, Alone;
    flood::stopped_reader, Alone;
};

/// They are about the program's own output, files, arguments and screen. The guests of `cargo xtask test` leave them out.
const ON_EVERY_KERNEL: &[&str] = &[
    "filters::",
    "program::closed_pipe",
    "recording::killed",
    "recording::full_disk",
    "recording::series",
    "hosts::",
    "joined::",
    "triggers::",
    "restarts::",
    "faults::full_stdout",
    "faults::no_stderr",
    "faults::few_descriptors",
    "report::",
    "screen::",
    "verdict::",
    "doctor::from_recording",
    "documents::",
    "serve::slow_scrapers",
    "serve::formats",
    "prometheus::",
];

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(odd::RECEIVE) {
        // A scenario started this program for it.
        return odd::receive_socket().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    if let Some(done) = churn::as_child().or_else(workloads::as_child) {
        return done;
    }
    if runner::main(SCENARIOS, ON_EVERY_KERNEL) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
