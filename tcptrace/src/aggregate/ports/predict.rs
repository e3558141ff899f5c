//! Predicts when a destination runs out of ports, from the current level and its rates of change.
//!
//! Ports return in two ways. TIME_WAIT ports return when their timers expire, at known times. Other ports return when
//! connections end without a TIME_WAIT here, at the recent rate. The level of the next minute is the current level plus
//! the rates less the timers that expire until then. After that minute every TIME_WAIT was entered at the current rate:
//! the level settles by Little's law (rate x dwell), or keeps growing with the open connections.

use crate::model::Nanos;

/// Exhaustion later than this is not urgent, and rates over seconds predict little that far ahead.
pub(super) const EXHAUSTION_HORIZON: Nanos = Nanos(600 * Nanos::SECOND.0);
/// Below this share of held ports exhaustion is far away, however fast the level grows at the moment.
pub(super) const MIN_HELD_SHARE: f64 = 0.1;

/// Level and rates of a destination's ports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortFlow {
    /// Budget of ports.
    pub available: u64,
    /// Ports of connections that are not in TIME_WAIT.
    pub open: u64,
    /// TIME_WAIT ports unavailable to new connections, by time of return.
    pub time_wait: Vec<PortReturn>,
    /// How long a TIME_WAIT keeps its port.
    pub time_wait_for: Nanos,
    /// Ports taken by `connect()`, per second.
    pub opened_per_s: f64,
    /// Ports returned without a TIME_WAIT, per second.
    pub closed_per_s: f64,
    /// Connections that enter TIME_WAIT, per second.
    pub time_wait_per_s: f64,
    /// Standard deviation of the net rate.
    pub spread_per_s: f64,
}

/// Ports that return evenly over an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortReturn {
    /// When the first returns, from now.
    pub from: Nanos,
    /// When the last returns, from now.
    pub until: Nanos,
    /// Number of ports.
    pub ports: u64,
}

/// Net growth must exceed this many standard deviations to count as growth.
const SPREADS: f64 = 2.0;

impl PortFlow {
    /// Ports unavailable to new connections.
    fn held(&self) -> u64 {
        self.open + self.time_wait.iter().map(|ending| ending.ports).sum::<u64>()
    }

    /// Steady-state level at the current rates, by Little's law: open connections plus TIME_WAIT rate x length.
    pub fn predicted(&self) -> u64 {
        self.open + (self.time_wait_per_s * self.time_wait_for.as_secs_f64()).round() as u64
    }

    /// Time until no port is left at constant rates; `None` if that never happens.
    pub fn exhausted_in(&self) -> Option<Nanos> {
        let mut level = self.held() as f64;
        let available = self.available as f64;
        if level >= available {
            return Some(Nanos(0));
        }
        let mut growth = self.opened_per_s - self.closed_per_s;
        let mut passed = 0.0;
        for (at, change) in self.turns() {
            if growth > 0.0 && level + growth * (at - passed) >= available {
                return Some(seconds(passed + (available - level) / growth));
            }
            level = (level + growth * (at - passed)).max(0.0);
            growth += change;
            passed = at;
        }
        // From here on, entries into and exits from TIME_WAIT balance.
        growth -= self.time_wait_per_s;
        let left = available - level;
        (growth > SPREADS * self.spread_per_s).then(|| seconds(passed + left / growth))
    }

    /// Times at which the growth rate changes, in seconds from now, with the change in ports per second; the last entry
    /// is the end of every current TIME_WAIT.
    fn turns(&self) -> Vec<(f64, f64)> {
        const SHORTEST_S: f64 = 1e-3;
        let turns = self.time_wait.iter().flat_map(|ending| {
            let (from, until) = (ending.from.as_secs_f64(), ending.until.as_secs_f64());
            let until = until.max(from + SHORTEST_S);
            let per_s = ending.ports as f64 / (until - from);
            [(from, -per_s), (until, per_s)]
        });
        let mut turns: Vec<(f64, f64)> = turns.chain([(self.time_wait_for.as_secs_f64(), 0.0)]).collect();
        turns.sort_by(|a, b| a.0.total_cmp(&b.0));
        turns
    }
}

