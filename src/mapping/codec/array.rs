//! Arrays: Postgres' array literals, each element in its type's own text.
//!
//! The canonical text is built in one pass; lists are nested at most six deep, so nothing recurses.
//! Absent: literals that some versions of Postgres read and others refuse (`{{}}`, `{1,}`).

use std::borrow::Cow;

use super::word::{is_space, trim, trim_end, trim_start};

/// The most dimensions that an array has (`MAXDIM`).
const MAX_DIMENSIONS: usize = 6;

/// What is read of an array so far.
struct Reader<'a> {
    rest: &'a str,
    canonical: String,
    /// Of the list that is open at each depth: how many it holds by now.
    counts: Vec<i64>,
    /// At each depth: how many a list holds, once one has been closed.
    lengths: [Option<i64>; MAX_DIMENSIONS],
    /// How deep elements are, once one has been read.
    element_depth: Option<usize>,
}

/// The text that Postgres gives back of an array; `element` says it of an element, given what stands
/// between quotes. `limit` bytes at most: some elements are longer in their canonical text.
pub(super) fn canonical(
    text: &str,
    limit: usize,
    element: impl Fn(&str) -> Option<Cow<'_, str>>,
) -> Option<String> {
    let text = trim(text);
    let (bounds, list) = read_bounds(text)?;
    let mut reader = Reader {
        rest: list,
        canonical: String::with_capacity(text.len()),
        counts: Vec::new(),
        lengths: [None; MAX_DIMENSIONS],
        element_depth: None,
    };
    reader.read(limit, element)?;
    let lengths = reader.lengths.iter().map_while(|length| *length);
    if bounds.is_empty() {
        return Some(reader.canonical);
    }
    let given = bounds.iter().map(|(lower, upper)| upper - lower + 1);
    if !given.eq(lengths) {
        return None;
    }
    if bounds.iter().all(|(lower, _)| *lower == 1) {
        return Some(reader.canonical);
    }
    let bounds = bounds.iter().map(|(lower, upper)| format!("[{lower}:{upper}]"));
    Some(format!("{}={}", bounds.collect::<String>(), reader.canonical))
}

/// `[2:4][1:3]=` before the list, if there is anything before it.
fn read_bounds(text: &str) -> Option<(Vec<(i64, i64)>, &str)> {
    let mut bounds = Vec::new();
    let mut rest = text;
    while let Some(bound) = rest.strip_prefix('[') {
        let (bound, after) = bound.split_once(']')?;
        let (lower, upper) = bound.split_once(':').unwrap_or(("1", bound));
        let (lower, upper) = (read_bound(lower)?, read_bound(upper)?);
        if lower > upper || bounds.len() == MAX_DIMENSIONS {
            return None;
        }
        bounds.push((lower, upper));
        rest = trim(after);
    }
    if !bounds.is_empty() {
        rest = trim(rest.strip_prefix('=')?);
    }
    Some((bounds, rest))
}

/// The highest index is no bound: Postgres has to be able to count one further.
fn read_bound(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let bound: i64 = if plain { text.parse().ok()? } else { return None };
    (i64::from(i32::MIN)..i64::from(i32::MAX)).contains(&bound).then_some(bound)
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn read(&mut self, limit: usize, element: impl Fn(&str) -> Option<Cow<'_, str>>) -> Option<()> {
        self.open()?;
        if let Some(rest) = trim_start(self.rest).strip_prefix('}') {
            self.canonical.push('}');
            return rest.is_empty().then_some(());
        }
        // Before an item of the innermost open list.
        loop {
            self.rest = trim_start(self.rest);
            if self.rest.starts_with('{') {
                self.open()?;
                continue;
            }
            self.item(&element)?;
            // After an item: of lists that end with it, the next comma, the end of all.
            loop {
                *self.counts.last_mut()? += 1;
                if self.canonical.len() > limit {
                    return None;
                }
                self.rest = trim_start(self.rest);
                if let Some(rest) = self.rest.strip_prefix(',') {
                    self.canonical.push(',');
                    self.rest = rest;
                    break;
                }
                self.close()?;
                if self.counts.is_empty() {
                    return self.rest.is_empty().then_some(());
                }
            }
        }
    }

    fn open(&mut self) -> Option<()> {
        self.rest = self.rest.strip_prefix('{')?;
        self.canonical.push('{');
        self.counts.push(0);
        let fits = self.element_depth.is_none_or(|depth| self.counts.len() <= depth);
        (self.counts.len() <= MAX_DIMENSIONS && fits).then_some(())
    }

    fn close(&mut self) -> Option<()> {
        self.rest = self.rest.strip_prefix('}')?;
        self.canonical.push('}');
        let count = self.counts.pop()?;
        let length = self.lengths[self.counts.len()].get_or_insert(count);
        (*length == count).then_some(())
    }

    fn item(&mut self, element: impl Fn(&str) -> Option<Cow<'_, str>>) -> Option<()> {
        let depth = *self.element_depth.get_or_insert(self.counts.len());
        if depth != self.counts.len() {
            return None;
        }
        let item = match self.rest.strip_prefix('"') {
            Some(quoted) => Some(self.quoted(quoted)?),
            None => self.bare()?,
        };
        match item {
            None => self.canonical.push_str("NULL"),
            Some(item) => push_element(&mut self.canonical, &element(&item)?),
        }
        Some(())
    }

    fn quoted(&mut self, quoted: &'a str) -> Option<Cow<'a, str>> {
        let end = memchr::memchr2(b'"', b'\\', quoted.as_bytes())?;
        if quoted.as_bytes()[end] == b'"' {
            self.rest = &quoted[end + 1..];
            return Some(quoted[..end].into());
        }
        let mut item = quoted[..end].to_owned();
        let mut characters = quoted[end..].chars();
        loop {
            match characters.next()? {
                '"' => break,
                '\\' => item.push(characters.next()?),
                character => item.push(character),
            }
        }
        self.rest = characters.as_str();
        Some(item.into())
    }

    /// An element without quotes, which ends before a comma or a brace; spaces around it are not a
    /// part of it, unless escaped. The inner `None`: NULL.
    #[expect(clippy::option_option, reason = "what is no element is not a NULL")]
    fn bare(&mut self) -> Option<Option<Cow<'a, str>>> {
        let end = self.rest.find(['"', '\\', ',', '{', '}'])?;
        let text = self.rest;
        if !text[end..].starts_with('\\') {
            self.rest = &text[end..];
            let item = trim(&text[..end]);
            let is_null = item.eq_ignore_ascii_case("null");
            return (!item.is_empty()).then(|| (!is_null).then(|| item.into()));
        }
        let (mut item, mut kept) = (String::new(), 0);
        let mut characters = text.chars();
        loop {
            let before = characters.as_str();
            match characters.next()? {
                '\\' => {
                    item.push(characters.next()?);
                    kept = item.len();
                }
                ',' | '}' => {
                    self.rest = before;
                    break;
                }
                '"' | '{' => return None,
                character => item.push(character),
            }
        }
        item.truncate(kept + trim_end(&item[kept..]).len());
        Some(Some(item.into()))
    }
}

