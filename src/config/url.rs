//! Where the stores are: the urls of the upstream and of Postgres.
//!
//! A url can hold a password, so neither a complaint nor `Debug` ever repeats one.

use std::fmt;

const REDIS_ADVICE: &str = "write redis://[user[:password]@]host[:port], or unix:/path";
const POSTGRES_ADVICE: &str = "write postgres://user:password@host:port/database";

/// What `upstream.url` says.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    pub endpoint: Endpoint,
    /// None: Redis' user `default`.
    pub user: Option<String>,
    pub password: Option<String>,
}

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A host name or address (IPv6 without brackets) and a port.
    Tcp(String, u16),
    /// The path of a Unix socket.
    Unix(String),
}

// === impl RedisUrl ===

impl RedisUrl {
    /// Reads `redis://[user[:password]@]host[:port]` or `unix:/path`; user and password may be
    /// percent-encoded, the user may be empty.
    ///
    /// # Errors
    /// What is wrong and the way out, without any part of the url.
    pub fn parse(url: &str) -> Result<Self, String> {
        if let Some(path) = url.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') && !path.contains('\0') {
                Ok(Self { endpoint: Endpoint::Unix(path.to_owned()), user: None, password: None })
            } else {
                Err("the path of a Unix socket begins with '/': unix:/path".to_owned())
            };
        }
        if url.starts_with("rediss:") {
            return Err(
                "TLS to the upstream (rediss://) is not available yet; write redis://, and \
                        let a tunnel on this host encrypt what leaves it"
                    .to_owned(),
            );
        }
        let Some(rest) = url.strip_prefix("redis://") else {
            return Err(format!("not a Redis url; {REDIS_ADVICE}"));
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, rest),
        };
        if address.contains(['/', '?', '#']) {
            return Err("nothing can follow the port; the database is upstream.database".to_owned());
        }
        let (host, port) = host_and_port(address)
            .ok_or_else(|| format!("no host, or no valid port; {REDIS_ADVICE}"))?;
        let decode = |text: &str| {
            percent_decode(text).ok_or_else(|| {
                "user or password: '%' must begin a percent-encoded UTF-8 byte; write %25 for '%'"
                    .to_owned()
            })
        };
        let (user, password) = match login.map(|login| login.split_once(':').ok_or(login)) {
            None => (None, None),
            Some(Ok((user, password))) => (Some(decode(user)?), Some(decode(password)?)),
            Some(Err(user)) => (Some(decode(user)?), None),
        };
        let user = user.filter(|user| !user.is_empty());
        if user.is_some() && password.is_none() {
            return Err(
                "a user without a password; write user:password@, or :password@ for the user \
                 \"default\""
                    .to_owned(),
            );
        }
        Ok(Self { endpoint: Endpoint::Tcp(host, port.unwrap_or(6379)), user, password })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "…");
        f.debug_struct("RedisUrl")
            .field("endpoint", &self.endpoint)
            .field("user", &self.user)
            .field("password", &password)
            .finish()
    }
}

/// Checks the form of `postgres.url`; what its parameters mean is the driver's business.
///
/// # Errors
/// What is wrong and the way out, without any part of the url.
pub(super) fn check_postgres(url: &str) -> Result<(), String> {
    let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let Some(rest) = rest else { return Err(format!("not a Postgres url; {POSTGRES_ADVICE}")) };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (address, database) = rest.rsplit_once('/').unwrap_or((rest, ""));
    let (login, address) = address.rsplit_once('@').unwrap_or(("", address));
    if login.contains('/') {
        return Err("a '/' in user or password; write %2F for it".to_owned());
    }
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    if address.is_empty() && !has("host") && !has("hostaddr") {
        return Err(format!("no host; {POSTGRES_ADVICE}, or …?host=/run/postgresql"));
    }
    if !address.is_empty() && host_and_port(address).is_none() {
        return Err(format!("no valid host and port; {POSTGRES_ADVICE}"));
    }
    if database.is_empty() && !has("dbname") {
        return Err(format!("no database; {POSTGRES_ADVICE}"));
    }
    Ok(())
}

/// Checks `host:port` of a listening socket.
///
/// # Errors
/// What is wrong and the way out.
pub(super) fn check_listen(address: &str) -> Result<(), String> {
    match host_and_port(address) {
        Some((_, Some(_))) => Ok(()),
        _ => Err(format!(
            "{address:?} is not host:port; write \"127.0.0.1:6380\", \"[::1]:6380\", or \
             \"0.0.0.0:6380\" for all addresses"
        )),
    }
}

