//! The registry: which mapping a key belongs to.
//!
//! Invariants
//! - A key belongs to one mapping at most, in every proxy with the same file: plans whose patterns
//!   can match the same key are refused unless a literal decides between them.
//! - Asking allocates nothing. Patterns hang in a tree by the bytes that all their keys begin with,
//!   so a key that matches none is given up after as many comparisons as it shares prefixes.

use std::sync::Arc;

use bytes::Bytes;

use super::overlap::{self, Claim};
use super::pattern::KeyPattern;
use super::{MappedKey, Mapping};
use crate::config::{self, Config, Kind, Problem};
use crate::value::glob::Glob;

/// A mapping of the configuration with its key pattern; not yet checked against a database.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its place in the configuration file, from 0.
    pub index: usize,
    pub config: config::Mapping,
    pub pattern: KeyPattern,
}

/// Finds the mapping of a key.
#[derive(Debug)]
pub struct Registry {
    mappings: Vec<Arc<Mapping>>,
    /// Patterns of mappings that are not here, as their tables do not fit or are only checked, and that keep keys
    /// from one of the others.
    keeping: Vec<KeyPattern>,
    /// Of all these patterns, those of `mappings` first.
    tree: PrefixTree,
}

// === plans ===

/// Parses the key patterns of all mappings, and sees to it that they leave no key in doubt.
///
/// # Errors
/// All problems at once: malformed patterns, key columns that name no capture, and pairs of patterns
/// that can match the same key, with such a key.
pub fn plan(config: &Config) -> Result<Vec<Plan>, Vec<Problem>> {
    let (mut plans, mut problems) = (Vec::<Plan>::new(), Vec::new());
    for (index, mapping) in config.mappings.iter().enumerate() {
        if mapping.key.is_empty() {
            // The reader of the file has complained of it already.
            continue;
        }
        let path = mapping.path(index);
        let pattern = match KeyPattern::parse(&mapping.key) {
            Ok(pattern) => pattern,
            Err(error) => {
                problems.push(Problem::new(format!("{path}.key"), error.to_string()));
                continue;
            }
        };
        let names = pattern.capture_names();
        if names.is_empty() && mapping.kind == Kind::Hash {
            let text = "the key has no capture to tell rows apart by; write its last part as one, \
                        as in \"totals:{name:slug}\"";
            problems.push(Problem::new(format!("{path}.key"), text));
        }
        for name in mapping.key_columns.keys().filter(|name| !names.contains(name)) {
            let text = match names {
                [] => format!("the key {:?} has no captures", mapping.key),
                names => format!("the key has no capture {name:?}; it has {}", names.join(", ")),
            };
            problems.push(Problem::new(format!("{path}.key_columns.{name}"), text));
        }
        problems.extend(shared_columns(mapping, &pattern, &path));
        let globs = mapping.exclude.iter().map(|glob| Glob::new(glob.as_bytes()));
        let pattern = pattern.excluding(globs);
        if let Some(other) = plans.iter().find(|other| is_same_table(&other.config, mapping)) {
            // Rows of one could be rows of the other: one key would change another's.
            problems.push(Problem::new(
                format!("{path}.table"),
                format!(
                    "{} has the table {:?} too; give each mapping a table of its own",
                    other.config.path(other.index),
                    mapping.table
                ),
            ));
        }
        for other in &plans {
            if let Claim::Conflict(key) = overlap::claim(&other.pattern, &pattern) {
                problems.push(Problem::new(
                    format!("{path}.key"),
                    format!(
                        "{:?} and {}.key can both match {key:?}; narrow a capture, or let one of \
                         them exclude such keys",
                        mapping.key,
                        other.config.path(other.index),
                    ),
                ));
            }
        }
        plans.push(Plan { index, config: mapping.clone(), pattern });
    }
    if problems.is_empty() { Ok(plans) } else { Err(problems) }
}

fn is_same_table(one: &config::Mapping, other: &config::Mapping) -> bool {
    let bare = |table: &'_ str| table.strip_prefix("public.").unwrap_or(table).to_owned();
    !one.table.is_empty() && bare(&one.table) == bare(&other.table)
}

