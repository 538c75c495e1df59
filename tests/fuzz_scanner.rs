//! Random bytes for the scanners of requests and replies: well formed, mutated, and cut at every
//! byte. `RESPGRES_FUZZ_REQUESTS` says how many requests (default 200,000).

use std::ops::Range;

use bytes::BytesMut;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis_protocol::resp2;
use redis_protocol::resp3;
use redis_protocol::resp3::types::{OwnedFrame as Frame, Resp3Frame, VerbatimStringFormat};
use respgres::protocol::inline::{encode_request, split};
use respgres::protocol::request::{RequestLimits, Scanned, Scanner};
use respgres::protocol::scan::{ReplyScanner, Step};

fn requests_to_try() -> u64 {
    match std::env::var("RESPGRES_FUZZ_REQUESTS") {
        Ok(count) => count.parse().expect("RESPGRES_FUZZ_REQUESTS is a number"),
        Err(_) => 200_000,
    }
}

/// Numbers that look random and are the same in every run (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1);
        (0..length).map(|_| self.roll() as u8).collect()
    }
}

// === Requests ===

/// What the scanner made of a stream of bytes.
#[derive(Debug, PartialEq)]
struct Found {
    frames: Vec<(Scanned, Vec<Range<usize>>)>,
    /// Bytes of the incomplete request at the end.
    left: usize,
}

/// Scans `input`, which arrives in pieces of the lengths that `piece` gives.
fn scan(
    input: &[u8],
    authenticated: bool,
    limits: &RequestLimits,
    mut piece: impl FnMut() -> usize,
) -> Found {
    let mut scanner = Scanner::new();
    let mut frames = Vec::new();
    let (mut start, mut end) = (0, 0);
    loop {
        let scanned = scanner.next(&input[start..end], authenticated, limits);
        // An argument takes 6 bytes of input at least, and a vector doubles. Room is kept for later.
        let most_arguments = (input.len() / 6 * 2).max(8);
        assert!(scanner.memory_bytes() <= most_arguments * size_of::<Range<usize>>());
        let bytes = match scanned {
            Scanned::Incomplete if end == input.len() => {
                return Found { frames, left: end - start };
            }
            Scanned::Incomplete => {
                end = input.len().min(end + piece());
                continue;
            }
            Scanned::Error(_) => {
                frames.push((scanned, vec![]));
                return Found { frames, left: 0 };
            }
            Scanned::Skip(bytes) | Scanned::Inline(bytes) | Scanned::Request(bytes) => bytes,
        };
        assert!(bytes > 0 && bytes <= end - start);
        let is_request = matches!(scanned, Scanned::Request(_));
        frames.push((scanned, if is_request { scanner.arguments().to_vec() } else { vec![] }));
        start += bytes;
    }
}

fn add_request(dice: &mut Dice, input: &mut BytesMut) -> Vec<Vec<u8>> {
    let count = if dice.one_in(100) { 1 + dice.below(200) } else { 1 + dice.below(5) };
    let most_bytes = if dice.one_in(100) { 3000 } else { 12 };
    let arguments: Vec<_> = (0..count).map(|_| dice.bytes(most_bytes)).collect();
    encode_request(&arguments, input);
    arguments
}

/// Something that resembles a request.
fn add_oddity(dice: &mut Dice, input: &mut BytesMut) {
    const COUNTS: &[&str] = &[
        "0",
        "-1",
        "1",
        "2",
        "10",
        "11",
        "01",
        "+1",
        "",
        " 1",
        "1 ",
        "abc",
        "2147483647",
        "2147483648",
        "3000000000",
        "-9223372036854775808",
        "99999999999999999999",
        "1\0",
        "\n",
    ];
    const LENGTHS: &[&str] = &[
        "0",
        "1",
        "3",
        "04",
        "-1",
        "-0",
        "",
        "x",
        "16384",
        "16385",
        "536870912",
        "536870913",
        "9223372036854775807",
        "9223372036854775808",
        "3\0",
        "1\n",
    ];
    const LINES: &[&str] = &[
        "PING",
        "",
        " ",
        "\t\x0b\x0c ",
        "set a 'b c'",
        "set \"\\x41\" \"",
        "'a'b",
        "GET / HTTP/1.1",
        "Host: x",
        "%1",
        "$4",
        "PI\0NG",
        "\u{e9}",
        "\"\\\"\"",
        "'\\''",
    ];
    const ENDS: &[&str] = &["\r\n", "\r\n", "\r\n", "\n", "\r", "", "\rx", "\r\r\n", "\0\r\n"];
    match dice.below(4) {
        0 => {
            input
                .extend_from_slice(format!("*{}{}", dice.pick(COUNTS), dice.pick(ENDS)).as_bytes());
        }
        1 => {
            let kind = dice.pick(&["$", "$", "$", "*", "+", ":", "\r", "\n", "\0", ""]);
            let line = format!("*1\r\n{kind}{}{}", dice.pick(LENGTHS), dice.pick(ENDS));
            input.extend_from_slice(line.as_bytes());
        }
        2 => input.extend_from_slice(format!("{}{}", dice.pick(LINES), dice.pick(ENDS)).as_bytes()),
        _ => {
            let start = input.len();
            add_request(dice, input);
            for _ in 0..=dice.below(3) {
                let index = start + dice.below(input.len() - start);
                let byte = if dice.one_in(2) {
                    *dice.pick(&[b"*", b"$", b"\r", b"\n", b"0", b"9", b"-", b"\0", b"'"])
                } else {
                    [dice.roll() as u8]
                };
                input[index] = byte[0];
            }
            if dice.one_in(4) {
                input.truncate(start + dice.below(input.len() - start));
            }
        }
    }
}

