//! Checks how many groups without sockets stay if only sticky groups are shown.

use super::*;

#[test]
fn empty_groups_stay_until_full_then_the_heavier_half() {
    let mut run = AggregateRun::new("peer", Scope::Roles, GroupLimits { empty: 8, ..GroupLimits::default() });
    run.aggregate = run.aggregate.with_places(1);
    let mut cookie = 0;
    let mut come = |run: &mut AggregateRun, n: u64, times: u64| {
        for _ in 0..times {
            cookie += 1;
            let begins_ns = cookie * 100_000 * MS;
            let connection = TestConnection { cookie, peer: peer(n), pid: 7, begins_ns, open_ns: MS };
            run.take_all(connection.to_time_wait());
            run.take(&connection.expiry(begins_ns + 61_000 * MS));
        }
    };
    for n in 1..=8 {
        // The first ones had more sockets.
        come(&mut run, n, 9 - n);
        assert_eq!(run.snapshot().other_groups, 0, "{n}");
    }
    come(&mut run, 9, 1);
    let snapshot = run.snapshot();
    assert_eq!(snapshot.other_groups, 3, "of seven without a place four stay");
    let keys: Vec<GroupKey> = run.aggregate.groups.keys().cloned().collect();
    let is_there = |n: u64| {
        snapshot.groups.iter().any(|group| group.key == peer(n).to_string() && keys.contains(&group.id))
    };
    let there: Vec<u64> = (1..=9).filter(|&n| is_there(n)).collect();
    assert_eq!(there, [1, 2, 3, 4, 5, 9]);
    assert_eq!(snapshot.losses.evicted, 0, "nobody misses them");
}
