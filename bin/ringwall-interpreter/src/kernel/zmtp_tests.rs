//! Framing, limits and the handshake of `zmtp`.

use super::*;

fn parse_all(parser: &mut FrameParser, bytes: &[u8]) -> Vec<Received> {
    let mut buffer = BytesMut::from(bytes);
    let mut all = Vec::new();
    while let Some(received) = parser.next(&mut buffer).unwrap() {
        all.push(received);
    }
    all
}

fn message(frames: &[&[u8]]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    for (index, frame) in frames.iter().enumerate() {
        put_frame(&mut bytes, if index + 1 < frames.len() { MORE } else { 0 }, frame);
    }
    bytes.to_vec()
}

#[test]
fn messages_survive_any_cut() {
    let long = vec![7_u8; 300];
    let mut bytes = message(&[b"topic", &long, b""]);
    bytes.extend(message(&[b"next"]));
    let expected = vec![
        Received::Message(vec![
            Bytes::from_static(b"topic"),
            Bytes::from(long.clone()),
            Bytes::new(),
        ]),
        Received::Message(vec![Bytes::from_static(b"next")]),
    ];
    for step in [1, 2, 3, 7, 100, 10_000] {
        let mut parser = FrameParser::default();
        let mut buffer = BytesMut::new();
        let mut all = Vec::new();
        for piece in bytes.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(received) = parser.next(&mut buffer).unwrap() {
                all.push(received);
            }
        }
        assert_eq!(all, expected, "in steps of {step}");
    }
}

#[test]
fn a_message_too_long_is_skipped_and_the_next_arrives() {
    let mut parser = FrameParser::default();
    let mut buffer = BytesMut::new();
    buffer.put_u8(LONG);
    buffer.put_u64(MAX_MESSAGE_BYTES + 1);
    let piece = vec![0_u8; 1 << 20];
    let mut left = MAX_MESSAGE_BYTES + 1;
    let mut received = None;
    while left > 0 {
        let bytes = usize::try_from(left.min(piece.len() as u64)).unwrap();
        buffer.extend_from_slice(&piece[..bytes]);
        left -= bytes as u64;
        received = parser.next(&mut buffer).unwrap();
        assert!(buffer.is_empty(), "skipped bytes are not kept");
        assert_eq!(parser.wanted(0), 0, "no room is reserved for what is skipped");
    }
    assert_eq!(received, Some(Received::Oversized(MAX_MESSAGE_BYTES + 1)));
    assert_eq!(
        parse_all(&mut parser, &message(&[b"after"])),
        [Received::Message(vec![Bytes::from_static(b"after")])]
    );
}

#[test]
fn the_longest_announced_length_reserves_nothing() {
    let mut parser = FrameParser::default();
    let mut bytes = vec![LONG];
    bytes.extend(u64::MAX.to_be_bytes());
    assert_eq!(parse_all(&mut parser, &bytes), []);
    assert_eq!(parser.wanted(0), 0);
}

#[test]
fn too_many_frames_are_skipped() {
    let mut parser = FrameParser::default();
    let frames = vec![b"x".as_slice(); MAX_FRAMES + 1];
    assert_eq!(
        parse_all(&mut parser, &message(&frames)),
        [Received::Oversized(MAX_FRAMES as u64 + 1)]
    );
}

#[test]
fn reserved_flags_and_long_commands_are_refused() {
    assert!(
        FrameParser::default()
            .next(&mut BytesMut::from(&[8_u8, 0][..]))
            .is_err()
    );
    let mut bytes = BytesMut::new();
    bytes.put_u8(COMMAND | LONG);
    bytes.put_u64(MAX_COMMAND_BYTES + 1);
    assert!(FrameParser::default().next(&mut bytes).is_err());
}

#[test]
fn commands_between_messages_are_no_messages() {
    let mut bytes = ready(SocketKind::Dealer, "me");
    bytes.extend_from_slice(&message(&[b"a"]));
    let mut parser = FrameParser::default();
    assert_eq!(
        parse_all(&mut parser, &bytes),
        [Received::Message(vec![Bytes::from_static(b"a")])]
    );
    assert!(parser.is_ready);
}

#[test]
fn our_greeting_is_one_we_accept_and_others_are_not() {
    let mut bytes = greeting();
    assert!(check_greeting(&bytes).is_ok());
    bytes[12..17].copy_from_slice(b"CURVE");
    assert!(check_greeting(&bytes).is_err());
    let mut old = greeting();
    old[10] = 2;
    assert!(check_greeting(&old).is_err());
}