#[test]
fn requests_are_found_however_their_bytes_arrive() {
    const FULL: RequestLimits =
        RequestLimits { max_argument_bytes: 512 << 20, max_inline_bytes: 64 << 10 };
    const SMALL: RequestLimits = RequestLimits { max_argument_bytes: 9, max_inline_bytes: 16 };
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut tried = 0;
    // That the generator reaches what it is for.
    let (mut requests, mut inlines, mut errors) = (0, 0, 0);
    let mut input = BytesMut::new();
    while tried < requests_to_try() {
        input.clear();
        let requests_here = 1 + dice.below(8);
        let is_valid = dice.one_in(3);
        let mut valid_requests = Vec::new();
        for _ in 0..requests_here {
            if is_valid || dice.one_in(2) {
                valid_requests.push(add_request(&mut dice, &mut input));
            } else {
                add_oddity(&mut dice, &mut input);
            }
        }
        tried += requests_here as u64;

        let authenticated = is_valid || !dice.one_in(8);
        let limits = if is_valid || !dice.one_in(8) { FULL } else { SMALL };
        let whole = scan(&input, authenticated, &limits, || usize::MAX >> 1);
        let by_byte = scan(&input, authenticated, &limits, || 1);
        assert_eq!(whole, by_byte, "{}", input.escape_ascii());
        let by_piece = scan(&input, authenticated, &limits, || 1 + dice.below(40));
        assert_eq!(whole, by_piece, "{}", input.escape_ascii());
        assert!(input.len() >= whole.left);

        let mut start = 0;
        for (scanned, arguments) in &whole.frames {
            match *scanned {
                Scanned::Request(bytes) => {
                    assert!(arguments.iter().all(|range| range.end + 2 <= bytes));
                    requests += 1;
                    start += bytes;
                }
                Scanned::Inline(bytes) => {
                    let line = &input[start..start + bytes];
                    assert!(split(line).map_or(true, |arguments| !arguments.is_empty()));
                    inlines += 1;
                    start += bytes;
                }
                Scanned::Skip(bytes) => start += bytes,
                Scanned::Error(_) => errors += 1,
                Scanned::Incomplete => unreachable!("no frame"),
            }
        }
        if is_valid {
            check_with_an_independent_decoder(&input, &whole, &valid_requests);
        }
    }
    assert!(requests > tried / 4 && inlines > tried / 100 && errors > tried / 100);
}

/// Valid requests have the ends that redis-protocol sees, and the arguments that went in.
fn check_with_an_independent_decoder(input: &[u8], found: &Found, requests: &[Vec<Vec<u8>>]) {
    assert_eq!(found.left, 0);
    assert_eq!(found.frames.len(), requests.len());
    let mut start = 0;
    for ((scanned, ranges), arguments) in found.frames.iter().zip(requests) {
        let request = &input[start..];
        let (frame, bytes) = resp2::decode::decode(request).expect("valid").expect("complete");
        assert_eq!(*scanned, Scanned::Request(bytes));
        let resp2::types::OwnedFrame::Array(elements) = frame else { panic!("not an array") };
        assert_eq!(elements.len(), ranges.len());
        for ((element, range), argument) in elements.iter().zip(ranges).zip(arguments) {
            let resp2::types::OwnedFrame::BulkString(decoded) = element else {
                panic!("not a bulk string")
            };
            assert_eq!(decoded, argument);
            assert_eq!(&request[range.clone()], argument);
        }
        start += bytes;
    }
    assert_eq!(start, input.len());
}

// === Replies ===

