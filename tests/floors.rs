//! A module imports from the floors below its own: never from a neighbour, never upward.
//!
//! Reads the sources. What counts is every path that leads through the crate's root: `crate::x`,
//! `use crate::{x, y::z}`, and `super::super::x` where the supers reach the root.

use std::fs;
use std::path::{Path, PathBuf};

/// The house, ground floor first. A new module is entered here, in ARCHITECTURE.md, and nowhere
/// else.
const FLOORS: [&[&str]; 6] = [
    &["protocol", "value", "config", "error", "metrics", "tasks"],
    &["command", "mapping"],
    &["upstream", "store"],
    &["engine", "infer"],
    &["server", "admin"],
    &["main", "cli", "app"],
];

#[test]
fn no_module_imports_from_its_own_floor_or_above() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&root);
    assert!(files.len() > 10, "the sources are not where they are looked for");
    let mut faults = Vec::new();
    for file in files {
        let source = fs::read_to_string(&file).expect("a source file is readable");
        let path = file.strip_prefix(&root).expect("found below it");
        faults.extend(faults_of(path, &source));
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn an_import_from_above_or_from_a_neighbour_is_found() {
    let check = |file: &str, source: &str, expected: &[&str]| {
        assert_eq!(faults_of(Path::new(file), source), expected, "{source}");
    };
    check("store/session.rs", "use crate::value::Draft;\nuse crate::mapping::Layout;", &[]);
    check("store/session.rs", "use crate::store::error::X; use super::error::Y;", &[]);
    check(
        "store/session.rs",
        "\nuse crate::upstream::Lane;",
        &["src/store/session.rs:2: store (floor 2) imports upstream (floor 2)"],
    );
    check(
        "value/mod.rs",
        "use crate::{\n  value::Draft,\n  engine::{config, Engine},\n};",
        &["src/value/mod.rs:3: value (floor 0) imports engine (floor 3)"],
    );
    check(
        "value/draft.rs",
        "mod tests { use super::super::super::mapping::X; use super::super::record; }",
        &["src/value/draft.rs:1: value (floor 0) imports mapping (floor 1)"],
    );
    check(
        "value/draft.rs",
        "mod a { fn f() { if x {} } } use super::super::protocol::X;",
        &["src/value/draft.rs:1: value (floor 0) imports protocol (floor 0)"],
    );
    check(
        "value/draft.rs",
        "// use crate::engine::X\n/* crate::engine */ \"crate::engine::X\"",
        &[],
    );
    check(
        "value/draft.rs",
        "let quote = '\"'; crate::engine::run(r#\"\"crate::server\"#)",
        &["src/value/draft.rs:1: value (floor 0) imports engine (floor 3)"],
    );
    check(
        "main.rs",
        "use respgres::cli; use crate::app;",
        &["src/main.rs:1: main (floor 5) imports app (floor 5)"],
    );
    check("attic/mod.rs", "", &["src/attic/mod.rs:1: attic is on no floor"]);
    check("engine.rs", "use crate::attic::X;", &["src/engine.rs:1: attic is on no floor"]);
}

/// What is wrong with one file; `path` is relative to src/.
fn faults_of(path: &Path, source: &str) -> Vec<String> {
    let modules = module_path(path);
    let Some(own) = modules.first() else { return Vec::new() };
    let place = |line: usize| format!("src/{}:{line}", path.display());
    let Some(own_floor) = floor_of(own) else {
        return vec![format!("{}: {own} is on no floor", place(1))];
    };
    let mut faults = Vec::new();
    for (line, imported) in imports(&tokens(source), modules.len()) {
        match floor_of(&imported) {
            _ if imported == *own => {}
            // The root itself: `crate::Item`, `crate::some_macro!`.
            None if imported.starts_with(char::is_uppercase) => {}
            None => faults.push(format!("{}: {imported} is on no floor", place(line))),
            Some(floor) if floor < own_floor => {}
            Some(floor) => faults.push(format!(
                "{}: {own} (floor {own_floor}) imports {imported} (floor {floor})",
                place(line)
            )),
        }
    }
    faults
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// `engine/read.rs` is engine::read, `engine/mod.rs` engine, `lib.rs` the root.
fn module_path(path: &Path) -> Vec<String> {
    let mut modules: Vec<String> =
        path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let file = modules.pop().expect("a path has a last part");
    match file.as_str() {
        "mod.rs" | "lib.rs" => {}
        other => modules.push(other.trim_end_matches(".rs").to_owned()),
    }
    modules
}

/// The top-level modules that a file of a module `depth` levels below the root names, with lines.
fn imports(tokens: &[(usize, String)], depth: usize) -> Vec<(usize, String)> {
    let text = |at: usize| tokens.get(at).map_or("", |(_, token)| token.as_str());
    let mut found = Vec::new();
    // For each open brace whether it belongs to an inline module.
    let mut braces: Vec<bool> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let mut next = at + 1;
        match text(at) {
            "{" => braces.push(at >= 2 && text(at - 2) == "mod"),
            "}" => {
                braces.pop();
            }
            "crate" if text(at + 1) == "::" => named_after(tokens, at + 2, &mut found),
            "super" if at == 0 || text(at - 1) != "::" => {
                let mut supers = 1;
                while text(next) == "::" && text(next + 1) == "super" {
                    supers += 1;
                    next += 2;
                }
                let inline = braces.iter().filter(|&&module| module).count();
                if supers == depth + inline && text(next) == "::" {
                    named_after(tokens, next + 1, &mut found);
                }
            }
            _ => {}
        }
        at = next;
    }
    found
}

/// The name at `at`, or the first name of each path in the group that opens there.
fn named_after(tokens: &[(usize, String)], at: usize, found: &mut Vec<(usize, String)>) {
    let Some((line, token)) = tokens.get(at) else { return };
    if token != "{" {
        found.push((*line, token.clone()));
        return;
    }
    let mut open = 0;
    let mut begins = false;
    for (line, token) in &tokens[at..] {
        match token.as_str() {
            "{" => {
                open += 1;
                begins = open == 1;
            }
            "}" if open == 1 => return,
            "}" => open -= 1,
            "," => begins = open == 1,
            name => {
                if begins {
                    found.push((*line, name.to_owned()));
                }
                begins = false;
            }
        }
    }
}

/// Names, `::`, braces and commas with their lines, without comments and literals.
fn tokens(source: &str) -> Vec<(usize, String)> {
    let bytes = source.as_bytes();
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while at < bytes.len() {
        let rest = &source[at..];
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(taken) = literal(rest) {
            taken
        } else if rest.starts_with("::") {
            tokens.push((line, "::".to_owned()));
            2
        } else {
            let is_name = |c: char| c.is_alphanumeric() || c == '_';
            let name: String = rest.chars().take_while(|&c| is_name(c)).collect();
            let first = rest.chars().next().expect("not at the end");
            if name.is_empty() {
                if "{},".contains(first) {
                    tokens.push((line, first.to_string()));
                }
                first.len_utf8()
            } else {
                let taken = name.len();
                tokens.push((line, name));
                taken
            }
        };
        line += rest[..taken].matches('\n').count();
        at += taken;
    }
    tokens
}

/// The length of the string or character literal that begins here.
fn literal(rest: &str) -> Option<usize> {
    let prefix = ["", "b", "c"].into_iter().find(|prefix| {
        let after = &rest[prefix.len().min(rest.len())..];
        rest.starts_with(prefix) && (after.starts_with(['"', '\'']) || is_raw(after))
    })?;
    let after = &rest[prefix.len()..];
    let length = if is_raw(after) {
        let hashes = after[1..].bytes().take_while(|&byte| byte == b'#').count();
        let end = format!("\"{}", "#".repeat(hashes));
        let start = 1 + hashes + 1;
        start + after[start..].find(&end)? + end.len()
    } else if after.starts_with('"') {
        quoted(after, '"')?
    } else {
        // A character, or the apostrophe of a lifetime, which is no literal.
        let mut characters = after[1..].chars();
        let first = characters.next()?;
        if first != '\\' && characters.next() != Some('\'') {
            return None;
        }
        quoted(after, '\'')?
    };
    Some(prefix.len() + length)
}

fn is_raw(text: &str) -> bool {
    text.strip_prefix('r').is_some_and(|rest| rest.trim_start_matches('#').starts_with('"'))
}

fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a source directory is readable") {
        let path = entry.expect("a source directory is readable").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
