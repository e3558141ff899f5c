//! Converts monotonic times of a traced host to wall-clock times, and back.

use super::{
    Nanos,
    record::{ClockStep, HostFacts},
};

/// Most steps kept: the oldest are dropped.
const MAX_CLOCK_STEPS: usize = 1024;
/// The limit that every view shows once a step was dropped.
const STEPS_DROPPED: &str =
    "The wall clock was set more than 1,024 times: times of day before the last 1,024 steps may be wrong.";

impl HostFacts {
    /// Adds a step of the wall clock. It replaces steps that are not older; a trace has none of those.
    pub fn step_clock(&mut self, step: ClockStep) {
        let older = self.clock_steps.partition_point(|known| known.ts < step.ts);
        self.clock_steps.truncate(older);
        if older >= MAX_CLOCK_STEPS {
            self.clock_steps.drain(..=older - MAX_CLOCK_STEPS);
            self.add_steps_dropped();
        }
        self.clock_steps.push(step);
    }

    fn add_steps_dropped(&mut self) {
        if !self.has_dropped_steps() {
            self.limits.push(STEPS_DROPPED.to_owned());
        }
    }

    fn has_dropped_steps(&self) -> bool {
        self.limits.iter().any(|limit| limit == STEPS_DROPPED)
    }

    /// The same facts with the steps in order and bounded: a file may contain any.
    #[must_use]
    pub fn with_steps_in_order(mut self) -> Self {
        let steps = std::mem::take(&mut self.clock_steps);
        if steps.len() > MAX_CLOCK_STEPS {
            self.add_steps_dropped();
        }
        let newest = steps.len().saturating_sub(MAX_CLOCK_STEPS);
        steps.into_iter().skip(newest).for_each(|step| self.step_clock(step));
        self
    }

    /// The same facts with the clock steps and incidents of `before`, in case a source repeats the facts of the same
    /// trace without them.
    #[must_use]
    pub fn after(&self, before: &Self) -> Self {
        let mut facts = self.clone();
        let is_same_trace =
            (&facts.boot_id, facts.clock_offset_ns) == (&before.boot_id, before.clock_offset_ns);
        if is_same_trace && facts.clock_steps.len() < before.clock_steps.len() {
            facts.clock_steps.clone_from(&before.clock_steps);
            if before.has_dropped_steps() {
                facts.add_steps_dropped();
            }
        }
        if is_same_trace && facts.incidents.is_empty() {
            facts.incidents.clone_from(&before.incidents);
        }
        facts
    }

    /// Offset of the wall clock to the monotonic clock at `ts`.
    pub fn clock_offset_at(&self, ts: Nanos) -> u64 {
        let step = self.clock_steps.iter().rev().find(|step| step.ts <= ts);
        step.map_or(self.clock_offset_ns, |step| step.offset_ns)
    }

    /// Wall-clock time at `ts`, nanoseconds since the epoch.
    pub fn wall_ns(&self, ts: Nanos) -> u64 {
        self.clock_offset_at(ts).saturating_add(ts.0)
    }

    /// When the wall clock first showed `wall_ns` or later, as far as steps are known. After a step back a time is
    /// shown twice, and the first counts; a time that a step forward skips maps to the step.
    pub fn monotonic(&self, wall_ns: u64) -> Nanos {
        let reached = self.offset_intervals().find_map(|(since, until)| {
            let ts = Nanos(wall_ns.saturating_sub(since.offset_ns));
            until.is_none_or(|until| ts < until).then_some(ts.max(since.ts))
        });
        reached.unwrap_or(Nanos(u64::MAX))
    }

    /// When the wall clock first showed exactly `wall_ns`, from `from` on.
    pub fn first_shown(&self, wall_ns: u64, from: Nanos) -> Option<Nanos> {
        self.offset_intervals().find_map(|(since, until)| {
            let ts = Nanos(wall_ns.checked_sub(since.offset_ns)?);
            (ts >= since.ts.max(from) && until.is_none_or(|until| ts < until)).then_some(ts)
        })
    }

