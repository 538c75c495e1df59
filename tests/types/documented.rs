//! docs/types.md: its examples are true, and its table knows every type that there is.

use crate::property::House;
use crate::subject::Subject;

const PAGE: &str = include_str!("../../docs/types.md");

/// Rows of the page's table that begins with this heading; cells without their backticks.
fn table(first_heading: &str, columns: usize) -> Vec<Vec<&'static str>> {
    let lines = PAGE.lines().skip_while(|line| !line.starts_with(first_heading)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    let cells = |line: &'static str| -> Vec<&'static str> {
        let cells = line.strip_prefix('|').unwrap().strip_suffix('|').unwrap().split('|');
        let cells: Vec<_> = cells.map(|cell| strip(cell.trim())).collect();
        assert_eq!(cells.len(), columns, "{line}");
        cells
    };
    rows.map(cells).collect()
}

fn strip(cell: &str) -> &str {
    cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`')).unwrap_or(cell)
}

#[tokio::test]
async fn examples_are_true() {
    let mut house = House::new().await;
    let examples = table("| type | format |", 6);
    assert!(examples.len() > 40);
    for example in examples {
        let [type_name, format, written, column, after, exact] = example[..] else {
            unreachable!()
        };
        let subject = Subject {
            format: Some(format).filter(|format| !format.is_empty()),
            ..Subject::new(type_name, Vec::new())
        };
        house.create_tables(&subject).await;
        let mapping = house.bind("kept", &subject, true).await;
        let value = written.as_bytes().to_vec();
        house.write(&mapping, &[(0, &value)]).await.unwrap();
        let seen = house.seen("kept", "null::bytea").await;
        let held = (column != "∅").then_some(column);
        assert_eq!(seen[0].column.as_deref(), held, "{example:?}");
        assert_eq!(seen[0].has_extra, exact != "yes", "{example:?}");
        assert_eq!(house.read(&mapping, 1).await[0].as_deref(), Some(&value[..]), "{example:?}");
        house.execute("update kept set extra = null".into()).await;
        let expected = held.map(|_| after.as_bytes());
        assert_eq!(house.read(&mapping, 1).await[0].as_deref(), expected, "{example:?}");
    }
}

#[tokio::test]
async fn a_type_without_a_codec_is_refused_with_those_that_have_one() {
    let mut house = House::new().await;
    for type_name in ["interval", "bit(3)", "money", "xml", "point", "int4range", "point[]"] {
        let subject = Subject::new(type_name, Vec::new());
        house.create_tables(&subject).await;
        let problem = house.problem_of("kept", &subject).await;
        assert!(problem.contains(&format!("type {type_name} is not supported")), "{problem}");
        let (_, supported) = problem.split_once("one of: ").unwrap();
        let documented: Vec<_> = table("| type | bytes", 3).iter().map(|row| row[0]).collect();
        for name in supported.split(", ") {
            let name = name.trim_end_matches(" of these").trim_end_matches('s');
            assert!(documented.iter().any(|types| types.contains(name)), "{name}");
        }
    }
}
