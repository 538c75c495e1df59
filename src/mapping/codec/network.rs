//! Addresses: `inet`, `cidr`, `macaddr`, in the text that Postgres gives back.
//!
//! Postgres' readers have habits of their own (`10/8` is 10.0.0.0/8, `192.168` is the network
//! 192.168.0.0/24, a dot may end an address), which are kept: what it reads is a value.
//! Absent: hexadecimal networks (`0x0a/8`); signs, spaces and groups that are too short in a `macaddr`.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::word::trim;

/// An address with the length of its network's prefix.
struct Network {
    octets: Vec<u8>,
    bits: u32,
}

/// The text that `column::text` gives for an `inet`: always with the prefix' length.
pub(super) fn inet(text: &str) -> Option<String> {
    let network = if text.contains(':') { Network::v6(text)? } else { Network::v4(text)? };
    Some(network.text())
}

/// The text of a `cidr`: there are no bits outside of the network.
pub(super) fn cidr(text: &str) -> Option<String> {
    let network = if text.contains(':') { Network::v6(text)? } else { Network::v4_network(text)? };
    network.has_no_host().then(|| network.text())
}

/// An `inet` as Postgres shows it anywhere else: a host without a prefix.
pub(super) fn host(text: &str) -> &str {
    let whole = if text.contains(':') { "/128" } else { "/32" };
    text.strip_suffix(whole).unwrap_or(text)
}

/// Six octets with a separator between any two, or of two digits each in one, two or three groups.
pub(super) fn macaddr(text: &str) -> Option<String> {
    const LAYOUTS: [(usize, usize, [&str; 5]); 7] = [
        (1, 8, [":"; 5]),
        (1, 8, ["-"; 5]),
        (2, 2, ["", "", ":", "", ""]),
        (2, 2, ["", "", "-", "", ""]),
        (2, 2, ["", ".", "", ".", ""]),
        (2, 2, ["", "-", "", "-", ""]),
        (2, 2, [""; 5]),
    ];
    let text = trim(text);
    let octets = LAYOUTS
        .iter()
        .find_map(|(least, most, between)| six_numbers(text, *least, *most, between))?;
    let octets = octets.iter().map(|octet| u8::try_from(*octet).ok());
    let octets = octets.collect::<Option<Vec<u8>>>()?;
    Some(octets.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":"))
}

/// Hexadecimal numbers of `least` to `most` digits, each as long as it can be.
fn six_numbers(text: &str, least: usize, most: usize, between: &[&str; 5]) -> Option<[u32; 6]> {
    let mut rest = text;
    let mut numbers = [0; 6];
    for (place, number) in numbers.iter_mut().enumerate() {
        if place > 0 {
            rest = rest.strip_prefix(between[place - 1])?;
        }
        let length = rest.bytes().take(most).take_while(u8::is_ascii_hexdigit).count();
        if length < least {
            return None;
        }
        *number = u32::from_str_radix(&rest[..length], 16).ok()?;
        rest = &rest[length..];
    }
    rest.is_empty().then_some(numbers)
}

// === impl Network ===

impl Network {
    /// Up to four octets; fewer only with a prefix that needs no more of them.
    fn v4(text: &str) -> Option<Self> {
        let (address, bits) = split_prefix(text, 32)?;
        let address = address.strip_suffix('.').unwrap_or(address);
        let octets = octets(address)?;
        match bits {
            None => (octets.len() == 4).then_some(Self { octets, bits: 32 }),
            Some(bits) if usize::try_from(bits / 8).ok()? > octets.len() => None,
            Some(bits) => Some(Self { octets: widened(octets), bits }),
        }
    }

    /// Up to four octets; without a prefix the address' class says how long it is.
    fn v4_network(text: &str) -> Option<Self> {
        let (address, bits) = split_prefix(text, 32)?;
        let octets = octets(address)?;
        let first = *octets.first()?;
        let given = 8 * u32::try_from(octets.len()).ok()?;
        let by_class = match first {
            240.. => 32,
            224..240 => 8,
            192..224 => 24,
            128..192 => 16,
            0..128 => 8,
        };
        let inferred = match by_class.max(given) {
            8 if first == 224 => 4,
            bits => bits,
        };
        Some(Self { octets: widened(octets), bits: bits.unwrap_or(inferred) })
    }