    /// The intervals between steps: the offset and start of each, and its end; the last one has none.
    fn offset_intervals(&self) -> impl Iterator<Item = (ClockStep, Option<Nanos>)> {
        let start = ClockStep { ts: Nanos(0), offset_ns: self.clock_offset_ns };
        let steps = self.clock_steps.iter();
        let ends = steps.clone().map(|step| Some(step.ts)).chain([None]);
        std::iter::once(start).chain(steps.copied()).zip(ends)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(steps: &[(u64, u64)]) -> HostFacts {
        let steps = steps.iter().map(|&(ts, offset_ns)| ClockStep { ts: Nanos(ts), offset_ns });
        HostFacts { clock_offset_ns: 1000, clock_steps: steps.collect(), ..HostFacts::default() }
    }

    #[test]
    fn each_time_uses_the_current_offset() {
        let host = host(&[(50, 1600), (80, 900)]);
        let wall = [0, 49, 50, 79, 80, 500].map(|ts| host.wall_ns(Nanos(ts)));
        assert_eq!(wall, [1000, 1049, 1650, 1679, 980, 1400]);
    }

    #[test]
    fn wall_clock_time_maps_back_to_monotonic() {
        let host = host(&[(50, 1600), (80, 900)]);
        let cases = [
            (900, 0),
            (1049, 49),
            // Skipped by the first step.
            (1300, 50),
            (1650, 50),
            // After the second step the clock shows 980 to 1049 again: the first time counts.
            (1020, 20),
            (1700, 800),
        ];
        for (wall_ns, ts) in cases {
            assert_eq!(host.monotonic(wall_ns), Nanos(ts), "{wall_ns}");
        }
        // The clock shows this time only after the second step.
        assert_eq!((host.monotonic(990), host.first_shown(990, Nanos(0))), (Nanos(0), Some(Nanos(90))));
        let shown = [900, 1049, 1300, 1650, 1020].map(|wall_ns| host.first_shown(wall_ns, Nanos(0)));
        assert_eq!(shown, [None, Some(Nanos(49)), Some(Nanos(400)), Some(Nanos(50)), Some(Nanos(20))]);
        assert_eq!(host.first_shown(1020, Nanos(30)), Some(Nanos(120)));
    }

    #[test]
    fn repeated_facts_keep_the_steps_of_the_same_trace() {
        let known = host(&[(50, 1600)]);
        assert_eq!(host(&[]).after(&known).clock_steps, known.clock_steps);
        let other = HostFacts { boot_id: "another".into(), ..host(&[]) };
        assert_eq!(other.after(&known), other);
        let later = HostFacts { clock_offset_ns: 1600, ..host(&[]) };
        assert_eq!(later.after(&known), later);
    }

    #[test]
    fn steps_are_bounded_and_drops_are_reported() {
        let mut many = host(&[]);
        let mut limits = Vec::new();
        for ts in 1..=3000 {
            many.step_clock(ClockStep { ts: Nanos(ts), offset_ns: 1000 + ts });
            limits.push(many.limits.len());
        }
        assert_eq!((limits[1023], limits[1024], limits[2999]), (0, 1, 1));
        assert!(many.limits[0].contains("1,024 times"), "{:?}", many.limits);
        assert_eq!(many.clock_steps.len(), 1024);
        assert_eq!(many.clock_steps[0].ts, Nanos(3000 - 1023));
        assert_eq!(many.wall_ns(Nanos(2999)), 1000 + 2 * 2999);
        // Before the oldest remaining step only the offset at the start is known.
        assert_eq!(many.wall_ns(Nanos(5)), 1005);
        // The source repeats the facts of the start.
        let again = host(&[]).after(&many);
        assert_eq!((&again.clock_steps, &again.limits), (&many.clock_steps, &many.limits));
    }

    #[test]
    fn steps_from_a_file_are_ordered_and_bounded() {
        let steps: Vec<(u64, u64)> = (0..100_000).map(|n| (n, n)).collect();
        let many = host(&steps).with_steps_in_order();
        assert_eq!((many.clock_steps.len(), many.clock_steps[0].ts), (1024, Nanos(100_000 - 1024)));
        assert_eq!(many.limits.len(), 1);
        let mixed = host(&[(50, 1), (u64::MAX, 2), (60, 3), (60, 4), (40, 5)]).with_steps_in_order();
        assert_eq!(mixed.clock_steps, host(&[(40, 5)]).clock_steps);
        assert_eq!(mixed.limits.len(), 0);
    }

    #[test]
    fn extreme_steps_do_not_panic() {
        let extremes = [0, 1, i64::MAX as u64, i64::MIN as u64, u64::MAX - 1, u64::MAX];
        for ts in extremes {
            for offset_ns in extremes {
                let mut host = host(&[(50, 1600)]);
                host.step_clock(ClockStep { ts: Nanos(ts), offset_ns });
                for at in extremes {
                    let wall_ns = host.wall_ns(Nanos(at));
                    let _ = host.monotonic(wall_ns);
                    let _ = host.monotonic(at);
                    let _ = host.first_shown(at, Nanos(ts));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn monotonic_never_decreases_with_wall_clock_time(
            steps in prop::collection::vec((0..1000_u64, 0..3000_u64), 0..8),
            wall_ns in 0..5000_u64,
            later_ns in 0..5000_u64,
        ) {
            let host = host(&steps).with_steps_in_order();
            let at = host.monotonic(wall_ns);
            prop_assert!(at <= host.monotonic(wall_ns + later_ns));
            prop_assert!(host.wall_ns(at) >= wall_ns);
            prop_assert!((0..at.0).all(|before| host.wall_ns(Nanos(before)) < wall_ns));
        }
    }
}