/// Columns that a capture shares with a field, with the expiry, with `extra` or with another capture.
fn shared_columns(mapping: &config::Mapping, pattern: &KeyPattern, path: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut keys: Vec<(&str, &str)> = Vec::new();
    for name in pattern.capture_names() {
        let column = mapping.key_columns.get(name).unwrap_or(name).as_str();
        let own = |setting: &Option<String>| setting.as_deref() == Some(column);
        let parts = [&mapping.element, &mapping.value].into_iter().flatten();
        let field = mapping.columns.iter().chain(parts).find(|field| field.column == column);
        let other = if let Some((other, _)) = keys.iter().find(|(_, used)| *used == column) {
            Some(format!("the capture {{{other}}}"))
        } else if own(&mapping.expires_at) {
            Some("expires_at".to_owned())
        } else if own(&mapping.extra) {
            Some("extra".to_owned())
        } else {
            field.map(|field| format!("the field {:?}", field.field))
        };
        // Key columns that are written down are seen by the reader of the file, but for these.
        let is_told = mapping.key_columns.contains_key(name) && !keys.iter().any(|k| k.1 == column);
        if let Some(other) = other.filter(|_| !is_told) {
            problems.push(Problem::new(
                format!("{path}.key"),
                format!(
                    "the column {column:?} of the capture {{{name}}} is that of {other} too; give one of \
                     them another column (captures: key_columns = {{ {name} = \"…\" }})"
                ),
            ));
        }
        keys.push((name, column));
    }
    problems
}

// === impl Registry ===

impl Registry {
    /// A registry of these mappings. Should two patterns match the same key, the one that has a
    /// literal where they first differ has it. At most 1,000 of them, which the configuration sees to.
    ///
    /// `elsewhere` are the patterns of mappings that cannot have a side in Postgres now. Their keys belong to
    /// none of the mappings here, also where a less specific one matches them; a pattern that none of
    /// them could match the keys of costs nothing.
    pub fn new(mappings: Vec<Arc<Mapping>>, elsewhere: Vec<KeyPattern>) -> Self {
        let takes_from = |pattern: &KeyPattern| {
            mappings.iter().any(|mapping| overlap::may_take_from(pattern, &mapping.pattern))
        };
        let keeping: Vec<_> = elsewhere.into_iter().filter(takes_from).collect();
        let mapped = mappings.iter().map(|mapping| &mapping.pattern);
        let tree = PrefixTree::new(&mapped.chain(&keeping).collect::<Vec<_>>());
        Self { mappings, keeping, tree }
    }

    /// The mapping that the key belongs to, if it has a side in Postgres now: if it is not `redis_only`.
    pub fn find(&self, key: &[u8]) -> Option<&Arc<Mapping>> {
        self.find_any(key).filter(|mapping| mapping.gate.has_rows())
    }

    /// The mapping that the key belongs to, `redis_only` or not.
    pub fn find_any(&self, key: &[u8]) -> Option<&Arc<Mapping>> {
        let pattern = |index: usize| match self.mappings.get(index) {
            Some(mapping) => &mapping.pattern,
            None => &self.keeping[index - self.mappings.len()],
        };
        self.tree.find(key, pattern).and_then(|index| self.mappings.get(index))
    }

    /// The key with its mapping and what its captures hold.
    pub fn mapped_key(&self, key: &Bytes) -> Option<MappedKey> {
        let mapping = self.find(key)?;
        let captures = mapping.pattern.captures(key)?;
        Some(MappedKey { mapping: Arc::clone(mapping), key: key.clone(), captures, pass: None })
    }

    /// The key of a row with these values in its key columns, in the order of the captures; `None` when it
    /// is none of this mapping: SQL can put into a column what no key holds, or what makes the key of
    /// another mapping.
    pub fn key_of_row(&self, mapping: &Mapping, values: &[String]) -> Option<MappedKey> {
        let texts: Vec<&str> = values.iter().map(String::as_str).collect();
        let key = Bytes::from(mapping.pattern.render(&texts));
        let key = self.mapped_key(&key).filter(|key| key.mapping.index == mapping.index)?;
        let is_same = key.capture_texts().eq(texts);
        is_same.then_some(key)
    }

    /// A mapping that may have keys which begin like this; in doubt there is one.
    pub fn that_may_hold(&self, beginning: &[u8]) -> Option<&Arc<Mapping>> {
        self.mappings().find(|mapping| {
            let prefix = mapping.pattern.literal_prefix().as_bytes();
            prefix.starts_with(beginning) || beginning.starts_with(prefix)
        })
    }

