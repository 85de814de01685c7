//! The handshake by itself, byte by byte.

use procession_channel::net::{AuthKey, Handshake, Refusal};

type Outcome = Result<(), Refusal>;

/// What one side sent, message by message.
type Sent = Vec<Vec<u8>>;

/// Runs two sides against each other, `step` bytes at a time, until nothing moves any more.
fn run(a: &mut Handshake, b: &mut Handshake, step: usize) -> (Sent, Sent) {
    let (mut from_a, mut from_b) = (Vec::new(), Vec::new());
    loop {
        let moved = [pass(a, b, step, &mut from_a), pass(b, a, step, &mut from_b)];
        if moved == [false, false] {
            return (frames(&from_a), frames(&from_b));
        }
    }
}

fn pass(from: &mut Handshake, to: &mut Handshake, step: usize, sent: &mut Vec<u8>) -> bool {
    let count = from.output().len().min(step);
    // A side that has come to its end reads no more; what is sent to it is lost, as in a socket.
    let wanted = to.wanted();
    let count = if wanted > 0 { count.min(wanted) } else { count };
    let bytes = from.output()[..count].to_vec();
    to.input(&bytes);
    from.sent(count);
    sent.extend_from_slice(&bytes);
    count > 0
}

fn frames(mut bytes: &[u8]) -> Sent {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<4>() {
        let (frame, rest) = rest.split_at(u32::from_be_bytes(*header) as usize);
        frames.push(frame.to_vec());
        bytes = rest;
    }
    frames
}

fn lengths(frames: &[Vec<u8>]) -> Vec<usize> {
    frames.iter().map(Vec::len).collect()
}

fn key(text: &str) -> AuthKey {
    AuthKey::new(text)
}

fn frame(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes(), message].concat()
}

#[test]
fn two_sides_with_one_key_let_each_other_in_with_the_frames_of_new_cpython() {
    for step in [1, 3, 1000] {
        let mut listener = Handshake::listener(&key("k")).unwrap();
        let mut client = Handshake::client(&key("k")).unwrap();
        let (out, back) = run(&mut listener, &mut client, step);
        assert_eq!((listener.outcome(), client.outcome()), (Some(Ok(())), Some(Ok(()))));
        // 63, 44 and 13 with their headers: challenge, answer, verdict, in both directions.
        assert_eq!((lengths(&out), lengths(&back)), (vec![59, 9, 40], vec![40, 59, 9]));
        assert!(out[0].starts_with(b"#CHALLENGE#{sha256}") && out[1] == b"#WELCOME#");
    }
}

#[test]
fn two_sides_with_different_keys_are_both_told() {
    let mut listener = Handshake::listener(&key("one")).unwrap();
    let mut client = Handshake::client(&key("two")).unwrap();
    let (out, _) = run(&mut listener, &mut client, 7);
    assert_eq!(out.last().unwrap(), b"#FAILURE#");
    assert_eq!(listener.outcome(), Some(Err(Refusal::WrongKey)));
    assert_eq!(client.outcome(), Some(Err(Refusal::Rejected)));
}

#[test]
fn an_empty_key_is_a_key() {
    let mut listener = Handshake::listener(&key("")).unwrap();
    let mut client = Handshake::client(&key("")).unwrap();
    run(&mut listener, &mut client, 100);
    assert_eq!((listener.outcome(), client.outcome()), (Some(Ok(())), Some(Ok(()))));
    let mut listener = Handshake::listener(&key("")).unwrap();
    let mut client = Handshake::client(&key("x")).unwrap();
    run(&mut listener, &mut client, 100);
    assert_eq!(listener.outcome(), Some(Err(Refusal::WrongKey)));
}

/// The answer to one challenge.
fn answer(challenge: &[u8], md5: bool) -> Result<Vec<u8>, Refusal> {
    let mut side = Handshake::answer_challenge(&key("key")).unwrap().allow_md5(md5);
    side.input(&frame(challenge));
    match side.outcome() {
        Some(outcome) => Err(outcome.unwrap_err()),
        None => Ok(side.output()[4..].to_vec()),
    }
}

#[test]
fn challenges_are_answered_as_cpython_does() {
    let old: Vec<u8> = [b"#CHALLENGE#".to_vec(), (0..20).collect()].concat();
    assert_eq!(answer(&old, false), Err(Refusal::Md5));
    let code = answer(&old, true).unwrap();
    assert_eq!(code.len(), 16);
    assert_eq!(code[..4], [0x5b, 0x27, 0x09, 0xae]);
    let new: Vec<u8> = [b"#CHALLENGE#{sha256}".to_vec(), (0..40).collect()].concat();
    let code = answer(&new, false).unwrap();
    assert_eq!(code[..12], *b"{sha256}\x05\xb3\x73\x35");
    let named: Vec<u8> = [b"#CHALLENGE#{md5}".to_vec(), (0..40).collect()].concat();
    assert_eq!(answer(&named, false), Err(Refusal::Md5));
    assert_eq!(answer(&named, true).unwrap().len(), 5 + 16);
    let longer: Vec<u8> = [b"#CHALLENGE#{sha384}".to_vec(), (0..40).collect()].concat();
    assert_eq!(answer(&longer, false).unwrap().len(), 8 + 48);
}

