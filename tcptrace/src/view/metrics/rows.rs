//! The table of metrics.

use std::fmt;

use prometheus_client::{metrics::MetricType, registry::Unit};

use super::{
    metric::{Metric, MetricsInput},
    samples::Samples,
};
use crate::{
    aggregate::{DestinationPorts, Group, StateDwells},
    lifecycle::{Closer, EndReason, Since},
    model::TcpState,
    view::losses::CAUSES,
};

const fn gauge(name: &'static str, help: &'static str, samples: WriteSamples) -> Metric {
    Metric { name, unit: None, kind: MetricType::Gauge, help, samples }
}

const fn counter(name: &'static str, help: &'static str, samples: WriteSamples) -> Metric {
    Metric { name, unit: None, kind: MetricType::Counter, help, samples }
}

impl Metric {
    const fn in_unit(self, unit: &'static Unit) -> Self {
        Self { unit: Some(unit), ..self }
    }
}

type WriteSamples = fn(&MetricsInput, &mut Samples<'_>) -> fmt::Result;

/// Every metric, in the order of the page.
pub static METRICS: &[Metric] = &[
    Metric {
        name: "tcptrace_build",
        unit: None,
        kind: MetricType::Info,
        help: "The tracer and the kernel it runs on.",
        samples: |shown, samples| {
            samples.info(&[("version", env!("CARGO_PKG_VERSION")), ("kernel", &shown.snapshot.host.kernel)])
        },
    },
    gauge("tcptrace_sockets", "Sockets in a state now.", |shown, samples| {
        states(samples, |state| shown.snapshot.states[state.index()].now)
    }),
    gauge(
        "tcptrace_fin_wait2_orphans",
        "Sockets in FIN_WAIT2 now that no process holds any more.",
        |shown, samples| {
            samples.number(&[], sum(shown, |group| group.fin_wait2_orphan))
        },
    ),
    counter("tcptrace_transitions", "Sockets that have entered a state.", |shown, samples| {
        states(samples, |state| shown.snapshot.states[state.index()].entered)
    }),
    Metric {
        name: "tcptrace_dwell",
        unit: Some(&Unit::Seconds),
        kind: MetricType::Histogram,
        help: "Time that sockets spent in a state, of dwells observed from start to end.",
        samples: |shown, samples| {
            shown.snapshot.dwells_by_role.iter().try_for_each(|of| {
                let labels = [("state", of.state.name()), ("role", of.role.name())];
                samples.dwells(&labels, &of.distribution)
            })
        },
    },
    counter(
        "tcptrace_dwells_unmeasured",
        "Dwells that have ended and are not in the histogram: they began before the trace, or their start was \
         inferred or missed.",
        |shown, samples| {
            let whole = shown.snapshot.dwells.iter().filter(|dwells| dwells.split.is_none());
            whole.into_iter().try_for_each(|StateDwells { state, distribution, .. }| {
                let counts = [
                    ("before_trace", distribution.at_least),
                    ("inferred", distribution.inferred),
                    ("missed", distribution.unknown),
                ];
                counts.into_iter().try_for_each(|(beginning, n)| {
                    samples.number(&[("state", state.name()), ("beginning", beginning)], n)
                })
            })
        },
    ),
    counter("tcptrace_time_wait_ended", "TIME_WAIT sockets that have ended, by reason.", |shown, samples| {
        let of = |reason| sum(shown, |group| group.time_wait.ended.of(reason).unwrap_or_default());
        let ends = EndReason::ALL.into_iter().filter(|reason| can_end_timewait(*reason));
        each(samples, "reason", ends.map(|reason| (reason.name(), of(reason))))
    }),
    counter(
        "tcptrace_time_wait_overflows",
        "Closes that should have left a TIME_WAIT and got none: tcp_max_tw_buckets, or no memory.",
        |shown, samples| samples.number(&[], ended(shown, EndReason::Overflow)),
    ),
    counter(
        "tcptrace_sockets_ended",
        "Sockets that have ended, by reason, except those that became TIME_WAIT or an orphan FIN_WAIT2.",
        |shown, samples| {
            each(samples, "reason", EndReason::ALL.map(|reason| (reason.name(), ended(shown, reason))))
        },
    ),
    counter("tcptrace_connects_failed", "Connects that ended without a connection, by reason.", |shown, samples| {
        let ended = |reason| (reason, sum(shown, |group| group.connects_ended[reason as usize]));
        let shown_reasons = EndReason::ALL.map(ended).into_iter().filter(|(reason, n)| *n > 0 || FAILURES.contains(reason));
        each(samples, "reason", shown_reasons.map(|(reason, n)| (reason.name(), n)))
    }),
    counter("tcptrace_closes", "Connections closed, including those in TIME_WAIT, by the side that closed first.", |shown, samples| {
        let of = |closer| sum(shown, |group| group.closed[closer as usize]);
        each(samples, "closer", Closer::ALL.map(|closer| (closer.name(), of(closer))))
    }),
    gauge(
        "tcptrace_service_sockets",
        "Sockets of a service in a state now, for the services that have a place; states without any are left out.",
        |shown, samples| {
            services(shown, |labels, group| {
                let present = TcpState::ALL.into_iter().filter(|state| group.counts[state.index()] > 0);
                present.into_iter().try_for_each(|state| {
                    let labels = [labels[0], labels[1], ("state", state.name())];
                    samples.number(&labels, group.counts[state.index()])
                })
            })
        },
    ),
    counter(
        "tcptrace_service_time_wait_entered",
        "Sockets of a service that have entered TIME_WAIT.",
        |shown, samples| services(shown, |labels, group| samples.number(labels, group.time_wait.entered)),
    ),
    counter(
        "tcptrace_service_closes",
        "Connections of a service closed, including those in TIME_WAIT, by the side that closed first.",
        |shown, samples| {
            services(shown, |labels, group| {
                let seen = Closer::ALL.into_iter().filter(|closer| group.closed[*closer as usize] > 0);
                seen.into_iter().try_for_each(|closer| {
                    let labels = [labels[0], labels[1], ("closer", closer.name())];
                    samples.number(&labels, group.closed[closer as usize])
                })
            })
        },
    ),
    gauge(
        "tcptrace_service_close_wait_oldest",
        "How long the oldest socket of a service in CLOSE_WAIT has been there, at least, and the process that owns most \
         of the service's sockets.",
        |shown, samples| {
            services(shown, |labels, group| {
                let Some(since) = group.oldest_close_wait.and_then(Since::time) else { return Ok(()) };
                let process = group.process.as_ref().map_or("", |process| process.comm.as_ref());
                samples.seconds(
                    &[labels[0], labels[1], ("process", process)],
                    shown.snapshot.ts.since(since).0,
                )
            })
        },
    )
    .in_unit(&Unit::Seconds),
    gauge(
        "tcptrace_service_fin_wait2_held",
        "Sockets of a service in FIN_WAIT2 now that a process still holds: no timeout ends them.",
        |shown, samples| services(shown, |labels, group| samples.number(labels, group.fin_wait2_held())),
    ),
    gauge("tcptrace_services_other", "Services without a place, which have no samples of their own.", |shown, samples| {
        samples.number(&[], shown.other_services())
    }),
    gauge(
        "tcptrace_ports_used",
        "Local ports in use towards a destination, for the destinations that have a place.",
        |shown, samples| destinations(shown, |labels, row| samples.number(labels, row.used)),
    ),
    gauge(
        "tcptrace_ports_available",
        "Local ports that a destination may have in all.",
        |shown, samples| {
            destinations(shown, |labels, row| {
                row.available.map_or(Ok(()), |available| samples.number(labels, available))
            })
        },
    ),
    gauge("tcptrace_ports_time_wait", "Local ports held by TIME_WAIT towards a destination.", |shown, samples| {
        destinations(shown, |labels, row| samples.number(labels, row.count(TcpState::TimeWait)))
    }),
    gauge(
        "tcptrace_ports_predicted",
        "Local ports that a destination will use if the rates stay the same.",
        |shown, samples| destinations(shown, |labels, row| samples.number(labels, row.predicted)),
    ),
    gauge(
        "tcptrace_ports_exhausted_in",
        "Time until a destination has no local port left; absent if it never runs out.",
        |shown, samples| {
            destinations(shown, |labels, row| {
                row.exhausted_in.map_or(Ok(()), |left| samples.seconds(labels, left.0))
            })
        },
    )
    .in_unit(&Unit::Seconds),
    counter(
        "tcptrace_ports_connect_failures",
        "Connects to a destination that found no local port.",
        |shown, samples| destinations(shown, |labels, row| samples.number(labels, row.connect_failures)),
    ),
    counter("tcptrace_records", "Records from the kernel side.", |shown, samples| {
        samples.number(&[], shown.snapshot.records)
    }),
    counter(
        "tcptrace_lost",
        "Lost or doubtful records, by cause; normally 0 everywhere.",
        |shown, samples| {
            each(samples, "cause", CAUSES.iter().map(|cause| (cause.name, (cause.of)(&shown.snapshot.losses))))
        },
    ),
    counter(
        "tcptrace_unseeded",
        "Sockets without a beginning in a network namespace that tcptrace has not visited, because no process is in it: no loss.",
        |shown, samples| samples.number(&[], shown.snapshot.losses.unseeded),
    ),
    gauge("tcptrace_table_rows", "Rows of the tracer's own tables, all bounded.", |shown, samples| {
        let tables = shown.snapshot.tables.iter();
        tables.into_iter().try_for_each(|&(table, rows)| {
            samples.number(&[("table", &table.replace(' ', "_"))], rows as u64)
        })
    }),
    counter("tcptrace_ebpf_run", "Time in the eBPF programs; absent unless kernel.bpf_stats_enabled is 1.", |shown, samples| {
        shown.cost.ebpf.map_or(Ok(()), |ebpf| samples.seconds(&[], ebpf.run_time_ns))
    })
    .in_unit(&Unit::Seconds),
    counter("tcptrace_ebpf_runs", "Runs of the eBPF programs; absent unless kernel.bpf_stats_enabled is 1.", |shown, samples| {
        shown.cost.ebpf.map_or(Ok(()), |ebpf| samples.number(&[], ebpf.runs))
    }),
    counter("process_cpu", "CPU time of the tracer in user space and in system calls.", |shown, samples| {
        samples.seconds(&[], shown.cost.cpu_ns)
    })
    .in_unit(&Unit::Seconds),
    gauge("process_resident_memory", "Memory of the tracer that is resident.", |shown, samples| {
        samples.number(&[], shown.cost.resident_bytes)
    })
    .in_unit(&Unit::Bytes),
];

/// Reasons for a failed connect that have a sample even while it is 0.
const FAILURES: [EndReason; 3] = [EndReason::Refused, EndReason::Timeout, EndReason::NoPort];

/// Whether a timewait socket can end for this reason.
fn can_end_timewait(reason: EndReason) -> bool {
    crate::aggregate::TimeWaitEnds::default().of(reason).is_some()
}

fn states(samples: &mut Samples<'_>, of: impl Fn(TcpState) -> u64) -> fmt::Result {
    each(samples, "state", TcpState::ALL.map(|state| (state.name(), of(state))))
}

/// Writes one sample per value of a label.
fn each<'a>(
    samples: &mut Samples<'_>,
    label: &str,
    numbers: impl IntoIterator<Item = (&'a str, u64)>,
) -> fmt::Result {
    numbers.into_iter().try_for_each(|(value, n)| samples.number(&[(label, value)], n))
}

/// Sum over all services.
fn sum(shown: &MetricsInput, of: impl Fn(&Group) -> u64) -> u64 {
    shown.snapshot.groups.iter().map(of).sum()
}

fn ended(shown: &MetricsInput, reason: EndReason) -> u64 {
    sum(shown, |group| group.ended[reason as usize])
}

fn services(
    shown: &MetricsInput,
    mut write: impl FnMut(&[(&str, &str); 2], &Group) -> fmt::Result,
) -> fmt::Result {
    shown
        .services()
        .try_for_each(|group| write(&[("service", &group.key), ("role", group.role.name())], group))
}

fn destinations(
    shown: &MetricsInput,
    mut write: impl FnMut(&[(&str, &str); 3], &DestinationPorts) -> fmt::Result,
) -> fmt::Result {
    shown.destinations().try_for_each(|row| {
        let name = shown.snapshot.ports.netns(row.netns).and_then(|netns| netns.name.as_deref());
        let netns = name
            .map_or_else(|| row.netns.to_string(), |name| crate::model::text::sanitise(name).into_owned());
        let (local, remote) = (row.local.addr.to_string(), row.remote.to_string());
        write(&[("netns", &netns), ("local", &local), ("destination", &remote)], row)
    })
}
