//! Chooses the peer of an end: the nearest in time, one to one.

use super::{
    Joiner,
    end::{ConnectionEnd, EndKey},
};

/// Ends of one connection are established within this time of each other, where the offset of the clocks is known: a lost
/// ACK of the handshake is repeated after a second, and again.
const TOLERANCE_NS: u64 = 3_000_000_000;
/// The same where it is not known.
const UNKNOWN_OFFSET_NS: u64 = super::HOLD_NS;

impl Joiner {
    /// Looks for the peer of an end.
    pub(super) fn settle(&mut self, number: u64) {
        let Some(end) = self.ends.get(&number).filter(|end| end.partner.is_none() && end.is_indexed) else {
            return;
        };
        let key = end.key();
        let mut peer = self.nearest(number, &key, &key.reversed());
        if peer.is_none() && key.scope == (0, 0) {
            let others = self.nat.peers(&key);
            peer = others.iter().find_map(|other| self.nearest(number, &key, other));
        }
        let Some(peer) = peer else { return };
        for (one, other) in [(number, peer), (peer, number)] {
            if let Some(end) = self.ends.get_mut(&one) {
                end.partner = Some(other);
                let key = end.key();
                self.index.remove(&key, one);
            }
        }
        self.emit_when_ended(number, peer);
    }

    /// The end with the key `of_peer` that is nearest in time to `number`, unless another end with the same `key` is nearer to
    /// it.
    fn nearest(&mut self, number: u64, key: &EndKey, of_peer: &EndKey) -> Option<u64> {
        let candidates = self.index.of(of_peer).to_vec();
        let rivals = self.index.of(key).to_vec();
        let mut best: Option<((bool, u64), u64)> = None;
        for candidate in candidates.into_iter().filter(|&candidate| candidate != number) {
            let Some(apart) = self.apart(number, candidate) else { continue };
            if best.is_some_and(|(nearest, _)| nearest <= apart) {
                continue;
            }
            let is_taken = rivals
                .iter()
                .filter(|&&rival| rival != number && rival != candidate)
                .any(|&rival| self.apart(rival, candidate).is_some_and(|of_rival| of_rival < apart));
            if !is_taken {
                best = Some((apart, candidate));
            }
        }
        best.map(|(_, candidate)| candidate)
    }

    /// How far two ends are apart, if they may belong together: whether they are on different hosts, and the time between their
    /// beginnings, corrected by the offset of the clocks.
    fn apart(&mut self, one: u64, other: u64) -> Option<(bool, u64)> {
        let (one, other) = (self.ends.get(&one)?, self.ends.get(&other)?);
        if one.partner.is_some() || other.partner.is_some() {
            return None;
        }
        let offset = self.offsets.ahead_ns(one.host, other.host);
        let most = if offset.is_some() { TOLERANCE_NS } else { UNKNOWN_OFFSET_NS };
        let offset = offset.unwrap_or(0);
        let began = |end: &ConnectionEnd| match end.established_ns {
            Some(ns) => Began::At(ns),
            None => Began::Before(self.hosts.began_ns(end.host)),
        };
        let apart_ns = match (began(one), began(other)) {
            (Began::At(one), Began::At(other)) => one.abs_diff(other.saturating_add_signed(offset)),
            (Began::Before(_), Began::Before(_)) => 0,
            // The one that began in the recording must not have begun after the other was there.
            (Began::At(one), Began::Before(other)) => one.saturating_sub(other.saturating_add_signed(offset)),
            (Began::Before(one), Began::At(other)) => other.saturating_add_signed(offset).saturating_sub(one),
        };
        (apart_ns <= most).then_some((one.host != other.host, apart_ns))
    }
}

/// When an end began.
enum Began {
    At(u64),
    /// Before the recording of its host, which began then.
    Before(u64),
}
