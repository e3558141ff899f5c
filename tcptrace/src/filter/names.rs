//! Parses the names in a set of values, such as `time-wait,fin-wait2`.

use super::{error::excerpt, suggest::nearest};
use crate::model::name_set::{Choice, Set};

impl<T: Choice> Set<T> {
    /// The values that `name` refers to. An error states what was expected.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        let wanted = fold(name);
        if let Some(&(_, value)) = T::NAMES.iter().find(|(known, _)| fold(known) == wanted) {
            return Ok(Self::of(value));
        }
        if let Some((_, values)) = T::GROUPS.iter().find(|(known, _)| fold(known) == wanted) {
            return Ok(values.iter().copied().collect());
        }
        let known = T::NAMES.iter().map(|&(known, _)| known).chain(T::GROUPS.iter().map(|&(known, _)| known));
        let found = excerpt(name);
        if let Some(near) = nearest(name, known) {
            return Err(format!("expected {}, found {found}, did you mean `{near}`?", T::DESCRIPTION));
        }
        let names: Vec<_> = T::NAMES.iter().map(|&(known, _)| known).collect();
        Err(format!("expected {} ({}), found {found}", T::DESCRIPTION, names.join(", ")))
    }
}

fn fold(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use crate::model::{StateSet, TcpState};

    #[test]
    fn states_are_read_in_every_spelling() {
        for name in ["TIME_WAIT", "time-wait", "TimeWait", "TIME-WAIT"] {
            assert_eq!(StateSet::parse(name), Ok(StateSet::of(TcpState::TimeWait)), "{name}");
        }
        for (state, alias) in [
            (TcpState::FinWait1, "FIN-WAIT-1"),
            (TcpState::Listen, "LISTENING"),
            (TcpState::Established, "ESTAB"),
            (TcpState::SynRecv, "SYN-RECEIVED"),
            (TcpState::Close, "CLOSED"),
        ] {
            assert_eq!(StateSet::parse(alias), Ok(StateSet::of(state)), "{alias}");
        }
        for state in TcpState::ALL {
            assert_eq!(StateSet::parse(state.name()), Ok(StateSet::of(state)));
        }
    }

    #[test]
    fn closing_is_the_state_and_teardown_the_group() {
        assert_eq!(StateSet::parse("closing"), Ok(StateSet::of(TcpState::Closing)));
        assert_eq!(
            StateSet::parse("teardown").map(|set| set.to_string()).as_deref(),
            Ok("fin-wait1,fin-wait2,time-wait,close-wait,last-ack,closing")
        );
    }
}
