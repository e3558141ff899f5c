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

    /// The same with other keys for some rows of [`ACTIONS`]. An error says which key would ask for two things.
    pub fn with(mut self, changes: impl Iterator<Item = (usize, Vec<Key>)>) -> Result<Self, String> {
        for (row, keys) in changes {
            self.keys[row] = keys;
        }
        for (row, keys) in self.keys.iter().enumerate() {
            for key in keys {
                if let Some(other) = (row + 1..self.keys.len()).find(|&other| self.keys[other].contains(key))
                {
                    let (one, other) = (ACTIONS[row].name, ACTIONS[other].name);
                    return Err(format!(
                        "[keys]: '{key}' asks for both {one} and {other}; give one of them another key"
                    ));
                }
            }
        }
        Ok(self)
    }

    /// The keys of one row of [`ACTIONS`].
    pub fn keys(&self, row: usize) -> &[Key] {
        &self.keys[row]
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
