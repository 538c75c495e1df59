//! README.md tells the truth: its console blocks are run as they stand, and print what they say.
//!
//! Only addresses are other ones here: those of the test's own Redis, Postgres and respgres.

mod stack;

use std::process::Command;

use stack::{Server, Stack};

/// A line that begins with `$ `, and what it printed.
struct Step {
    command: String,
    output: String,
}

#[tokio::test]
async fn the_readme_works_as_written() {
    let steps = steps(include_str!("../README.md"));
    assert!(steps.len() >= 4, "the README shows how it works");
    let stack = Stack::builder(include_str!("../config/relay.toml")).start().await;
    let proxy = stack.address();
    let (_, port) = proxy.rsplit_once(':').expect("host:port");
    let database = stack.database();
    let addresses = [
        ("redis-cli -p 6380", format!("redis-cli --no-raw -p {port}")),
        ("redis-cli -p 26379", format!("redis-cli --no-raw -s {}", stack.redis.address())),
        (
            "-h /tmp/respgres.AbCdEf -U postgres respgres",
            format!("-h {} -U postgres {}", database.cluster.host(), database.name),
        ),
    ];
    for step in steps {
        let address = addresses.iter().find(|(written, _)| step.command.contains(written));
        let (written, real) = address.unwrap_or_else(|| panic!("whose is {}?", step.command));
        let command = step.command.replace(written, real);
        let output = Command::new("sh").args(["-c", &command]).env("PGTZ", "UTC").output();
        let output = output.expect("sh starts");
        let printed =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert_eq!(printed, step.output, "{command}");
    }
    stack.stop_expecting(&[]).await;
}

#[test]
fn what_the_readme_shows_of_the_example_is_in_it() {
    let readme = include_str!("../README.md");
    let block = readme.split("```toml\n").nth(1).expect("the README shows a mapping");
    let shown = block.split("```").next().expect("a block ends");
    let shown: toml::Table = shown.parse().expect("the README's mapping is TOML");
    let example: toml::Table =
        include_str!("../config/relay.toml").parse().expect("the example is TOML");
    let shown = &shown["mapping"][0].as_table().expect("a table");
    let mappings = example["mapping"].as_array().expect("a list");
    let mapping = mappings.iter().find(|mapping| mapping["name"] == shown["name"]);
    let mapping = mapping.expect("the example has a mapping of that name");
    for (setting, value) in shown.iter().filter(|(setting, _)| *setting != "columns") {
        assert_eq!(mapping.get(setting), Some(value), "{setting}");
    }
    for (field, column) in shown["columns"].as_table().expect("a table") {
        assert_eq!(mapping["columns"].get(field), Some(column), "{field}");
    }
}

fn steps(readme: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in readme.split("```console\n").skip(1) {
        for line in block.lines().take_while(|line| *line != "```") {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => {
                    steps.push(Step { command: command.to_owned(), output: String::new() });
                }
                (None, Some(step)) => step.output += &format!("{line}\n"),
                (None, None) => panic!("output before any command: {line}"),
            }
        }
    }
    steps
}