    /// Whether no other mapping, `redis_only` or not, has keys that begin as those of this one do.
    pub fn is_apart(&self, mapping: &Mapping) -> bool {
        let others = self.mappings.iter().filter(|other| other.index != mapping.index);
        let mut others = others.map(|other| &other.pattern).chain(&self.keeping);
        !others.any(|other| overlap::may_meet(other, &mapping.pattern))
    }

    /// The mappings that have a side in Postgres now, in the order in which they were given.
    pub fn mappings(&self) -> impl Iterator<Item = &Arc<Mapping>> {
        self.mappings.iter().filter(|mapping| mapping.gate.has_rows())
    }

    /// All mappings, `redis_only` ones too, in the order in which they were given.
    pub fn all(&self) -> &[Arc<Mapping>] {
        &self.mappings
    }

    pub fn is_empty(&self) -> bool {
        self.mappings.is_empty()
    }
}

// === impl MappedKey ===

impl MappedKey {
    /// The number of the advisory lock that guards this key in Postgres, see `lock_number`.
    pub fn lock(&self) -> i64 {
        lock_number(&self.key)
    }

    /// What the captures hold, in the pattern's order.
    pub fn capture_texts(&self) -> impl ExactSizeIterator<Item = &str> {
        self.captures.iter().map(|range| {
            std::str::from_utf8(&self.key[range.clone()]).expect("patterns capture only UTF-8")
        })
    }
}

/// FNV-1a over the key's bytes, 64 bits, as a signed number.
///
/// All proxies on one database must agree on it, whatever their version: it is never to change.
/// Keys that share a number wait for each other, and suffer no other harm; whoever locks several
/// keys sorts and dedups the numbers, not the keys.
pub fn lock_number(key: &[u8]) -> i64 {
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.cast_signed()
}

// === the tree ===

/// Patterns by their literal prefixes: a radix tree whose nodes are those bytes that prefixes share.
#[derive(Debug, Default)]
struct PrefixTree {
    /// The first one is the root, with an empty label.
    nodes: Vec<Node>,
    /// Node by first byte of the key; 0 for none. Most keys that match nothing end here.
    first: Vec<u16>,
}

#[derive(Debug)]
struct Node {
    /// The bytes between the parent's prefix and this one's.
    label: Box<[u8]>,
    parent: u16,
    /// Where a key can go on: the next byte, and the node that begins with it.
    children: Vec<(u8, u16)>,
    /// Patterns with exactly this prefix, those first that have the better claim.
    patterns: Vec<usize>,
}

// === impl PrefixTree ===

impl PrefixTree {
    fn new(patterns: &[&KeyPattern]) -> Self {
        let mut tree = Self { nodes: vec![Node::new(&[], 0)], first: vec![0; 256] };
        let mut order: Vec<usize> = (0..patterns.len()).collect();
        order.sort_by(|&a, &b| overlap::order(patterns[a], patterns[b]));
        for index in order {
            let node = tree.insert(patterns[index].literal_prefix().as_bytes());
            tree.nodes[node].patterns.push(index);
        }
        for &(byte, child) in &tree.nodes[0].children {
            tree.first[usize::from(byte)] = child;
        }
        tree
    }

