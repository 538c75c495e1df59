//! Replies as a test sees them: read from bytes, and written in the form of a conversation.
//!
//! The form is that of the wire where the wire is readable, and redis-cli's where it is not:
//!
//! ```text
//! +OK   -ERR text   :7   $-1   *-1   _   #t   ,1.5   (12345678901234567890
//! "a bulk string, with \" \\ \r \n \t and \x00 for bytes that are not readable"
//! ="txt:a verbatim string"
//! *2            an array (%1 a map, ~2 a set, >2 a push), its elements below it, two spaces
//!   "a"         further in; a map's keys and values take turns
//!   :1
//! ```

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Status(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    /// `$-1`
    NilBulk,
    /// `*-1`
    NilArray,
    Array(Vec<Value>),
    /// `_`
    Null,
    Boolean(bool),
    /// As it was sent.
    Double(String),
    /// As it was sent.
    BigNumber(String),
    Verbatim(Vec<u8>),
    Map(Vec<(Value, Value)>),
    Set(Vec<Value>),
    Push(Vec<Value>),
}

impl Value {
    /// Reads one whole reply; `None` while bytes are missing. Gives the bytes it took.
    pub fn parse(bytes: &[u8]) -> Option<(Value, usize)> {
        let mut reader = Reader { bytes, at: 0 };
        let value = reader.value()?;
        Some((value, reader.at))
    }

    /// The reply in the form of a conversation, one line or more.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.write(0, &mut lines);
        lines
    }

    /// The bytes of a bulk string or a status.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bulk(bytes) => Some(bytes),
            Value::Status(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    pub fn integer(&self) -> i64 {
        match self {
            Value::Integer(integer) => *integer,
            other => panic!("not an integer: {other:?}"),
        }
    }

    pub fn elements(&self) -> &[Value] {
        match self {
            Value::Array(elements) | Value::Set(elements) | Value::Push(elements) => elements,
            other => panic!("not an array: {other:?}"),
        }
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Value::Error(_))
    }

    /// The same reply without an order that Redis does not promise: an array of fields and values
    /// by field, anything else as it is.
    pub fn into_map(self) -> Value {
        match self {
            Value::Array(elements) if elements.len() % 2 == 0 => {
                let mut pairs: Vec<(Value, Value)> =
                    elements.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
                pairs.sort();
                Value::Map(pairs)
            }
            Value::Map(mut pairs) => {
                pairs.sort();
                Value::Map(pairs)
            }
            other => other,
        }
    }

    /// The same reply without an order that Redis does not promise: an array's elements sorted.
    pub fn into_set(self) -> Value {
        match self {
            Value::Array(mut elements) | Value::Set(mut elements) => {
                elements.sort();
                Value::Set(elements)
            }
            other => other,
        }
    }

    fn write(&self, depth: usize, lines: &mut Vec<String>) {
        let many = |sign: char, elements: &[&Value], count: usize, lines: &mut Vec<String>| {
            lines.push(format!("{:depth$}{sign}{count}", "", depth = depth * 2));
            for element in elements {
                element.write(depth + 1, lines);
            }
        };
        let line = match self {
            Value::Status(text) => format!("+{}", escape(text.as_bytes())),
            Value::Error(text) => format!("-{}", escape_line(text.as_bytes())),
            Value::Integer(integer) => format!(":{integer}"),
            Value::Bulk(bytes) => format!("\"{}\"", escape(bytes)),
            Value::NilBulk => "$-1".to_owned(),
            Value::NilArray => "*-1".to_owned(),
            Value::Null => "_".to_owned(),
            Value::Boolean(true) => "#t".to_owned(),
            Value::Boolean(false) => "#f".to_owned(),
            Value::Double(text) => format!(",{text}"),
            Value::BigNumber(text) => format!("({text}"),
            Value::Verbatim(bytes) => format!("=\"{}\"", escape(bytes)),
            Value::Array(elements) => {
                return many('*', &elements.iter().collect::<Vec<_>>(), elements.len(), lines);
            }
            Value::Set(elements) => {
                return many('~', &elements.iter().collect::<Vec<_>>(), elements.len(), lines);
            }
            Value::Push(elements) => {
                return many('>', &elements.iter().collect::<Vec<_>>(), elements.len(), lines);
            }
            Value::Map(pairs) => {
                let elements: Vec<&Value> = pairs.iter().flat_map(|(k, v)| [k, v]).collect();
                return many('%', &elements, pairs.len(), lines);
            }
        };
        lines.push(format!("{:depth$}{line}", "", depth = depth * 2));
    }
}

