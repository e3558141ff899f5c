//! Maps keys to [`Action`]s.

use super::{
    action::{ACTIONS, Action},
    key::KeyPress,
};

/// Key bindings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keymap {
    /// The keys of every row of [`ACTIONS`], in its order.
    keys: Vec<Vec<KeyPress>>,
}

impl Default for Keymap {
    fn default() -> Self {
        Self { keys: ACTIONS.iter().map(|row| row.keys.to_vec()).collect() }
    }
}

impl Keymap {
    /// The action bound to `key`.
    pub fn action(&self, key: KeyPress) -> Option<Action> {
        let row = self.keys.iter().position(|keys| keys.contains(&key))?;
        Some(ACTIONS[row].action)
    }

    /// Replaces the keys of some rows of [`ACTIONS`]. The error names a key that would be bound twice.
    pub fn with(mut self, changes: impl Iterator<Item = (usize, Vec<KeyPress>)>) -> Result<Self, String> {
        for (row, keys) in changes {
            self.keys[row] = keys;
        }
        for (row, keys) in self.keys.iter().enumerate() {
            for key in keys {
                if let Some(other) = (row + 1..self.keys.len()).find(|&other| self.keys[other].contains(key))
                {
                    let (one, other) = (ACTIONS[row].name, ACTIONS[other].name);
                    return Err(format!(
                        "[keys]: '{key}' is bound to both {one} and {other}; bind one of them to another key"
                    ));
                }
            }
        }
        Ok(self)
    }

    /// The keys of one row of [`ACTIONS`].
    pub fn keys(&self, row: usize) -> &[KeyPress] {
        &self.keys[row]
    }

    /// The keys of one row of [`ACTIONS`], as the help shows them.
    pub fn label(&self, row: usize) -> String {
        self.keys[row].iter().map(KeyPress::to_string).collect::<Vec<_>>().join(", ")
    }

    /// The key that hints show for one row of [`ACTIONS`]; `None` if it has no key.
    pub fn first(&self, row: usize) -> Option<KeyPress> {
        self.keys[row].first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_keys_map_to_their_actions() {
        let keymap = Keymap::default();
        for row in &ACTIONS {
            for &key in row.keys {
                let pressed = KeyPress::pressed(key.press()).expect("a press event");
                assert_eq!(keymap.action(pressed), Some(row.action), "{key} is bound twice");
            }
        }
        assert_eq!(keymap.action(KeyPress::Ctrl('q')), None);
    }
}