/// Whether only this machine reaches such an address.
pub(super) fn is_loopback(address: &str) -> bool {
    let Some((host, _)) = host_and_port(address) else { return false };
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// The url as a log may show it: without user, password and parameters.
pub(super) fn without_secrets(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // A socket's path, or something that has not passed the check and may be anything.
        return if url.starts_with("unix:/") { url.to_owned() } else { "…".to_owned() };
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    match place.rsplit_once('@') {
        Some((_, place)) => format!("{scheme}://…@{place}"),
        // The '?' may have been part of a password.
        None if query.contains('@') => format!("{scheme}://…"),
        None => format!("{scheme}://{place}"),
    }
}

fn host_and_port(address: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let is_host_byte = |byte: u8| byte.is_ascii_graphic() && !b"/?#@[]".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_host_byte) {
        return None;
    }
    let port = match port {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
        Some(_) => return None,
        None => None,
    };
    Some((host.to_owned(), port))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            decoded.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_urls_are_read() {
        let tcp = |host: &str, port| Endpoint::Tcp(host.to_owned(), port);
        #[rustfmt::skip]
        let cases = [
            ("redis://127.0.0.1:6379", tcp("127.0.0.1", 6379), None, None),
            ("redis://cache", tcp("cache", 6379), None, None),
            ("redis://[::1]:7000/", tcp("::1", 7000), None, None),
            ("redis://ann:s%40e:c@cache", tcp("cache", 6379), Some("ann"), Some("s@e:c")),
            ("redis://:p@ss@cache", tcp("cache", 6379), None, Some("p@ss")),
            ("unix:/run/redis.sock", Endpoint::Unix("/run/redis.sock".to_owned()), None, None),
            ("unix:///run/redis.sock", Endpoint::Unix("/run/redis.sock".to_owned()), None, None),
        ];
        for (url, endpoint, user, password) in cases {
            let expected = RedisUrl {
                endpoint,
                user: user.map(str::to_owned),
                password: password.map(str::to_owned),
            };
            assert_eq!(RedisUrl::parse(url), Ok(expected), "{url}");
        }
    }

    #[test]
    fn no_complaint_repeats_a_part_of_a_url() {
        #[rustfmt::skip]
        let urls = [
            "hunter2", "redis://", "redis://u:hunter2@", "redis://u:hunter2@h:x", "redis://hunter2@h",
            "redis://u:hunter2@h:70000", "redis://u:hunter2@h/1", "redis://u:%hunter2@h",
            "rediss://u:hunter2@h", "unix:hunter2", "mysql://u:hunter2@h/d", "postgres://u:hunter2@/d",
            "postgres://u:hunter2@h", "postgres://u:hunter2@h:x/d", "postgres://u:a/hunter2@h/d",
        ];
        for url in urls {
            let complaint = if url.starts_with("postgres") {
                check_postgres(url).unwrap_err()
            } else {
                RedisUrl::parse(url).unwrap_err()
            };
            assert!(!complaint.contains("hunter2"), "{url}: {complaint}");
            assert!(!without_secrets(url).contains("u:hunter2"), "{url}");
        }
        assert_eq!(without_secrets("redis://u:p@h:1"), "redis://…@h:1");
        assert_eq!(without_secrets("postgres://h/d?password=p"), "postgres://h/d");
        assert_eq!(without_secrets("postgres://u:p?q@h/d"), "postgres://…");
        assert_eq!(without_secrets("postgres://u:p@h/d?password=a@b"), "postgres://…@h/d");
        assert_eq!(without_secrets("unix:/run/redis.sock"), "unix:/run/redis.sock");
    }

    #[test]
    fn postgres_urls_name_a_host_and_a_database() {
        for url in [
            "postgres://localhost/respgres",
            "postgresql://u:p%2F@h:5432/d?sslmode=require",
            "postgres:///d?host=/run/postgresql",
            "postgres://u@/d?host=/run/postgresql",
            "postgres://[::1]:5432/d",
        ] {
            assert_eq!(check_postgres(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn listening_needs_a_host_and_a_port() {
        for address in ["127.0.0.1:0", "localhost:6380", "[::]:6380"] {
            assert_eq!(check_listen(address), Ok(()), "{address}");
        }
        for address in ["6380", ":6380", "localhost", "localhost:", "h:65536", "[::1]", "::1:6380"]
        {
            assert!(check_listen(address).is_err(), "{address}");
        }
    }
}
