//! Ends without a peer, by their addresses and ports.

use hashbrown::HashMap;

use super::end::EndKey;

/// Most ends with the same addresses and ports: ports are reused, one after the other.
const MAX_PER_KEY: usize = 16;

/// Numbers of ends by key.
#[derive(Clone, Debug, Default)]
pub(super) struct EndIndex(HashMap<EndKey, Vec<u64>>);

impl EndIndex {
    /// Adds an end; the oldest of too many is no longer found.
    pub(super) fn insert(&mut self, key: EndKey, number: u64) {
        let numbers = self.0.entry(key).or_default();
        if numbers.len() >= MAX_PER_KEY {
            numbers.remove(0);
        }
        numbers.push(number);
    }

    /// Removes an end, if it is there.
    pub(super) fn remove(&mut self, key: &EndKey, number: u64) {
        if let Some(numbers) = self.0.get_mut(key) {
            numbers.retain(|&other| other != number);
            if numbers.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// The ends with this key, oldest first.
    pub(super) fn of(&self, key: &EndKey) -> &[u64] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }
}
