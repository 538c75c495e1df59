//! The table of settings as a file with all defaults, and as a page of documentation.

use super::file::available;
use super::settings::{COLUMN, MAPPING, Presence, SECTIONS, Setting, USER};

/// Longest line of a comment, in characters.
const WIDTH: usize = 92;

const FILE_HEAD: &str = "\
The configuration of respgres: every setting with its default.

Sizes are bytes, or texts with a unit: \"512mb\" (kb, mb, gb: powers of 1024; k, m, g: powers of 1000). \
Durations are texts with a unit: \"500ms\", \"1.5s\", \"2m\", \"24h\", \"7d\". Outside of mappings the \
environment overrides the file: RESPGRES__POSTGRES__URL is postgres.url, and so on.";

const PATTERNS: &str = r#"## Key patterns

A pattern covers the whole key. `{name:kind}` captures a part of it, which is a column of the
table; `{{` and `}}` stand for braces. Every key has one reading, and the row gives the very key back.

| kind | what it captures |
| --- | --- |
| `text` | at least one character, up to the first character of the literal that follows (which it cannot contain), or to the key's end |
| `path` | at least one character of any kind; what follows it is matched from the key's end, so `usage:{model:path}:{day:date}` takes a model with a `:` in it. One a pattern; after it only `uuid`, `int`, `date`, `month` and `slug` |
| `rest` | all that is left, at least one character; last in its pattern |
| `uuid` | lower case, with hyphens |
| `int` | a 64-bit integer as Redis prints it |
| `date` | a day of the calendar, `2026-11-20` |
| `month` | `2026-11` |
| `slug` | lower-case ASCII letters, digits, `_`, `-`; at least one |

A key whose captures do not parse does not match, and lives in Redis like any unmapped key. So do
keys of more than 2,000 bytes, and keys in which a capture is not UTF-8 or holds a NUL: Postgres could
not store or index them.

When two patterns match the same key, the one with a literal where they first differ has it:
`apikey:hash_map` beside `apikey:{id:uuid}`. Two patterns of which neither has the better claim are
refused with a key that both match; narrow a capture, or `exclude` such keys from one of them.
"#;

/// A file that says every default; mappings and users as examples.
pub fn print_config() -> String {
    let mut text = comment(FILE_HEAD);
    for section in SECTIONS {
        text.push('\n');
        text.push_str(&comment(section.about));
        text.push_str(&format!("[{}]\n", section.name));
        for setting in available(section.settings) {
            text.push_str(&comment(setting.about));
            text.push_str(&match setting.presence {
                Presence::Default(value) => format!("{} = {value}\n", setting.name),
                Presence::Optional(value) | Presence::Required(value) => {
                    format!("# {} = {value}\n", setting.name)
                }
                Presence::NotYet(_) => String::new(),
            });
        }
        if section.name == "auth" {
            text.push_str(&example("A named user; as many as are wanted.", "[[auth.user]]", USER));
        }
    }
    text.push_str(&example(
        "Which keys are rows of which table; as many as are wanted. Keys that no mapping matches \
         live in Redis alone.",
        "[[mapping]]",
        MAPPING,
    ));
    text
}

/// The page `docs/config.md`.
pub fn print_documentation() -> String {
    let mut text = "# Configuration\n\n\
        One TOML file, `respgres run --config FILE`. `respgres print-config` prints one with every \
        default; `respgres check-config` tells all that is wrong with one.\n\n\
        Sizes are bytes, or texts with a unit: `\"512mb\"` (`kb`, `mb`, `gb`: powers of 1024; `k`, `m`, \
        `g`: powers of 1000). Durations are texts with a unit: `\"500ms\"`, `\"1.5s\"`, `\"2m\"`, `\"24h\"`, \
        `\"7d\"`.\n\n\
        Outside of mappings and users the environment overrides the file: `RESPGRES__POSTGRES__URL` is \
        `postgres.url`, `RESPGRES__SERVER__LISTEN` is `server.listen`, and so on.\n"
        .to_owned();
    for section in SECTIONS {
        let heading = format!("`[{}]`", section.name);
        text.push_str(&chapter(&heading, section.about, section.settings));
        if section.name == "auth" {
            text.push_str(&chapter(
                "`[[auth.user]]`",
                "A named user; as many as are wanted.",
                USER,
            ));
        }
    }
    text.push_str(&chapter(
        "`[[mapping]]`",
        "Which keys are rows of which table; as many as are wanted. Keys that no mapping matches live \
         in Redis alone.",
        MAPPING,
    ));
    text.push_str(&chapter(
        "`[mapping.columns]`",
        "One line a field: `field = \"column\"`, or `field = { column = \"column\", … }` with:",
        COLUMN,
    ));
    text.push('\n');
    text.push_str(PATTERNS);
    text
}

