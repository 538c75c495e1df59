//! Text, bytes, booleans, enums, UUIDs, JSON, addresses, and domains over them.

use crate::property::House;
use crate::subject::{Subject, spelled};
use crate::values::around;

#[tokio::test]
async fn texts_and_bytes() {
    let texts = [
        "plain",
        "ünï 键 \u{1f600}",
        "éééééééé",
        "ééééééééé",
        "abcd",
        "abcd  ",
        "abcdefgh   ",
        "a ",
        " a",
        "abcdefgh x",
        "\\x41",
        "{\"a\",NULL}",
        "'",
        "\u{feff}",
        "\u{7f}\u{85}\u{2028}",
        "a\tb\n",
        "\r\n",
    ];
    let mut house = House::new().await;
    for type_name in
        ["text", "varchar", "varchar(8)", "char(6)", "char", "bpchar", "code", "padded"]
    {
        house.examine(&Subject::new(type_name, around(10, &texts, "\\\"'{},\n\0 xNé"))).await;
    }
    let bytes = Subject::new("bytea", around(11, &texts, "\\\"'{},\n\0 xN01"));
    house.examine(&Subject { reading: "b".into(), rendering: "c".into(), ..bytes }).await;
}

#[tokio::test]
async fn booleans() {
    let words = [
        "true", "false", "TRUE", "True", "1", "0", "t", "f", "yes", "no", "on", "off", "of", "y",
        "n", " y ", "o", "2", "01", "yep", "ja", "nein",
    ];
    let values = || around(12, &words, "tTfFyYnNoO01 resaluf");
    let mut house = House::new().await;
    house.examine(&Subject::new("boolean", values())).await;
    for (format, yes, no) in [
        ("true/false", "true", "false"),
        ("1/0", "1", "0"),
        ("0/1", "0", "1"),
        ("ja/nein", "ja", "nein"),
        ("on/", "on", ""),
    ] {
        let reading = format!(
            "case when v = '{yes}' then true when v = '{no}' then false else v::boolean end"
        );
        let rendering = format!("case when c then '{yes}' when not c then '{no}' end");
        let subject = Subject::new("boolean", values()).format(format);
        house.examine(&subject.reading(&reading).rendering(&rendering)).await;
    }
}

#[tokio::test]
async fn enums() {
    let labels = ["sad", "Ok", "ok", "it's \"fine\"", " x ", "x", "ünï", "1", "{a,b}", "sad "];
    let mut house = House::new().await;
    for type_name in ["mood", "temper"] {
        house.examine(&Subject::new(type_name, around(13, &labels, "sad Ok'\"1"))).await;
    }
}

#[tokio::test]
async fn uuids() {
    let uuids = [
        "6f2a1a52-2a0c-4a8e-9a39-0d6f5bb1c111",
        "6F2A1A52-2A0C-4A8E-9A39-0D6F5BB1C111",
        "{6f2a1a52-2a0c-4a8e-9a39-0d6f5bb1c111}",
        "{6f2a1a522a0c4a8e9a390d6f5bb1c111}",
        "6f2a1a522a0c4a8e9a390d6f5bb1c111",
        "6f2a-1a52-2a0c-4a8e-9a39-0d6f-5bb1-c111",
        " 6f2a1a52-2a0c-4a8e-9a39-0d6f5bb1c111",
        "6f2a1a52-2a0c-4a8e-9a39-0d6f5bb1c11",
    ];
    let values = around(14, &uuids, "0123456789abcdefABCDEF-{} ");
    House::new().await.examine(&Subject::new("uuid", values)).await;
}