    /// Goes down as far as the key agrees, then up again trying what is there: the longer the
    /// literal prefix, the better the claim.
    #[inline]
    fn find<'a>(&self, key: &[u8], pattern: impl Fn(usize) -> &'a KeyPattern) -> Option<usize> {
        let (mut node, mut rest) = (&self.nodes[0], key);
        let mut next = rest.first().map_or(0, |&byte| self.first[usize::from(byte)]);
        while next != 0 {
            let child = &self.nodes[usize::from(next)];
            let Some(after) = rest.strip_prefix(&*child.label) else { break };
            (node, rest) = (child, after);
            next = rest.first().map_or(0, |&byte| node.child(byte));
        }
        loop {
            if let Some(&index) = node.patterns.iter().find(|&&index| pattern(index).matches(key)) {
                return Some(index);
            }
            if node.label.is_empty() {
                return None;
            }
            node = &self.nodes[usize::from(node.parent)];
        }
    }

    /// The node of this prefix, made if it is not there.
    fn insert(&mut self, prefix: &[u8]) -> usize {
        let (mut node, mut rest) = (0, prefix);
        while let Some(&byte) = rest.first() {
            let child = usize::from(self.nodes[node].child(byte));
            if child == 0 {
                return self.add(node, rest);
            }
            let label = &self.nodes[child].label;
            let shared = label.iter().zip(rest).take_while(|(one, other)| one == other).count();
            if shared < label.len() {
                self.split(child, shared);
            }
            // After a split the node keeps its place, with the shared part for its label.
            node = child;
            rest = &rest[shared..];
        }
        node
    }

    fn add(&mut self, parent: usize, label: &[u8]) -> usize {
        let index = self.nodes.len();
        let short =
            |index| u16::try_from(index).expect("the configuration allows 1,000 mappings at most");
        self.nodes.push(Node::new(label, short(parent)));
        self.nodes[parent].children.push((label[0], short(index)));
        index
    }

    /// Shortens a node's label; what it held goes to a new child with the remainder.
    fn split(&mut self, node: usize, length: usize) {
        let label = std::mem::take(&mut self.nodes[node].label);
        let children = std::mem::take(&mut self.nodes[node].children);
        let patterns = std::mem::take(&mut self.nodes[node].patterns);
        self.nodes[node].label = label[..length].into();
        let lower = self.add(node, &label[length..]);
        let (_, lower_short) = self.nodes[node].children[0];
        for &(_, child) in &children {
            self.nodes[usize::from(child)].parent = lower_short;
        }
        self.nodes[lower].children = children;
        self.nodes[lower].patterns = patterns;
    }
}

impl Node {
    fn new(label: &[u8], parent: u16) -> Self {
        Self { label: label.into(), parent, children: Vec::new(), patterns: Vec::new() }
    }

