//! Selects the user stacks that a report shows, by kind of call.

use crate::{
    aggregate::Snapshot,
    model::stack::{StackFrame, UserStack},
    view::stacks::{ListedStack, StackSubject, counted},
};

/// Most stacks of one kind of call; the rest is one entry.
const MOST_STACKS: usize = 24;

/// The stacks of one kind of call.
pub struct CodeStacks<'a> {
    pub on: StackSubject,
    /// Calls or sockets with a stack.
    pub total: u64,
    /// Whether `total` is an estimate.
    pub is_estimate: bool,
    /// Those with the highest counts.
    pub listed: Vec<ListedStack<'a>>,
}

impl<'a> CodeStacks<'a> {
    /// Those of every kind that has any.
    pub fn all(snapshot: &'a Snapshot) -> Vec<Self> {
        use StackSubject::{Accept, Close, Connect, Leak};
        let of_subject = [Close, Connect, Accept, Leak].into_iter().map(|on| {
            let mut listed = counted(snapshot, on);
            listed.retain(|listed| listed.stack.is_some());
            let total = listed.iter().map(|listed| listed.count).sum();
            let is_estimate = listed.iter().any(|listed| listed.is_estimate);
            listed.truncate(MOST_STACKS);
            Self { on, total, is_estimate, listed }
        });
        of_subject.filter(|code| code.total > 0).collect()
    }

    /// Calls or sockets whose stack is not listed.
    pub fn other(&self) -> u64 {
        self.total - self.listed.iter().map(|listed| listed.count).sum::<u64>()
    }

    /// The heading of its graph.
    pub const fn title(&self) -> &'static str {
        match self.on {
            StackSubject::Close => "Closes first, which makes TIME_WAIT",
            StackSubject::Connect => "Opens connections",
            StackSubject::Accept => "Accepts connections",
            StackSubject::Leak => "Opened or accepted the sockets that nobody closes",
        }
    }
}

/// Functions of a stack, outermost first.
pub fn frames<'a>(listed: &ListedStack<'a>) -> impl Iterator<Item = &'a StackFrame> {
    let stack: Option<&UserStack> = listed.stack.map(AsRef::as_ref);
    stack.into_iter().flat_map(|stack| stack.frames.iter().rev())
}