fn chapter<T>(heading: &str, about: &str, settings: &[Setting<T>]) -> String {
    let mut text =
        format!("\n## {heading}\n\n{about}\n\n| setting | default | |\n| --- | --- | --- |\n");
    for setting in available(settings) {
        let default = match setting.presence {
            Presence::Default(value) => format!("`{value}`"),
            Presence::Required(value) => format!("required, e.g. `{value}`"),
            Presence::Optional(value) => format!("none; e.g. `{value}`"),
            Presence::NotYet(_) => String::new(),
        };
        text.push_str(&format!("| `{}` | {default} | {} |\n", setting.name, setting.about));
    }
    text
}

/// A table that can be there more than once, as an example that is commented out.
fn example<T>(about: &str, heading: &str, settings: &[Setting<T>]) -> String {
    let mut text = format!("\n{}# {heading}\n", comment(about));
    for setting in available(settings) {
        let (value, note) = match setting.presence {
            Presence::Default(value) => (value, ""),
            Presence::Optional(value) => (value, "Optional. "),
            Presence::Required(value) => (value, "Required. "),
            Presence::NotYet(_) => continue,
        };
        text.push_str(&comment(&format!("  {note}{}", setting.about)));
        text.push_str(&format!("# {} = {value}\n", setting.name));
    }
    text
}

/// Text as comment lines; blank lines and an indent are kept.
fn comment(text: &str) -> String {
    let mut comment = String::new();
    for paragraph in text.lines() {
        let indent = &paragraph[..paragraph.len() - paragraph.trim_start().len()];
        let mut line = format!("# {indent}");
        let empty = line.len();
        for word in paragraph.split_whitespace() {
            if line.len() > empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
                comment.push_str(&format!("{}\n", line.trim_end()));
                line.truncate(empty);
            }
            if line.len() > empty {
                line.push(' ');
            }
            line.push_str(word);
        }
        comment.push_str(&format!("{}\n", line.trim_end()));
    }
    comment
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn what_is_printed_says_the_defaults() {
        let printed = Config::from_toml(&print_config(), []).unwrap();
        assert_eq!(format!("{printed:?}"), format!("{:?}", Config::default()));
        assert_eq!(printed.upstream.url, Config::default().upstream.url);
        assert_eq!(printed.postgres.url, Config::default().postgres.url);
    }

    #[test]
    fn the_printed_example_of_a_mapping_is_one() {
        let printed = print_config();
        let (_, example) = printed.split_once("# [[mapping]]\n").unwrap();
        let lines = example.lines().filter_map(|line| line.strip_prefix("# "));
        let settings: Vec<_> = lines.filter(|line| !line.starts_with(' ')).collect();
        let name = |line: &str| line.split_once(" = ").unwrap().0.to_owned();
        assert!(settings.iter().map(|line| name(line)).eq(available(MAPPING).map(|s| s.name)));
        for (kind, of_others) in [
            ("hash", &["field", "value", "member"][..]),
            ("hash_entries", &["columns", "expires_at", "member"]),
            ("set", &["columns", "expires_at", "extra", "field", "value"]),
        ] {
            let own = settings.iter().filter(|line| !of_others.contains(&name(line).as_str()));
            let own =
                own.map(|line| line.replace("kind = \"hash\"", &format!("kind = \"{kind}\"")));
            let text = format!(
                "[postgres]\nurl = \"postgres://h/d\"\n[[mapping]]\n{}\n",
                own.collect::<Vec<_>>().join("\n")
            );
            let config = Config::from_toml(&text, []).unwrap_or_else(|wrong| panic!("{wrong}"));
            assert_eq!(config.mappings[0].kind.name(), kind);
        }
    }

    /// Write them anew with `RESPGRES_BLESS=1 cargo test config`.
    #[test]
    fn the_files_of_the_project_are_what_is_printed() {
        for (file, printed) in
            [("config/respgres.toml", print_config()), ("docs/config.md", print_documentation())]
        {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            if std::env::var_os("RESPGRES_BLESS").is_some() {
                std::fs::write(&path, &printed).unwrap();
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap(), printed, "{file}");
        }
    }

    #[test]
    fn comments_are_wrapped_and_no_line_is_long() {
        for line in print_config().lines().filter(|line| line.starts_with('#')) {
            let is_example = line.contains(" = ");
            assert!(is_example || line.chars().count() <= WIDTH, "{line}");
        }
    }
}
