//! Tests the framing of answers, with chosen and with random bytes.

use proptest::prelude::*;

use super::*;

/// A message of an answer to a request of this module.
pub fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let len = (HEADER_LEN + body.len()) as u32;
    let header = Header { len, kind, flags, seq: SEQ, port_id: 0 };
    let mut bytes = [bytemuck::bytes_of(&header), body].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn messages(bytes: &[u8]) -> Vec<Message<'_>> {
    Messages::new(bytes, SEQ).collect()
}

#[test]
fn errors_carry_their_errno() {
    let refused = message(NLMSG_ERROR, 0, &(-2_i32).to_ne_bytes());
    assert_eq!(messages(&refused), [Message::Failed(2)]);
    let broken_off = message(NLMSG_DONE, 0, &(-12_i32).to_ne_bytes());
    assert_eq!(messages(&broken_off), [Message::Failed(12)]);
    let acknowledged = message(NLMSG_ERROR, 0, &0_i32.to_ne_bytes());
    assert_eq!(messages(&acknowledged), [Message::Other]);
}

#[test]
fn a_cut_message_ends_the_answer() {
    let mut bytes = message(99, 0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    bytes.extend([16, 0, 0]);
    assert_eq!(messages(&bytes), [Message::Answer(99, &[1, 2, 3, 4, 5, 6, 7, 8]), Message::Broken]);
}

#[test]
fn an_interrupted_dump_is_detected() {
    let bytes = message(NLMSG_DONE, NLM_F_DUMP_INTR, &0_i32.to_ne_bytes());
    let mut messages = Messages::new(&bytes, SEQ);
    assert_eq!(messages.by_ref().count(), 1);
    assert!(messages.interrupted);
}

#[test]
fn attributes_are_found_and_padded() {
    let inner = [attribute(1, &[1]), attribute(2, &[2; 5])].concat();
    let bytes = [attribute(7, &[]), attribute(3 | 0x8000, &inner)].concat();
    let nested = Attributes(&bytes).nested(3).expect("an attribute");
    assert_eq!(nested.collect::<Vec<_>>(), [(1, &[1][..]), (2, &[2; 5][..])]);
    assert_eq!(Attributes(&bytes[..bytes.len() - 4]).find(3), None, "a cut one is not there");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(messages(&bytes).len() <= bytes.len() / HEADER_LEN + 1);
        prop_assert!(Attributes(&bytes).count() <= bytes.len() / 4 + 1);
    }
}