fn seconds(seconds: f64) -> Nanos {
    Nanos((seconds * 1e9) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Nanos = Nanos(60_000_000_000);

    /// A client that connects and closes first at a constant rate, `for_s` seconds after its first connection.
    fn steady(available: u64, per_s: f64, for_s: f64, time_wait_for: Nanos) -> PortFlow {
        let length = time_wait_for.as_secs_f64();
        let time_wait = (0..for_s.ceil() as u64)
            .map(|second| {
                let (from, until) = (second as f64, (second as f64 + 1.0).min(for_s));
                let ports = (per_s * until) as u64 - (per_s * from) as u64;
                let [from, until] = [from, until].map(|entered| (entered + length - for_s).max(0.0));
                PortReturn { from: seconds(from), until: seconds(until), ports }
            })
            .filter(|ending| ending.until.0 > 0)
            .collect();
        PortFlow {
            available,
            open: 0,
            time_wait,
            time_wait_for,
            opened_per_s: per_s,
            closed_per_s: 0.0,
            time_wait_per_s: per_s,
            spread_per_s: 0.1 * per_s,
        }
    }

    fn in_s(flow: &PortFlow) -> Option<f64> {
        flow.exhausted_in().map(Nanos::as_secs_f64)
    }

    #[test]
    fn constant_rate_runs_out_on_time() {
        for (available, per_s) in [(100, 5.0), (100, 10.0), (28_232, 1_000.0), (28_232, 500.0)] {
            let whole = available as f64 / per_s;
            for tenth in 1..10 {
                let passed = whole * f64::from(tenth) / 10.0;
                let seen = in_s(&steady(available, per_s, passed, MINUTE)).expect("it runs out");
                let left = whole - passed;
                assert!((seen - left).abs() <= 0.02 * left + 1.0 / per_s, "{per_s}/s, {passed} s: {seen}");
            }
        }
    }

    #[test]
    fn rate_with_fitting_level_never_runs_out() {
        // (available, rate, Little's level)
        for (available, per_s, level) in [(28_232, 400.0, 24_000), (100, 1.5, 90), (28_232, 470.0, 28_200)] {
            for for_s in [1.0, 20.0, 59.0, 61.0, 300.0] {
                let flow = steady(available, per_s, for_s, MINUTE);
                assert_eq!((flow.exhausted_in(), flow.predicted()), (None, level), "{per_s}/s, {for_s} s");
            }
        }
    }

    #[test]
    fn rate_just_above_runs_out_at_the_end_of_the_minute() {
        let seen = in_s(&steady(28_232, 480.0, 30.0, MINUTE)).expect("it runs out");
        assert!((28.0..30.0).contains(&seen), "{seen}");
    }

    #[test]
    fn ports_reused_after_a_second_do_not_run_out() {
        let flow = steady(100, 50.0, 30.0, Nanos::SECOND);
        assert_eq!((flow.exhausted_in(), flow.predicted()), (None, 50));
        assert_eq!(steady(100, 150.0, 30.0, Nanos::SECOND).exhausted_in(), Some(Nanos(0)));
    }

    #[test]
    fn exhaustion_depends_on_net_rate_and_noise() {
        let flow = |open, opened, closed, time_wait_per_s| PortFlow {
            available: 1_000,
            open,
            time_wait_for: MINUTE,
            opened_per_s: opened,
            closed_per_s: closed,
            time_wait_per_s,
            spread_per_s: 0.5,
            ..PortFlow::default()
        };
        let cases = [
            ("no traffic", flow(10, 0.0, 0.0, 0.0), None),
            ("all are taken", flow(1_000, 0.0, 0.0, 0.0), Some(0.0)),
            ("more than all are taken", flow(1_001, 0.0, 9.0, 0.0), Some(0.0)),
            ("the peer closes first", flow(900, 50.0, 50.0, 0.0), None),
            ("connections are never closed", flow(100, 5.0, 0.0, 0.0), Some(180.0)),
            ("connections are closed more slowly than opened", flow(500, 20.0, 15.0, 0.0), Some(100.0)),
            ("a difference within the noise", flow(500, 20.9, 20.0, 0.0), None),
            ("a falling level", flow(990, 1.0, 4.0, 0.0), None),
        ];
        for (name, flow, expected) in cases {
            assert_eq!(in_s(&flow), expected, "{name}");
        }
    }

    #[test]
    fn burst_returns_before_the_budget_is_used_up() {
        // 900 of 1,000 ports are in TIME_WAIT and return in 10 s; 8/s are taken meanwhile.
        let mut flow = PortFlow {
            available: 1_000,
            time_wait: vec![PortReturn {
                from: Nanos(10_000_000_000),
                until: Nanos(10_000_000_000),
                ports: 900,
            }],
            time_wait_for: MINUTE,
            opened_per_s: 8.0,
            time_wait_per_s: 8.0,
            ..PortFlow::default()
        };
        assert_eq!(flow.exhausted_in(), None);
        flow.opened_per_s = 20.0;
        assert_eq!(in_s(&flow), Some(5.0));
    }
}