/// The type bytes and lengths of the frames in `input`, the bytes left over, and the error that
/// ended it.
type FoundReplies = (Vec<(u8, usize)>, usize, Option<&'static str>);

fn scan_replies(input: &[u8], mut piece: impl FnMut() -> usize) -> FoundReplies {
    let mut scanner = ReplyScanner::new();
    let mut frames = Vec::new();
    let (mut start, mut seen, mut end) = (0, 0, 0);
    while seen < input.len() {
        if seen == end {
            end = input.len().min(end + piece());
        }
        match scanner.next(&input[seen..end]) {
            Step::End(bytes) => {
                assert!(bytes > 0 && bytes <= end - seen);
                assert_eq!(scanner.is_push(), scanner.kind() == b'>');
                seen += bytes;
                frames.push((scanner.kind(), seen - start));
                start = seen;
            }
            Step::Partial => seen = end,
            Step::Error(reason) => return (frames, 0, Some(reason)),
        }
    }
    (frames, input.len() - start, None)
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let line = || "[ -~]{0,30}";
    let scalar = prop_oneof![
        bytes().prop_map(|data| Frame::BlobString { data, attributes: None }),
        bytes().prop_map(|data| Frame::BlobError { data, attributes: None }),
        line().prop_map(|data| Frame::SimpleString { data: data.into(), attributes: None }),
        line().prop_map(|data| Frame::SimpleError { data, attributes: None }),
        any::<bool>().prop_map(|data| Frame::Boolean { data, attributes: None }),
        Just(Frame::Null),
        any::<i64>().prop_map(|data| Frame::Number { data, attributes: None }),
        any::<f64>().prop_map(|data| Frame::Double { data, attributes: None }),
        "-?[1-9][0-9]{0,60}"
            .prop_map(|data| Frame::BigNumber { data: data.into(), attributes: None }),
        bytes().prop_map(|data| Frame::VerbatimString {
            data,
            format: VerbatimStringFormat::Text,
            attributes: None,
        }),
    ];
    scalar.prop_recursive(4, 40, 6, move |inner| {
        let key =
            || line().prop_map(|data| Frame::SimpleString { data: data.into(), attributes: None });
        let elements = || prop::collection::vec(inner.clone(), 0..6);
        let entries = || prop::collection::hash_map(key(), inner.clone(), 0..4);
        prop_oneof![
            (elements(), prop::option::weighted(0.2, entries())).prop_map(|(data, attributes)| {
                Frame::Array {
                    data,
                    attributes: attributes.map(|entries| entries.into_iter().collect()),
                }
            }),
            entries().prop_map(|entries| Frame::Map {
                data: entries.into_iter().collect(),
                attributes: None
            }),
            prop::collection::hash_set(key(), 0..4).prop_map(|elements| Frame::Set {
                data: elements.into_iter().collect(),
                attributes: None
            }),
            elements().prop_map(|data| Frame::Push { data, attributes: None }),
        ]
    })
}

fn encode(frame: &Frame) -> Vec<u8> {
    let mut out = vec![0; frame.encode_len(false)];
    let bytes = resp3::encode::complete::encode(&mut out, frame, false).expect("a valid frame");
    out.truncate(bytes);
    out
}

fn kind(frame: &Frame) -> u8 {
    match frame {
        Frame::BlobString { .. } => b'$',
        Frame::BlobError { .. } => b'!',
        Frame::SimpleString { .. } => b'+',
        Frame::SimpleError { .. } => b'-',
        Frame::Boolean { .. } => b'#',
        Frame::Null => b'_',
        Frame::Number { .. } => b':',
        Frame::Double { .. } => b',',
        Frame::BigNumber { .. } => b'(',
        Frame::VerbatimString { .. } => b'=',
        Frame::Array { .. } => b'*',
        Frame::Map { .. } => b'%',
        Frame::Set { .. } => b'~',
        Frame::Push { .. } => b'>',
        Frame::Hello { .. } | Frame::ChunkedString(_) => unreachable!("not generated"),
    }
}

#[test]
fn replies_end_where_an_independent_encoder_ended_them() {
    let cases = u32::try_from(requests_to_try() / 200).unwrap_or(u32::MAX);
    let mut runner =
        TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let mutation = (any::<prop::sample::Index>(), any::<u8>());
    let streams = (
        prop::collection::vec(any_frame(), 1..6),
        1usize..30,
        prop::collection::vec(mutation, 1..4),
    );
    runner
        .run(&streams, |(frames, piece, mutations)| {
            let encoded: Vec<_> = frames.iter().map(encode).collect();
            let mut input = encoded.concat();
            let expected: Vec<_> = frames
                .iter()
                .zip(&encoded)
                .map(|(frame, bytes)| (kind(frame), bytes.len()))
                .collect();
            for piece in [1, piece, input.len()] {
                let found = scan_replies(&input, || piece);
                prop_assert_eq!(&found, &(expected.clone(), 0, None));
            }
            for (index, byte) in mutations {
                let index = index.index(input.len());
                input[index] = byte;
            }
            let whole = scan_replies(&input, || usize::MAX >> 1);
            prop_assert_eq!(&whole, &scan_replies(&input, || 1));
            prop_assert_eq!(&whole, &scan_replies(&input, || piece));
            Ok(())
        })
        .expect("replies are found however their bytes arrive");
}
