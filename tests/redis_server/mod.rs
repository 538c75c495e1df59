//! A redis-server of a test's own on a Unix socket, a client that waits for each reply, and
//! numbers that are random by seed.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ends with the value.
pub(crate) struct RedisServer {
    process: Child,
    directory: tempfile::TempDir,
}

/// A reply in RESP2 or RESP3, as far as these tests need it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    Status(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

pub(crate) struct Connection {
    stream: BufReader<UnixStream>,
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl RedisServer {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(directory.path().join("redis.sock"))
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server has to be installed for this test");
        let server = Self { process, directory };
        let start = Instant::now();
        while UnixStream::connect(server.socket()).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(2));
        }
        server
    }

    pub(crate) fn connect(&self) -> Connection {
        let stream = UnixStream::connect(self.socket()).expect("redis-server listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout above zero");
        Connection { stream: BufReader::new(stream) }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Connection {
    pub(crate) fn call(&mut self, request: &[impl AsRef<[u8]>]) -> Value {
        let mut bytes = format!("*{}\r\n", request.len()).into_bytes();
        for argument in request {
            let argument = argument.as_ref();
            bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            bytes.extend_from_slice(argument);
            bytes.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&bytes).expect("redis-server reads");
        Value::read(&mut self.stream)
    }
}

impl Value {
    /// Reads one reply.
    pub(crate) fn read(from: &mut impl BufRead) -> Self {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line).expect("redis-server answers");
        let line = String::from_utf8_lossy(line.strip_suffix(b"\r\n").expect("a whole line"));
        let (kind, rest) = line.split_at(1);
        let number = || rest.parse::<i64>().expect("a number");
        match kind {
            "+" => Value::Status(rest.to_owned()),
            "-" => Value::Error(rest.to_owned()),
            ":" => Value::Integer(number()),
            "_" => Value::Nil,
            "$" | "*" if number() < 0 => Value::Nil,
            "$" => {
                let mut bytes = vec![0; number() as usize + 2];
                from.read_exact(&mut bytes).expect("redis-server answers in full");
                bytes.truncate(bytes.len() - 2);
                Value::Bulk(bytes)
            }
            "*" | "~" => Value::Array((0..number()).map(|_| Self::read(from)).collect()),
            "%" => {
                Value::Map((0..number()).map(|_| (Self::read(from), Self::read(from))).collect())
            }
            _ => panic!("a reply of an unknown type: {line}"),
        }
    }

    pub(crate) fn elements(&self) -> &[Value] {
        match self {
            Value::Array(elements) => elements,
            other => panic!("not an array: {other:?}"),
        }
    }

    pub(crate) fn integer(&self) -> i64 {
        match self {
            Value::Integer(integer) => *integer,
            Value::Bulk(bytes) => String::from_utf8_lossy(bytes).parse().expect("an integer"),
            other => panic!("not an integer: {other:?}"),
        }
    }
}

impl Random {
    /// Below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) % limit as u64) as usize
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}