/// Bytes as redis-cli shows them between quotes; UTF-8 stays readable.
pub fn escape(bytes: &[u8]) -> String {
    escape_line(bytes).replace('"', "\\\"")
}

fn escape_line(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\r' => text.push_str("\\r"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                c if c.is_control() => {
                    let mut buffer = [0; 4];
                    for byte in c.encode_utf8(&mut buffer).bytes() {
                        text.push_str(&format!("\\x{byte:02x}"));
                    }
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Splits a command line as redis-cli does: blanks between arguments, `"…"` with `\" \\ \r \n \t
/// \xNN`, and `'…'` as it stands.
pub fn arguments(line: &str) -> Vec<Vec<u8>> {
    let mut arguments = Vec::new();
    let mut rest = line.bytes().peekable();
    while let Some(&byte) = rest.peek() {
        if byte.is_ascii_whitespace() {
            rest.next();
            continue;
        }
        let mut argument = Vec::new();
        match byte {
            b'"' => {
                rest.next();
                loop {
                    match rest.next().unwrap_or_else(|| panic!("unbalanced quotes: {line}")) {
                        b'"' => break,
                        b'\\' => argument.push(match rest.next() {
                            Some(b'r') => b'\r',
                            Some(b'n') => b'\n',
                            Some(b't') => b'\t',
                            Some(b'x') => {
                                let mut digit = || {
                                    let byte = rest.next().unwrap_or(b'?');
                                    let digit = char::from(byte).to_digit(16);
                                    digit.unwrap_or_else(|| panic!("bad \\x escape: {line}"))
                                };
                                u8::try_from(digit() * 16 + digit()).expect("two digits")
                            }
                            Some(other) => other,
                            None => panic!("unbalanced quotes: {line}"),
                        }),
                        other => argument.push(other),
                    }
                }
            }
            b'\'' => {
                rest.next();
                loop {
                    match rest.next().unwrap_or_else(|| panic!("unbalanced quotes: {line}")) {
                        b'\'' => break,
                        other => argument.push(other),
                    }
                }
            }
            _ => {
                while let Some(byte) = rest.next_if(|byte| !byte.is_ascii_whitespace()) {
                    argument.push(byte);
                }
            }
        }
        arguments.push(argument);
    }
    arguments
}

/// A request as clients send it.
pub fn request<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// A place in the bytes of a reply. Replies come from servers under test: what is not RESP panics.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn value(&mut self) -> Option<Value> {
        let line = self.line()?;
        let (kind, text) = (*line.first().unwrap_or(&b'?'), line.get(1..).unwrap_or_default());
        let text = String::from_utf8_lossy(text).into_owned();
        Some(match kind {
            b'+' => Value::Status(text),
            b'-' => Value::Error(text),
            b':' => Value::Integer(number(&text)),
            b'$' if text == "-1" => Value::NilBulk,
            b'*' if text == "-1" => Value::NilArray,
            b'$' => Value::Bulk(self.blob(&text)?),
            b'=' => Value::Verbatim(self.blob(&text)?),
            b'*' => Value::Array(self.values(&text)?),
            b'~' => Value::Set(self.values(&text)?),
            b'>' => Value::Push(self.values(&text)?),
            b'%' => {
                let count = number(&text);
                let mut pairs = Vec::new();
                for _ in 0..count {
                    pairs.push((self.value()?, self.value()?));
                }
                Value::Map(pairs)
            }
            b'_' => Value::Null,
            b'#' => Value::Boolean(text == "t"),
            b',' => Value::Double(text),
            b'(' => Value::BigNumber(text),
            _ => panic!("not a reply: {}", escape(&self.bytes[..self.bytes.len().min(200)])),
        })
    }

    fn values(&mut self, count: &str) -> Option<Vec<Value>> {
        (0..number(count)).map(|_| self.value()).collect()
    }

    fn blob(&mut self, length: &str) -> Option<Vec<u8>> {
        let length = usize::try_from(number(length)).expect("a length is not negative");
        let blob = self.bytes.get(self.at..self.at + length)?.to_vec();
        assert_eq!(self.bytes.get(self.at + length..self.at + length + 2)?, b"\r\n");
        self.at += length + 2;
        Some(blob)
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let rest = &self.bytes[self.at..];
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        self.at += end + 2;
        Some(rest[..end].to_vec())
    }
}

fn number(text: &str) -> i64 {
    text.parse().unwrap_or_else(|_| panic!("not a number in a reply: {text:?}"))
}
