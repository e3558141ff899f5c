//! Row list with a selection that follows the identity of the row, not its position.

/// A step through a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// To the row above.
    Up,
    /// To the row below.
    Down,
    /// One page up.
    PageUp,
    /// One page down.
    PageDown,
    /// To the first row.
    First,
    /// To the last row.
    Last,
    /// To the row this many rows below the first on the screen.
    ToLine(usize),
}

/// Indices of the rows in order, and the identity of the selected one.
#[derive(Debug)]
pub struct List<I> {
    order: Vec<usize>,
    selected: Option<I>,
    /// Position of the selected row in `order`; kept when the row disappears.
    cursor: usize,
    /// The first row on the screen.
    offset: usize,
    /// Rows per page, from the last frame.
    page: usize,
}

impl<I: PartialEq> List<I> {
    /// No rows.
    pub const fn new() -> Self {
        Self { order: Vec::new(), selected: None, cursor: 0, offset: 0, page: 1 }
    }

    /// The selected row.
    pub const fn selected(&self) -> Option<&I> {
        self.selected.as_ref()
    }

    /// Selects `row`; the next `arrange` finds its position.
    pub fn select(&mut self, row: Option<I>) {
        self.selected = row;
    }

    /// Position of the selected row, from 0, and the number of rows.
    pub fn position(&self) -> (Option<usize>, usize) {
        (self.selected.as_ref().map(|_| self.cursor), self.order.len())
    }

    /// Sets a new order. If the selected row has disappeared, selects the row at its position.
    pub fn arrange(&mut self, order: Vec<usize>, id: impl Fn(usize) -> I) {
        self.order = order;
        let Some(selected) = &self.selected else { return };
        match self.order.iter().position(|&row| id(row) == *selected) {
            Some(place) => self.cursor = place,
            None => self.go_to(self.cursor, id),
        }
    }

    /// The rows to show in `height` lines; scrolls to keep the selected one visible.
    pub fn rows(&mut self, height: usize) -> &[usize] {
        self.page = height.max(1);
        let last = self.order.len().saturating_sub(self.page);
        self.offset = self.offset.min(last);
        if self.selected.is_some() {
            let lowest = (self.cursor + 1).saturating_sub(self.page);
            self.offset = self.offset.clamp(lowest, self.cursor.max(lowest));
        }
        let end = (self.offset + height).min(self.order.len());
        &self.order[self.offset.min(end)..end]
    }

    /// Selects another row.
    pub fn go(&mut self, step: Move, id: impl Fn(usize) -> I) {
        // Without a selection, moves start from the first row on the screen.
        let from =
            |step: fn(usize) -> usize| if self.selected.is_some() { step(self.cursor) } else { self.offset };
        let place = match step {
            Move::Up => from(|place| place.saturating_sub(1)),
            Move::Down => from(|place| place + 1),
            Move::PageUp => from(|place| place).saturating_sub(self.page),
            Move::PageDown => from(|place| place) + self.page,
            Move::First => 0,
            Move::Last => usize::MAX,
            Move::ToLine(line) if self.offset + line >= self.order.len() => return,
            Move::ToLine(line) => self.offset + line,
        };
        self.go_to(place, id);
    }

    fn go_to(&mut self, place: usize, id: impl Fn(usize) -> I) {
        self.cursor = place.min(self.order.len().saturating_sub(1));
        self.selected = self.order.get(self.cursor).map(|&row| id(row));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [char; 4] = ['a', 'b', 'c', 'd'];

    fn list() -> List<char> {
        let mut list = List::new();
        list.arrange(vec![0, 1, 2, 3], |row| NAMES[row]);
        list.rows(2);
        list
    }

    fn go(list: &mut List<char>, steps: &[Move]) -> Option<usize> {
        for &step in steps {
            list.go(step, |row| NAMES[row]);
            list.rows(2);
        }
        list.position().0
    }

    #[test]
    fn moves_stop_at_the_ends() {
        let mut list = list();
        assert_eq!(go(&mut list, &[Move::Up]), Some(0));
        assert_eq!(go(&mut list, &[Move::Up]), Some(0));
        assert_eq!(go(&mut list, &[Move::PageDown]), Some(2));
        assert_eq!(go(&mut list, &[Move::PageDown]), Some(3));
        assert_eq!(go(&mut list, &[Move::ToLine(0)]), Some(2));
        assert_eq!(go(&mut list, &[Move::ToLine(7)]), Some(2));
        assert_eq!(go(&mut list, &[Move::First]), Some(0));
    }

    #[test]
    fn selection_follows_its_row() {
        let mut list = list();
        go(&mut list, &[Move::Down, Move::Down]);
        assert_eq!(list.selected(), Some(&'b'));
        list.arrange(vec![3, 2, 0, 1], |row| NAMES[row]);
        assert_eq!((list.selected(), list.position()), (Some(&'b'), (Some(3), 4)));
        assert_eq!(list.rows(2), [0, 1]);
    }

    #[test]
    fn removed_row_passes_selection_to_its_neighbour() {
        let mut list = list();
        go(&mut list, &[Move::Last]);
        list.arrange(vec![0, 1], |row| NAMES[row]);
        assert_eq!(list.selected(), Some(&'b'));
        list.arrange(vec![], |row| NAMES[row]);
        assert_eq!((list.selected(), list.position()), (None, (None, 0)));
        assert!(list.rows(5).is_empty());
    }
}