    /// Groups of up to four hexadecimal digits, `::` once, an IPv4 address for the last two groups.
    fn v6(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            None => (Cow::Borrowed(text), 128),
            Some((address, digits)) => {
                let leads = digits.len() > 1 && digits.starts_with('0');
                let short = !leads && digits.len() <= 3;
                // Before the slash a colon may be left over, and a last number missing.
                let address = match address.strip_suffix(':') {
                    Some(rest) if !rest.ends_with(':') && !rest.contains('.') => rest.into(),
                    _ if address.ends_with('.') => format!("{address}0").into(),
                    _ => address.into(),
                };
                (address, number(digits).filter(|bits| short && *bits <= 128)?)
            }
        };
        let (before, after) = match address.split_once("::") {
            None => (&address[..], None),
            Some((before, after)) => (before, Some(after)),
        };
        // An IPv4 address comes last.
        let mut octets = groups(before, after.is_none())?;
        match after {
            None if octets.len() == 16 => {}
            None => return None,
            Some(after) => {
                let after = groups(after, true)?;
                let zeros = 16_usize.checked_sub(octets.len() + after.len());
                let zeros = zeros.filter(|zeros| *zeros > 0)?;
                octets.extend(std::iter::repeat_n(0, zeros));
                octets.extend(after);
            }
        }
        Some(Self { octets, bits })
    }

    fn has_no_host(&self) -> bool {
        let host_bits = |(place, octet): (usize, &u8)| {
            let network = self.bits.saturating_sub(8 * u32::try_from(place).unwrap_or(u32::MAX));
            octet & 0xff_u8.checked_shr(network).unwrap_or(0)
        };
        self.octets.iter().enumerate().map(host_bits).all(|bits| bits == 0)
    }

    fn text(&self) -> String {
        let address = match &self.octets[..] {
            [a, b, c, d] => format!("{a}.{b}.{c}.{d}"),
            octets => v6_text(octets),
        };
        format!("{address}/{}", self.bits)
    }
}

/// The address, and what follows a slash, which is at most `most`.
fn split_prefix(text: &str, most: u32) -> Option<(&str, Option<u32>)> {
    let Some((address, digits)) = text.split_once('/') else { return Some((text, None)) };
    let bits = number(digits).filter(|bits| *bits <= most)?;
    Some((address, Some(bits)))
}

fn number(digits: &str) -> Option<u32> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().ok()).flatten()
}

/// One to four numbers below 256 with dots between them.
fn octets(text: &str) -> Option<Vec<u8>> {
    let octet = |digits| number(digits).and_then(|octet| u8::try_from(octet).ok());
    let octets = text.split('.').take(5).map(octet).collect::<Option<Vec<_>>>()?;
    (octets.len() <= 4).then_some(octets)
}

fn widened(mut octets: Vec<u8>) -> Vec<u8> {
    octets.resize(4, 0);
    octets
}

/// The octets of groups with colons between them; none of an empty text.
fn groups(text: &str, may_end_in_v4: bool) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(16);
    if text.is_empty() {
        return Some(octets);
    }
    let mut groups = text.split(':').take(9).peekable();
    while let Some(group) = groups.next() {
        if may_end_in_v4 && groups.peek().is_none() && group.contains('.') {
            octets.extend(embedded_v4(group)?);
            break;
        }
        let hexadecimal = group.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hexadecimal || group.len() > 4 {
            return None;
        }
        octets.extend(u16::from_str_radix(group, 16).ok()?.to_be_bytes());
    }
    (octets.len() <= 16).then_some(octets)
}

/// Within an IPv6 address: no zeros in front, and numbers that are missing, but for the last, are 0.
fn embedded_v4(text: &str) -> Option<Vec<u8>> {
    let octet = |digits: &str| match digits {
        "" => Some(0),
        _ if digits.len() > 1 && digits.starts_with('0') => None,
        _ => number(digits).and_then(|octet| u8::try_from(octet).ok()),
    };
    let octets = text.split('.').take(5).map(octet).collect::<Option<Vec<_>>>()?;
    (octets.len() <= 4 && !text.ends_with('.')).then(|| widened(octets))
}