#[test]
fn what_is_no_challenge_is_refused() {
    let nonsense: [&[u8]; 8] = [
        b"",
        b"hello",
        b"#CHALLENGE#",
        b"#CHALLENGE#0123456789012345678",
        b"#CHALLENGE#012345678901234567890",
        b"#CHALLENGE#{sha3_256}0123456789012345678901234567890123456789",
        b"#CHALLENGE#{sha2560123456789012345678901234567890123456789",
        b"#WELCOME#",
    ];
    for message in nonsense {
        assert!(matches!(answer(message, true), Err(Refusal::Protocol(_))), "{}", message.escape_ascii());
    }
}

/// What becomes of an answer to our challenge, and what we say to it.
fn deliver(answer: &[u8], md5: bool) -> (Option<Outcome>, Vec<u8>) {
    let mut side = Handshake::deliver_challenge(&key("key")).unwrap().allow_md5(md5);
    side.sent(side.output().len());
    side.input(&frame(answer));
    let verdict = side.output()[4..].to_vec();
    side.sent(side.output().len());
    (side.outcome(), verdict)
}

#[test]
fn wrong_answers_get_a_verdict() {
    let wrong_md5 = [&b"{md5}"[..], &[0; 16]].concat();
    let wrong_sha = [&b"{sha256}"[..], &[0; 32]].concat();
    let short_sha = [&b"{sha256}"[..], &[0; 31]].concat();
    let cases: [(&[u8], bool, Refusal); 6] = [
        (&[0; 16], false, Refusal::Md5),
        (&[0; 16], true, Refusal::WrongKey),
        (&wrong_md5, false, Refusal::Md5),
        (&wrong_md5, true, Refusal::WrongKey),
        (&wrong_sha, true, Refusal::WrongKey),
        (&short_sha, true, Refusal::WrongKey),
    ];
    for (message, md5, refusal) in cases {
        let shown = message.escape_ascii().to_string();
        assert_eq!(deliver(message, md5), (Some(Err(refusal)), b"#FAILURE#".to_vec()), "{shown}");
    }
    // A client without a key, which sends its first message.
    for message in [&b"hello"[..], b"", b"\x80\x04\x95"] {
        let (outcome, verdict) = deliver(message, true);
        assert!(matches!(outcome, Some(Err(Refusal::Protocol(_)))), "{outcome:?}");
        assert_eq!(verdict, b"#FAILURE#");
    }
}

#[test]
fn each_generation_of_cpython_understands_the_other_where_md5_is_allowed() {
    // A side up to 3.11 signs the whole text with MD5, however long it is.
    let mut ours = Handshake::deliver_challenge(&key("key")).unwrap().allow_md5(true);
    let challenge = ours.output()[4..].to_vec();
    ours.sent(challenge.len() + 4);
    let text = &challenge[b"#CHALLENGE#".len()..];
    let code = {
        use hmac::{KeyInit as _, Mac as _};
        let mut mac = hmac::Hmac::<md5::Md5>::new_from_slice(b"key").unwrap();
        mac.update(text);
        mac.finalize().into_bytes()
    };
    ours.input(&frame(&code));
    assert_eq!(ours.output()[4..], *b"#WELCOME#");
    ours.sent(13);
    assert_eq!(ours.outcome(), Some(Ok(())));
}

#[test]
fn a_message_that_is_too_long_is_refused_by_its_header() {
    for header in [257_u32, 1 << 20, u32::MAX, 0x8000_0000] {
        let mut side = Handshake::client(&key("k")).unwrap();
        assert_eq!(side.wanted(), 4);
        side.input(&header.to_be_bytes());
        assert!(matches!(side.outcome(), Some(Err(Refusal::Protocol(_)))), "{header:#x}");
        assert_eq!(side.wanted(), 0);
    }
    let mut side = Handshake::client(&key("k")).unwrap();
    side.input(&256_u32.to_be_bytes());
    assert_eq!((side.wanted(), side.outcome()), (256, None));
}

#[test]
fn nothing_is_taken_that_does_not_belong_to_the_handshake() {
    let mut listener = Handshake::listener(&key("k")).unwrap();
    let mut client = Handshake::client(&key("k")).unwrap();
    while client.wanted() > 0 || listener.wanted() > 0 {
        pass(&mut listener, &mut client, 64, &mut Vec::new());
        pass(&mut client, &mut listener, 64, &mut Vec::new());
    }
    let left = client.output().len();
    client.input(b"the first message");
    assert_eq!((client.output().len(), client.wanted()), (left, 0));
}
