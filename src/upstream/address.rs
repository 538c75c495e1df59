//! Where the upstream is, read from its URL.

use std::fmt;
use std::path::PathBuf;

/// The upstream's socket and our credentials there.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub socket: Socket,
    pub user: Option<String>,
    pub password: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// Redis' usual port.
const DEFAULT_PORT: u16 = 6379;

impl Address {
    /// Reads `redis://[user[:password]@]host[:port]`, `redis://:password@host` or `unix:/path`.
    ///
    /// # Errors
    /// Says what is wrong with the URL, without repeating its password.
    pub fn parse(url: &str) -> Result<Self, String> {
        if let Some(path) = url.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err("unix: needs an absolute path, as in unix:/run/redis.sock".into());
            }
            return Ok(Self { socket: Socket::Unix(path.into()), user: None, password: None });
        }
        let rest = url
            .strip_prefix("redis://")
            .ok_or("the URL must begin with redis:// or unix:/ (TLS is not supported yet)")?;
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((credentials, place)) => (Some(credentials), place),
            None => (None, rest),
        };
        let place = place.trim_end_matches('/');
        if place.contains('/') {
            return Err("no path may follow the port; set upstream.database instead".into());
        }
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| format!("{port:?} is not a port"))?)
            }
            _ => (place, DEFAULT_PORT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("the URL names no host".into());
        }
        let (user, password) = match credentials.map(|c| c.split_once(':').unwrap_or((c, ""))) {
            None => (None, None),
            Some((user, "")) => (None, Some(decode_percent(user)?)),
            Some(("", password)) => (None, Some(decode_percent(password)?)),
            Some((user, password)) => {
                (Some(decode_percent(user)?), Some(decode_percent(password)?))
            }
        };
        Ok(Self { socket: Socket::Tcp { host: host.into(), port }, user, password })
    }
}

/// Undoes URL escapes (RFC 3986, section 2.1).
fn decode_percent(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            #[allow(clippy::cast_possible_truncation, reason = "two hex digits fit a byte")]
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err("a % in the credentials must be written as %25".into()),
        }
    }
    String::from_utf8(bytes).map_err(|_| "the credentials are not UTF-8".into())
}

// === impl Address ===

impl fmt::Display for Address {
    /// Without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Socket::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Socket::Tcp { host, port } => write!(f, "{host}:{port}"),
            Socket::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, user: Option<&str>, password: Option<&str>) -> Address {
        Address {
            socket: Socket::Tcp { host: host.into(), port },
            user: user.map(Into::into),
            password: password.map(Into::into),
        }
    }

    #[test]
    fn urls_are_read() {
        let check = |url: &str, expected: Address| {
            assert_eq!(Address::parse(url).expect(url), expected, "{url}");
        };
        check("redis://localhost", tcp("localhost", 6379, None, None));
        check("redis://10.0.0.1:7000/", tcp("10.0.0.1", 7000, None, None));
        check("redis://[::1]:7000", tcp("::1", 7000, None, None));
        check("redis://[::1]", tcp("::1", 6379, None, None));
        check("redis://:p%40ss@h", tcp("h", 6379, None, Some("p@ss")));
        check("redis://u:p@h:1", tcp("h", 1, Some("u"), Some("p")));
        let unix =
            Address { socket: Socket::Unix("/run/r.sock".into()), user: None, password: None };
        check("unix:/run/r.sock", unix);
    }

    #[test]
    fn a_bad_url_is_explained() {
        for url in ["", "rediss://h", "redis://", "redis://h:x", "redis://h/0", "unix:r"] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }
}
