//! Keys in, [`Action`]s out.

use super::{
    action::{ACTIONS, Action},
    key::Key,
};

/// Which key asks for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keymap {
    /// The keys of every row of [`ACTIONS`], in its order.
    keys: Vec<Vec<Key>>,
}

impl Default for Keymap {
    fn default() -> Self {
        Self { keys: ACTIONS.iter().map(|row| row.keys.to_vec()).collect() }
    }
}

impl Keymap {
    /// What `key` asks for.
    pub fn action(&self, key: Key) -> Option<Action> {
        let row = self.keys.iter().position(|keys| keys.contains(&key))?;
        Some(ACTIONS[row].action)
    }

    /// The keys of one row of [`ACTIONS`], as the help shows them.
    pub fn label(&self, row: usize) -> String {
        self.keys[row].iter().map(Key::to_string).collect::<Vec<_>>().join(", ")
    }

    /// The key that hints name for one row of [`ACTIONS`]; `None` where no key asks for it.
    pub fn first(&self, row: usize) -> Option<Key> {
        self.keys[row].first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_does_what_its_row_says() {
        let keymap = Keymap::default();
        for row in &ACTIONS {
            for &key in row.keys {
                let pressed = Key::pressed(key.press()).expect("pressed");
                assert_eq!(keymap.action(pressed), Some(row.action), "{key} is bound twice");
            }
        }
        assert_eq!(keymap.action(Key::Ctrl('q')), None);
    }
}