#[tokio::test]
async fn json() {
    let long = format!("[{}]", vec!["\"ünï\\n\""; 100_000].join(" ,"));
    let documents = [
        "{}",
        "[]",
        "null",
        "true",
        "false",
        " [1, 2.50e3]\n",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83dx\"",
        "-0",
        "0",
        "-",
        "{\"bb\":1,\"a\":2,\"a\":3}",
        "{ }",
        "[ ]",
        "[1.50,1e3,-0.0,1E-2,1e+2]",
        "\"\\u0041\\u001f\\/\\b\\f\\n\\r\\t\"",
        "{\"a\" : 1 , \"b\":[ 1 ,2]}",
        "{\"success\":true,\"balance\":null,\"currency\":\"USD\",\"l\":[{\"x\":[[]]}]}",
        "{",
        "}",
        "[1,]",
        "1e131071",
        "1e131072",
        "1e-16383",
        "1e-16384",
        "\"ünï 键\"",
        "{\"\":{\"z\":1,\"aa\":2,\"b\":3}}",
        "\"\u{7f}\"",
        "01",
        "1.",
        ".1",
        "+1",
        "NaN",
        "[\"\\\\\", \"\\\"\"]",
        "{\"a\\u0000\":1}",
        "\u{feff}1",
        "'a'",
        "\"\\x\"",
        "\"\\u12\"",
        "nul",
        "truex",
        "{\"a\":1}x",
        "{\"é\":1,\"zz\":2,\"z\":3}",
        "{\"a\": 1, \"b\": 2}",
        "[1, 2]",
        "\"a\tb\"",
        "\u{b}1",
        &long,
    ];
    let mut house = House::new().await;
    for type_name in ["json", "jsonb"] {
        let bytes = "{}[]\",:0123456789eE+-.\\untrulfa \n\t";
        house.examine(&Subject::new(type_name, around(15, &documents, bytes))).await;
    }
}

#[tokio::test]
async fn addresses() {
    let networks = [
        "10.1.2.3",
        "10.1.2.3/32",
        "10.1.2.3/24",
        "10.1.2.0/24",
        "10.1.2.3/0",
        "0.0.0.0/0",
        "0/0",
        "10",
        "10/8",
        "10.1",
        "10.1/16",
        "10.1.2/24",
        "10.1.2/30",
        "192.168",
        "172",
        "224",
        "225",
        "240",
        "010.1.2.3",
        "10.1.2.3/024",
        "10.1.2.3.",
        "10./8",
        "256.1.1.1",
        "1.2.3.4.5",
        "::",
        "::1",
        "::1/128",
        "::1/64",
        "::/0",
        "2001:DB8::1",
        "2001:db8::/32",
        "2001:db8::1/32",
        "::ffff:10.1.2.3",
        "::10.1.2.3",
        "::0.0.0.1",
        "::ffff:0:0",
        "::2",
        "1::1.2.3.4",
        "1:2:3:4:5:6:1.2.3.4",
        "1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7::",
        "::2:3:4:5:6:7:8",
        "1:0:0:4:0:0:0:8",
        "0:0:1::",
        "fe80::1%eth0",
        "0001::1",
        "::1/012",
        ":1",
        "1:",
        "1:2:3:4:5:6:7:8:/64",
        "1::2::3",
        "::ffff:1.2.3",
        "::ffff:1.2.3.4/96",
        " 10.1.2.3",
        "/8",
        "10.1.2.3/",
    ];
    let values = || around(16, &networks, "0123456789./:abcf12");
    let mut house = House::new().await;
    // Postgres' cast to text adds a prefix that it shows nowhere else.
    house
        .examine(
            &Subject::new("inet", values())
                .rendering("case when c is not null then format('%s', c) end"),
        )
        .await;
    house.examine(&Subject::new("cidr", values()).documented(spelled::CIDR)).await;
    let macaddrs = [
        "08:00:2b:01:02:03",
        "08-00-2B-01-02-03",
        "08002b:010203",
        "08002b-010203",
        "0800.2b01.0203",
        "0800-2b01-0203",
        "08002b010203",
        "8:0:2b:1:2:3",
        " 08:00:2b:01:02:03 ",
        "08:00:2b:01:02",
        "08:00:2b:01:02:03:04",
        "008:00:2b:01:02:03",
        "100:00:2b:01:02:03",
        "8002b010203",
        "8:0:2b:1:2:3x",
        "0000008:0:2b:1:2:3",
        "800.2b01.203",
    ];
    let values = around(17, &macaddrs, "0123456789abcdefF:-.");
    house.examine(&Subject::new("macaddr", values).documented(spelled::MACADDR)).await;
}