/// An element as `array_out` writes it: in quotes where it could be mistaken for something else.
fn push_element(text: &mut String, element: &str) {
    let odd = |byte: u8| matches!(byte, b'"' | b'\\' | b'{' | b'}' | b',') || is_space(byte);
    let quoted =
        element.is_empty() || element.eq_ignore_ascii_case("null") || element.bytes().any(odd);
    if !quoted {
        text.push_str(element);
        return;
    }
    text.push('"');
    for character in element.chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Option<String> {
        canonical(text, 1 << 20, |element| Some(element.into()))
    }

    #[test]
    fn literals_take_their_canonical_form() {
        for (text, value) in [
            ("{}", "{}"),
            (" { } ", "{}"),
            ("{ a , b }", "{a,b}"),
            ("{\"a b\",  c d  , e}", "{\"a b\",\"c d\",e}"),
            ("{\"NULL\",null,NuLl,nullx}", "{\"NULL\",NULL,NULL,nullx}"),
            ("{\\NULL,\\ a,a\\ ,a\\nb}", "{\"NULL\",\" a\",\"a \",anb}"),
            ("{\"\",\"\\\\\",\"\\\"\",'x'}", "{\"\",\"\\\\\",\"\\\"\",'x'}"),
            ("{{1,2},{3,4}}", "{{1,2},{3,4}}"),
            ("{{{{{{1}}}}}}", "{{{{{{1}}}}}}"),
            ("[0:1]={a,b}", "[0:1]={a,b}"),
            (" [1:2][+1:1] = {{a},{b}}", "{{a},{b}}"),
            ("[2]={a,b}", "{a,b}"),
            ("{é,\u{1f600}}", "{é,\u{1f600}}"),
        ] {
            assert_eq!(texts(text).as_deref(), Some(value), "{text}");
        }
        for text in [
            "",
            "{",
            "}",
            "{a,}",
            "{,a}",
            "{,}",
            "{{}}",
            "{{a},{b,c}}",
            "{{a},b}",
            "{a,{b}}",
            "{a\"b\"}",
            "{\"a\"b}",
            "{a}x",
            "{a}{b}",
            "{a{b}",
            "{{{{{{{1}}}}}}}",
            "[0:0]={a,b}",
            "[1:1]={}",
            "[0:1]={{a,b}}",
            "[2:1]={a}",
            "{\"a}",
            "{a\\",
            "[x]={a}",
            "a",
            "{a}}",
        ] {
            assert_eq!(texts(text), None, "{text}");
        }
    }

    #[test]
    fn elements_decide_and_the_length_is_limited() {
        fn number(text: &str) -> Option<Cow<'_, str>> {
            (text != "x").then(|| Cow::Owned("7".repeat(1000)))
        }
        assert_eq!(canonical("{1,x}", 5000, number), None);
        assert_eq!(canonical("{1,2,3}", 5000, number).map(|text| text.len()), Some(3004));
        assert_eq!(canonical("{1,2,3,4,5,6}", 5000, number), None);
    }
}
