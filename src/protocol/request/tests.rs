//! Every row of the table of malformed input, as Redis 7.0.15 answers it.

use super::*;

const LIMITS: RequestLimits =
    RequestLimits { max_argument_bytes: 512 << 20, max_inline_bytes: 64 << 10 };

/// All frames in `input` up to the first error or the incomplete rest, with the input arriving in
/// pieces of `piece` bytes.
fn scan(input: &[u8], piece: usize, authenticated: bool) -> Vec<(Scanned, Vec<Vec<u8>>)> {
    let mut scanner = Scanner::new();
    let mut found = Vec::new();
    let mut start = 0;
    let mut end = 0;
    loop {
        let buffer = &input[start..end];
        let scanned = scanner.next(buffer, authenticated, &LIMITS);
        match scanned {
            Scanned::Incomplete if end == input.len() => return found,
            Scanned::Incomplete => end = input.len().min(end + piece),
            Scanned::Error(_) => {
                found.push((scanned, vec![]));
                return found;
            }
            Scanned::Skip(bytes) | Scanned::Inline(bytes) => {
                found.push((scanned, vec![]));
                start += bytes;
            }
            Scanned::Request(bytes) => {
                let count = scanner.arguments().len();
                let arguments =
                    (0..count).map(|index| scanner.argument(buffer, index).to_vec()).collect();
                found.push((scanned, arguments));
                start += bytes;
            }
        }
    }
}

#[track_caller]
fn check_as(authenticated: bool, input: &[u8], expected: &[Scanned]) {
    for piece in [1, 2, 3, 7, 1000, input.len().max(1)] {
        if piece < 7 && input.len() > 100_000 {
            continue;
        }
        let found: Vec<_> = scan(input, piece, authenticated).into_iter().map(|f| f.0).collect();
        let shown = &input[..input.len().min(60)];
        assert_eq!(found, expected, "{} in pieces of {piece}", shown.escape_ascii());
    }
}

#[track_caller]
fn check(input: impl AsRef<[u8]>, expected: &[Scanned]) {
    check_as(true, input.as_ref(), expected);
}

#[track_caller]
fn check_error(input: impl AsRef<[u8]>, expected: ProtocolError) {
    check(input, &[Scanned::Error(expected)]);
}

fn reply(error: ProtocolError) -> Vec<u8> {
    let mut out = BytesMut::new();
    error.write(&mut out);
    out.to_vec()
}