    /// The child whose label begins with `byte`; 0 for none.
    #[inline]
    fn child(&self, byte: u8) -> u16 {
        self.children.iter().find(|(first, _)| *first == byte).map_or(0, |&(_, child)| child)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::super::overlap::tests as examples;
    use super::*;

    /// Key patterns of the shapes that one real application has.
    #[rustfmt::skip]
    const RELAY: &[&str] = &[
        "apikey:{id:uuid}", "apikey:hash_map", "claude:account:{id:uuid}",
        "claude_console_account:{id:uuid}", "ccr_account:{id:uuid}", "openai:account:{id:uuid}",
        "openai_responses_account:{id:uuid}", "azure_openai:account:{id:uuid}",
        "gemini_account:{id:uuid}", "gemini_api_account:{id:uuid}", "droid:account:{id:uuid}",
        "account_group:{id:uuid}", "quota_card:{id:uuid}", "redemption:{id:uuid}",
        "account:test_config:{platform:text}:{id:uuid}", "usage:{id:uuid}",
        "usage:daily:{id:uuid}:{day:date}", "usage:monthly:{id:uuid}:{month:month}",
        "usage:hourly:{id:uuid}:{day:date}:{hour:slug}", "usage:model:daily:{model:path}:{day:date}",
        "usage:model:monthly:{model:path}:{month:month}",
        "usage:model:hourly:{model:path}:{day:date}:{hour:slug}",
        "usage:{id:uuid}:model:daily:{model:path}:{day:date}",
        "usage:{id:uuid}:model:monthly:{model:path}:{month:month}",
        "usage:{id:uuid}:model:hourly:{model:path}:{day:date}:{hour:slug}",
        "usage:{id:uuid}:model:alltime:{model:rest}", "usage:global:total",
        "usage:global:daily:{day:date}", "usage:global:monthly:{month:month}",
        "account_usage:{id:uuid}", "account_usage:daily:{id:uuid}:{day:date}",
        "account_usage:monthly:{id:uuid}:{month:month}",
        "account_usage:hourly:{id:uuid}:{day:date}:{hour:slug}",
        "account_usage:model:daily:{id:uuid}:{model:path}:{day:date}",
        "account_usage:model:monthly:{id:uuid}:{model:path}:{month:month}",
        "account_usage:model:hourly:{id:uuid}:{model:path}:{day:date}:{hour:slug}",
        "concurrency:queue:stats:{id:uuid}", "session:admin_credentials",
        "account_balance_local:{platform:slug}:{id:uuid}", "cost_rank_meta:{range:slug}",
    ];

    fn parse(patterns: &[&str]) -> Vec<KeyPattern> {
        patterns.iter().map(|pattern| KeyPattern::parse(pattern).unwrap()).collect()
    }

    fn tree(patterns: &[KeyPattern]) -> PrefixTree {
        PrefixTree::new(&patterns.iter().collect::<Vec<_>>())
    }

    /// Asserts all that is wrong with the keys of these mappings.
    fn check(text: &str, expected: &[&str]) {
        let text = format!("[postgres]\nurl = \"postgres://h/d\"\n{text}");
        let config = Config::from_toml(&text, []).unwrap_or_else(|problems| panic!("{problems}"));
        let problems = plan(&config).err().unwrap_or_default();
        let problems: Vec<_> = problems.iter().map(Problem::to_string).collect();
        assert_eq!(problems, expected);
    }

    #[test]
    fn everything_that_is_wrong_with_keys_is_told_at_once() {
        check(
            r#"
            [[mapping]]
            name = "first"
            key = "usage:{id:uuid"
            table = "t0"
            extra = "extra"
            [[mapping]]
            name = "hash_map"
            key = "usage:{any:slug}"
            table = "t1"
            extra = "extra"
            key_columns = { id = "a", any = "b" }
            [[mapping]]
            name = "total"
            key = "usage:total"
            table = "t2"
            extra = "extra"
            key_columns = { id = "a" }
            [[mapping]]
            name = "usage"
            key = "usage:{id:text}"
            table = "t3"
            extra = "id"
            [[mapping]]
            name = "again"
            key = "other:{id:int}:{n:int}:{name:text}"
            table = "t3"
            key_columns = { n = "id" }
            columns = { name = "name" }
            "#,
            &[
                "mapping[0] \"first\".key: '{' at byte 6 is never closed; a literal brace is written '{{'",
                "mapping[1] \"hash_map\".key_columns.id: the key has no capture \"id\"; it has any",
                "mapping[2] \"total\".key: the key has no capture to tell rows apart by; write its last \
                 part as one, as in \"totals:{name:slug}\"",
                "mapping[2] \"total\".key_columns.id: the key \"usage:total\" has no captures",
                "mapping[3] \"usage\".key: the column \"id\" of the capture {id} is that of extra too; \
                 give one of them another column (captures: key_columns = { id = \"…\" })",
                "mapping[3] \"usage\".key: \"usage:{id:text}\" and mapping[1] \"hash_map\".key can both \
                 match \"usage:x\"; narrow a capture, or let one of them exclude such keys",
                "mapping[4] \"again\".key: the column \"id\" of the capture {n} is that of the capture \
                 {id} too; give one of them another column (captures: key_columns = { n = \"…\" })",
                "mapping[4] \"again\".key: the column \"name\" of the capture {name} is that of the field \
                 \"name\" too; give one of them another column (captures: key_columns = { name = \"…\" })",
                "mapping[4] \"again\".table: mapping[3] \"usage\" has the table \"t3\" too; give each \
                 mapping a table of its own",
            ],
        );
    }

    #[test]
    fn problems_of_the_file_and_of_its_keys_are_told_together() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = r#"
            [postgres]
            url = "postgres://h/d"
            writers = 0
            [[mapping]]
            name = "keys"
            key = "apikey:{id}"
            table = "keys"
            extra = "extra"
            [[mapping]]
            name = "no key"
            table = "others"
            extra = "extra"
        "#;
        std::fs::write(file.path(), text).unwrap();
        let problems = Config::load_with(file.path(), plan).unwrap_err();
        let paths: Vec<_> = problems.problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "postgres.writers",
                "mapping[1] \"no key\".name",
                "mapping[1] \"no key\".key",
                "mapping[0] \"keys\".key",
            ]
        );
        let text = text.replace("{id}", "{id:uuid}").replace("writers = 0", "");
        let text = text.replace("\"no key\"", "\"other\"\nkey = \"other:{n:int}\"");
        std::fs::write(file.path(), text).unwrap();
        let (config, plans) = Config::load_with(file.path(), plan).unwrap();
        assert_eq!(config.mappings.len(), 2);
        assert_eq!(plans[1].pattern.as_str(), "other:{n:int}");
        assert_eq!((plans[1].index, plans[1].config.name.as_str()), (1, "other"));
    }

    #[test]
    fn excluding_settles_a_conflict() {
        check(
            r#"
            [[mapping]]
            name = "daily"
            key = "usage:model:daily:{model:path}:{day:date}"
            exclude = ["usage:*:index:*"]
            table = "daily"
            extra = "extra"
            [[mapping]]
            name = "index"
            key = "usage:model:{period:slug}:index:{day:date}"
            table = "index"
            extra = "extra"
            [[mapping]]
            name = "anything"
            key = "{kind:text}:model:{rest:rest}"
            exclude = ["usage:*"]
            table = "anything"
            extra = "extra"
            "#,
            &[],
        );
    }

    #[test]
    fn the_patterns_of_a_real_application_leave_no_key_in_doubt() {
        let patterns = parse(RELAY);
        for (at, first) in patterns.iter().enumerate() {
            for second in &patterns[at + 1..] {
                let claim = overlap::claim(first, second);
                assert!(!matches!(claim, Claim::Conflict(_)), "{first:?}, {second:?}: {claim:?}");
            }
        }
    }

    #[test]
    fn a_key_goes_to_the_pattern_with_the_better_claim() {
        let id = "79b2d64f-620b-4cd6-bb38-05a1af7e68a1";
        let mut patterns = parse(RELAY);
        patterns.extend(parse(&["usage:{any:text}", "{any:path}!", "redemption:"]));
        let tree = tree(&patterns);
        #[rustfmt::skip]
        let cases: &[(&str, Option<&str>)] = &[
            ("apikey:ID", Some("apikey:{id:uuid}")),
            ("apikey:hash_map", Some("apikey:hash_map")),
            ("apikey:hash_map!", Some("{any:path}!")),
            ("apikey:hash_mac", None),
            ("usage:global:total", Some("usage:global:total")),
            ("usage:global:totals", Some("usage:{any:text}")),
            ("usage:model:daily:a:b:2026-11-20", Some("usage:model:daily:{model:path}:{day:date}")),
            ("usage:model:daily:a:b:2026-11", Some("usage:{any:text}")),
            ("account_usage:ID", Some("account_usage:{id:uuid}")),
            ("redemption:", Some("redemption:")),
            ("redemption:ID", Some("redemption:{id:uuid}")),
            ("!", None),
            ("", None),
            ("a", None),
            ("anything!", Some("{any:path}!")),
        ];
        for (key, expected) in cases {
            let key = key.replace("ID", id);
            let found = tree.find(key.as_bytes(), |index| &patterns[index]);
            assert_eq!(found.map(|index| patterns[index].as_str()), *expected, "{key}");
        }
    }

    /// Loose on purpose, for debug builds on busy machines: what matters is that 40 patterns are not
    /// tried one by one, which takes many times as long.
    #[test]
    fn a_key_that_matches_nothing_is_given_up_at_once() {
        let patterns = parse(RELAY);
        let tree = tree(&patterns);
        for key in ["bull:queue:42", "account:session:42", "usage:tag:team a", "session:42"] {
            let key = key.as_bytes();
            let time = |run: &dyn Fn() -> bool| {
                let best = (0..20).map(|_| {
                    let start = Instant::now();
                    for _ in 0..1000 {
                        assert!(!std::hint::black_box(run()));
                    }
                    start.elapsed()
                });
                best.min().unwrap()
            };
            let found = time(&|| tree.find(std::hint::black_box(key), |i| &patterns[i]).is_some());
            let tried = time(&|| patterns.iter().any(|p| p.matches(std::hint::black_box(key))));
            assert!(found < tried, "{}: {found:?} against {tried:?}", key.escape_ascii());
        }
    }

    #[test]
    fn the_lock_number_of_a_key_never_changes() {
        // The published test vectors of 64-bit FNV-1a.
        assert_eq!(lock_number(b"").cast_unsigned(), 0xcbf2_9ce4_8422_2325);
        assert_eq!(lock_number(b"a").cast_unsigned(), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(lock_number(b"foobar").cast_unsigned(), 0x8594_4171_f739_67e8);
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_trying_one_by_one_finds(
            patterns in prop::collection::vec(examples::pattern(), 0..12),
            key in examples::key(),
        ) {
            let tree = tree(&patterns);
            let found = tree.find(key.as_bytes(), |index| &patterns[index]);
            let best = patterns
                .iter()
                .filter(|pattern| pattern.matches(key.as_bytes()))
                .min_by(|a, b| overlap::order(a, b));
            prop_assert_eq!(found.map(|index| patterns[index].as_str()), best.map(|p| p.as_str()));
        }
    }
}
