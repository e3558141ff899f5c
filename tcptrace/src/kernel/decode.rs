//! Decodes entries of the rings into [`HookRecord`]s.

use tcptrace_common::record::{Kind, RECORD_LEN, RECORD_WITH_TASK_LEN, RawRecord, Task, flag};

use crate::model::{HookRecord, SocketId};

/// Decodes the record of one entry; `None` when this version does not know its length or kind, or when its cookie
/// is out of range.
pub fn decode(bytes: &[u8]) -> Option<HookRecord> {
    let raw: RawRecord = bytemuck::pod_read_unaligned(bytes.get(..RECORD_LEN)?);
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
    Some(HookRecord { raw, task })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_decode_or_are_rejected(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(seen) = decode(&bytes) {
                prop_assert!(bytes.len() >= RECORD_LEN);
                prop_assert_eq!(seen.task.is_some(), seen.raw.flags & flag::TASK != 0);
            }
        }
    }

    #[test]
    fn cookie_in_tcptraces_id_range_is_rejected() {
        let with = |cookie: u64| {
            let mut bytes = [0; RECORD_LEN];
            bytes[8..16].copy_from_slice(&cookie.to_ne_bytes());
            bytes[RECORD_LEN - 4] = Kind::Transition as u8;
            decode(&bytes)
        };
        assert!(with((1 << 51) - 1).is_some());
        assert!(with(u64::MAX).is_some() && with(u64::MAX - (1 << 40)).is_some(), "descending cookies");
        assert!(with(SocketId::rekeyed(1).0).is_none() && with(SocketId::handshake(1).0).is_none());
    }

    #[test]
    fn truncated_task_is_rejected() {
        let mut bytes = [0; RECORD_WITH_TASK_LEN];
        bytes[RECORD_LEN - 4] = Kind::Transition as u8;
        bytes[RECORD_LEN - 1] = flag::TASK;
        assert!(decode(&bytes).is_some_and(|seen| seen.task.is_some()));
        assert!(decode(&bytes[..RECORD_WITH_TASK_LEN - 1]).is_none());
    }
}