#[test]
fn a_request_tells_where_its_arguments_are() {
    let found = scan(b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$11\r\na\r\n\0\xff\r\nzzzz\r\n", 1, true);
    let arguments = vec![b"SET".to_vec(), vec![], b"a\r\n\0\xff\r\nzzzz".to_vec()];
    assert_eq!(found, vec![(Scanned::Request(37), arguments)]);
}

#[test]
fn requests_of_all_kinds_follow_each_other() {
    check(
        b"PING\r\n*1\r\n$4\r\nPING\r\n\r\n*0\r\n*-1\r\n \t\n*1\r\n$4\r\nPING\r\nGET a\n*1",
        &[
            Scanned::Inline(6),
            Scanned::Request(14),
            Scanned::Skip(2),
            Scanned::Skip(4),
            Scanned::Skip(5),
            Scanned::Skip(3),
            Scanned::Request(14),
            Scanned::Inline(6),
        ],
    );
}

#[test]
fn a_multibulk_length_that_is_no_count_is_invalid() {
    for line in [
        "*3000000000",
        "*2147483648",
        "*abc",
        "*",
        "*+1",
        "*01",
        "*-0",
        "*00",
        "* 1",
        "*1 ",
        "*1\n",
        "*-9223372036854775809",
        "*99999999999999999999999",
        "*1x",
        "*$4",
    ] {
        check_error(format!("{line}\r\n$4\r\nPING\r\n"), ProtocolError::InvalidMultibulkLength);
    }
    check_error(b"*1\n$4\r\nPING\r\n", ProtocolError::InvalidMultibulkLength);
}

#[test]
fn an_announced_count_takes_no_memory() {
    check(b"*2147483647\r\n", &[]);
    check(b"*2147483647\r\n$1\r\na\r\n", &[]);
    let mut scanner = Scanner::new();
    let buffer = b"*2147483647\r\n$1\r\na\r\n$536870912\r\n";
    assert_eq!(scanner.next(buffer, true, &LIMITS), Scanned::Incomplete);
    assert!(scanner.arguments.capacity() <= 8, "{}", scanner.arguments.capacity());
}

#[test]
fn counts_of_nothing_are_skipped() {
    check(b"*0\r\n", &[Scanned::Skip(4)]);
    check(b"*-1\r\n", &[Scanned::Skip(5)]);
    check(b"*-9223372036854775808\r\n", &[Scanned::Skip(23)]);
    check(b"\r\n\n\r\n", &[Scanned::Skip(2), Scanned::Skip(1), Scanned::Skip(2)]);
}

#[test]
fn a_bulk_length_that_is_no_length_is_invalid() {
    for line in [
        "$-1",
        "$04",
        "$536870913",
        "$",
        "$+4",
        "$abc",
        "$4\n",
        "$ 4",
        "$-0",
        "$9223372036854775808",
        "$99999999999999999999999",
    ] {
        check_error(format!("*1\r\n{line}\r\nPING\r\n"), ProtocolError::InvalidBulkLength);
    }
    check(b"*1\r\n$536870912\r\n", &[]);
}

#[test]
fn anything_but_a_bulk_inside_of_a_request_is_refused() {
    check_error(b"*1\r\nfoo\r\n", ProtocolError::ExpectedBulk(b'f'));
    check_error(b"*1\r\n*1\r\n$4\r\nPING\r\n", ProtocolError::ExpectedBulk(b'*'));
    check_error(b"*1\r\n\r\n", ProtocolError::ExpectedBulk(b'\r'));
    check_error(b"*1\r\n\xff\r\n", ProtocolError::ExpectedBulk(0xff));
    check_error(b"*2\r\n$1\r\na\r\n1\r\n", ProtocolError::ExpectedBulk(b'1'));
    // Judged only when its line is there.
    check(b"*1\r\nfoo", &[]);
    check(b"*1\r\nfoo\r", &[]);
    check_error("*1\r\n".repeat(10_000), ProtocolError::ExpectedBulk(b'*'));
}

#[test]
fn lines_without_an_end_are_too_big() {
    let digits = "1".repeat(70_000);
    check_error(format!("*{digits}"), ProtocolError::TooBigMultibulkCount);
    check_error(format!("*{digits}\r\n"), ProtocolError::TooBigMultibulkCount);
    check_error(format!("*1\r\n${digits}"), ProtocolError::TooBigBulkCount);
    check_error(format!("*1\r\n${digits}\r\n"), ProtocolError::TooBigBulkCount);
    check_error(digits.clone(), ProtocolError::TooBigInline);
    check_error(format!("{digits}\r\n"), ProtocolError::TooBigInline);

    check("1".repeat(65_536), &[]);
    check_error("1".repeat(65_537), ProtocolError::TooBigInline);
    check("1".repeat(65_536) + "\n", &[Scanned::Inline(65_537)]);
    check(format!("*{}", "1".repeat(65_535)), &[]);
    check_error(format!("*{}", "1".repeat(65_536)), ProtocolError::TooBigMultibulkCount);
    check_error(format!("*{}\r\n", "1".repeat(65_535)), ProtocolError::InvalidMultibulkLength);
    check(format!("*1\r\n${}", "1".repeat(65_535)), &[]);
    check_error(format!("*1\r\n${}", "1".repeat(65_536)), ProtocolError::TooBigBulkCount);
}

#[test]
fn a_nul_hides_the_end_of_its_line() {
    check(b"PI\0NG\r\n", &[]);
    check(b"*1\0\r\n$4\r\nPING\r\n", &[]);
    check(b"*1\r\n\x004\r\nPING\r\n", &[]);
    let mut endless = b"PI\0NG\r\n".to_vec();
    endless.resize(65_537, b'\n');
    check_error(endless, ProtocolError::TooBigInline);
}

#[test]
fn the_two_bytes_after_an_argument_are_not_checked() {
    let found = scan(b"*1\r\n$4\r\nPINGxx", 1, true);
    assert_eq!(found, vec![(Scanned::Request(14), vec![b"PING".to_vec()])]);
    check(b"*1\r\n$4\r\nPINGx", &[]);
    check(b"*1\rx$4\rxPINGxx", &[Scanned::Request(14)]);
}

#[test]
fn resp3_types_are_inline_requests() {
    check(b"%1\r\n", &[Scanned::Inline(4)]);
    check(b"$4\r\nPING\r\n", &[Scanned::Inline(4), Scanned::Inline(6)]);
}

#[test]
fn requests_before_an_error_are_found() {
    let ping = "*1\r\n$4\r\nPING\r\n";
    check(
        format!("{ping}{ping}*abc\r\n{ping}"),
        &[
            Scanned::Request(14),
            Scanned::Request(14),
            Scanned::Error(ProtocolError::InvalidMultibulkLength),
        ],
    );
}

#[test]
fn clients_that_have_yet_to_authenticate_are_kept_short() {
    use ProtocolError::{UnauthenticatedBulkLength, UnauthenticatedMultibulkLength};
    check_as(false, b"*11\r\n", &[Scanned::Error(UnauthenticatedMultibulkLength)]);
    check_as(false, b"*10\r\n", &[]);
    check_as(false, b"*1\r\n$16385\r\n", &[Scanned::Error(UnauthenticatedBulkLength)]);
    check_as(false, b"*1\r\n$16384\r\n", &[]);
    check_as(false, b"*3000000000\r\n", &[Scanned::Error(ProtocolError::InvalidMultibulkLength)]);
    check_as(false, b"*1\r\n$-1\r\n", &[Scanned::Error(ProtocolError::InvalidBulkLength)]);
}

#[test]
fn errors_are_told_in_the_words_of_redis() {
    for (error, expected) in [
        (ProtocolError::InvalidMultibulkLength, "invalid multibulk length"),
        (ProtocolError::UnauthenticatedMultibulkLength, "unauthenticated multibulk length"),
        (ProtocolError::TooBigMultibulkCount, "too big mbulk count string"),
        (ProtocolError::ExpectedBulk(b'f'), "expected '$', got 'f'"),
        (ProtocolError::ExpectedBulk(b'\r'), "expected '$', got ' '"),
        (ProtocolError::InvalidBulkLength, "invalid bulk length"),
        (ProtocolError::UnauthenticatedBulkLength, "unauthenticated bulk length"),
        (ProtocolError::TooBigBulkCount, "too big bulk count string"),
        (ProtocolError::TooBigInline, "too big inline request"),
        (ProtocolError::UnbalancedQuotes, "unbalanced quotes in request"),
    ] {
        let expected = format!("-ERR Protocol error: {expected}\r\n");
        assert_eq!(reply(error).escape_ascii().to_string(), expected.escape_default().to_string());
    }
    assert_eq!(
        reply(ProtocolError::ExpectedBulk(0xff)),
        b"-ERR Protocol error: expected '$', got '\xff'\r\n"
    );
    assert_eq!(reply(ProtocolError::HttpProbe), b"");
}

#[test]
fn http_clients_are_known_by_their_words() {
    assert!(is_http_probe(b"POST") && is_http_probe(b"post") && is_http_probe(b"Host:"));
    assert!(is_http_probe(b"post\0anything"));
    assert!(!is_http_probe(b"GET") && !is_http_probe(b"host") && !is_http_probe(b""));
}

#[test]
fn a_large_request_in_small_pieces_is_read_once() {
    let mut request = b"*1000000\r\n".to_vec();
    for _ in 0..1_000_000 {
        request.extend_from_slice(b"$1\r\na\r\n");
    }
    let mut scanner = Scanner::new();
    let started = std::time::Instant::now();
    for end in (1024..request.len()).step_by(1024) {
        assert_eq!(scanner.next(&request[..end], true, &LIMITS), Scanned::Incomplete);
    }
    assert_eq!(scanner.next(&request, true, &LIMITS), Scanned::Request(request.len()));
    // Reading again from the start for each piece would look at 20 GB.
    assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());
    assert_eq!(scanner.arguments().len(), 1_000_000);
    assert_eq!(scanner.next(b"*1\r\n$1\r\na\r\n", true, &LIMITS), Scanned::Request(11));
    assert!(scanner.arguments.capacity() <= KEPT_ARGUMENTS);
}