/// The longest run of zero groups shortened, the last 32 bits as IPv4 where the first are as of an
/// embedded address (`inet_net_ntop_ipv6`).
fn v6_text(octets: &[u8]) -> String {
    let words: Vec<u16> =
        octets.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    let (mut start, mut length) = (words.len(), 1);
    for place in 0..words.len() {
        let run = words[place..].iter().take_while(|word| **word == 0).count();
        if run > length {
            (start, length) = (place, run);
        }
    }
    let has_v4 = start == 0
        && match length {
            5 => words[5] == 0xffff,
            6 => true,
            _ => false,
        };
    let mut text = String::new();
    let mut place = 0;
    while place < words.len() {
        if place == start {
            text.push_str("::");
            place += length;
        } else if has_v4 && place >= 6 {
            break;
        } else {
            let colon = if text.is_empty() || text.ends_with(':') { "" } else { ":" };
            write!(text, "{colon}{:x}", words[place]).expect("writing to a string cannot fail");
            place += 1;
        }
    }
    if has_v4 && let [.., a, b, c, d] = octets {
        let colon = if text.ends_with(':') { "" } else { ":" };
        write!(text, "{colon}{a}.{b}.{c}.{d}").expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_postgres_reads_them() {
        for (text, value) in [
            ("10.1.2.3", "10.1.2.3/32"),
            ("010.01.2.3/024", "10.1.2.3/24"),
            ("10/8", "10.0.0.0/8"),
            ("10.1.2/30", "10.1.2.0/30"),
            ("10.1.2.3.", "10.1.2.3/32"),
            ("2001:DB8::1", "2001:db8::1/128"),
            ("::ffff:10.1.2.3/96", "::ffff:10.1.2.3/96"),
            ("::ffff:0:0", "::ffff:0.0.0.0/128"),
            ("::0.0.0.1", "::1/128"),
            ("::0.0.40.1", "::2801/128"),
            ("::0.1.0.1", "::0.1.0.1/128"),
            ("1::1.2.3.4", "1::102:304/128"),
            ("1:0:0:4:0:0:0:8", "1:0:0:4::8/128"),
            ("1:0:3:4:5:6:7:8", "1:0:3:4:5:6:7:8/128"),
            ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0/128"),
            ("0:0:0:0:0:0:0:0", "::/128"),
            ("::1:/64", "::1/64"),
            ("1::.1..4", "1::1:4/128"),
            ("::ffff:1.2.3./96", "::ffff:1.2.3.0/96"),
        ] {
            assert_eq!(inet(text).as_deref(), Some(value), "{text}");
        }
        for text in
            ["", "10", "10.1", "1.2.3.4.5", "256.1.1.1", "1.2.3.4/33", " 1.2.3.4", "::1/012"]
        {
            assert_eq!(inet(text), None, "{text}");
        }
        for text in [
            "1::2::3",
            ":1",
            "1:",
            "00001::1",
            "1.2.3.4:1",
            "::1/",
            "::1/129",
            "1:2:3:4::5:6:7:8",
            "/8",
            "1..2/8",
        ] {
            assert_eq!(inet(text), None, "{text}");
        }
        assert_eq!(host("10.1.2.3/32"), "10.1.2.3");
        assert_eq!(host("::1/32"), "::1/32");
    }

    #[test]
    fn networks_have_no_host() {
        for (text, value) in [
            ("10", "10.0.0.0/8"),
            ("192.168", "192.168.0.0/24"),
            ("224", "224.0.0.0/4"),
            ("225", "225.0.0.0/8"),
            ("240", "240.0.0.0/32"),
            ("10.1.2.0", "10.1.2.0/32"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(cidr(text).as_deref(), Some(value), "{text}");
        }
        for text in ["10.1.2.3/24", "1/1", "10.", "2001:db8::1/32", "2001:db8/32"] {
            assert_eq!(cidr(text), None, "{text}");
        }
    }

    #[test]
    fn a_macaddr_is_read_in_seven_ways() {
        for text in [
            "08:00:2b:01:02:03",
            "8-0-2B-1-2-3",
            "08002b:010203",
            "08002b-010203",
            "0800.2b01.0203",
            "0800-2b01-0203",
            " 08002b010203 ",
        ] {
            assert_eq!(macaddr(text).as_deref(), Some("08:00:2b:01:02:03"), "{text}");
        }
        for text in
            ["", "08:00:2b:01:02", "08:00:2b:01:02:03:04", "100:0:0:0:0:0", "08:00-2b:1:2:3"]
        {
            assert_eq!(macaddr(text), None, "{text}");
        }
    }
}
