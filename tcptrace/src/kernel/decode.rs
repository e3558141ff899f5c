//! Bytes of the ring buffer in, [`Observation`]s out.

use tcptrace_common::record::{Kind, RECORD_LEN, RECORD_WITH_TASK_LEN, Record, Task, flag};

use crate::model::{Observation, SocketId};

/// Decodes one entry of the ring buffer; `None` when its length or kind is not one this version
/// knows, or its cookie none that there can be.
pub fn decode(bytes: &[u8]) -> Option<Observation> {
    let raw: Record = bytemuck::pod_read_unaligned(bytes.get(..RECORD_LEN)?);
    Kind::from_raw(raw.kind)?;
    if !SocketId::is_cookie(raw.cookie) {
        return None;
    }
    let task = if raw.flags & flag::TASK == 0 {
        None
    } else {
        let bytes = bytes.get(RECORD_LEN..RECORD_WITH_TASK_LEN)?;
        Some(bytemuck::pod_read_unaligned::<Task>(bytes))
    };
    Some(Observation { raw, task })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(seen) = decode(&bytes) {
                prop_assert!(bytes.len() >= RECORD_LEN);
                prop_assert_eq!(seen.task.is_some(), seen.raw.flags & flag::TASK != 0);
            }
        }
    }

    #[test]
    fn a_cookie_that_would_be_another_number_is_refused() {
        let with = |cookie: u64| {
            let mut bytes = [0; RECORD_LEN];
            bytes[8..16].copy_from_slice(&cookie.to_ne_bytes());
            bytes[RECORD_LEN - 4] = Kind::Transition as u8;
            decode(&bytes)
        };
        assert!(with((1 << 51) - 1).is_some());
        assert!(with(SocketId::set_aside(1).0).is_none() && with(SocketId::handshake(1).0).is_none());
    }

    #[test]
    fn a_cut_task_is_refused() {
        let mut bytes = [0; RECORD_WITH_TASK_LEN];
        bytes[RECORD_LEN - 4] = Kind::Transition as u8;
        bytes[RECORD_LEN - 1] = flag::TASK;
        assert!(decode(&bytes).is_some_and(|seen| seen.task.is_some()));
        assert!(decode(&bytes[..RECORD_WITH_TASK_LEN - 1]).is_none());
    }
}
