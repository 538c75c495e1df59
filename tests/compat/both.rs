//! One conversation held twice: with plain Redis, and with respgres in front of a Redis of its own
//! while a mapping is configured. What the two answer is compared, all of it.
//!
//! ```text
//! a> GET k            a command on connection a, and its reply
//! a| GET k | GET l    several commands in one write, and a reply to each
//! a>> BLPOP k 0       a command whose reply is read later
//! a<                  one reply, or a message that comes by itself
//! a! PING\r\n         bytes as they are, with \r \n \xNN \\
//! a$                  nothing more is sent; all that comes until the end
//! a^                  all that comes until the server closes
//! a=                  from now on {a} is the connection's CLIENT ID
//! a-                  the connection is closed
//! blocked 2           waits until so many clients are blocked in Redis
//! subscribers 1 c     waits until so many clients are subscribed to channel c
//! ```

use std::collections::BTreeMap;

use crate::stack::resp::escape;
use crate::stack::{Client, Redis, Server, Stack, Value, wait_until};

/// A mapping that is there so that every request is held against it.
const MAPPING: &str = r#"
    [[mapping]]
    name = "people"
    key = "person:{id:int}"
    table = "people"
    [mapping.columns]
    name = "name"
"#;

/// Redis, and respgres in front of another one.
pub struct Both {
    pub plain: Redis,
    pub stack: Stack,
}

// === impl Both ===

impl Both {
    pub async fn start() -> Self {
        let plain = Redis::start().await;
        // Clients of different event loops have to see each other too.
        let stack = Stack::builder(MAPPING)
            .set("RESPGRES__SERVER__THREADS", "2")
            .set("RESPGRES__UPSTREAM__ADMIN_COMMANDS", "true")
            .start()
            .await;
        Self { plain, stack }
    }

    /// With respgres' defaults, beside a Redis that denies these commands to its user.
    pub async fn start_denying(commands: &[String]) -> Self {
        // It has an error of its own for these two otherwise.
        let enabled = ["--enable-debug-command", "yes", "--enable-module-command", "yes"];
        let plain = Redis::start_with(&enabled).await;
        let stack = Stack::builder(MAPPING).start().await;
        let rules: String = commands.iter().map(|command| format!(" -{command}")).collect();
        let reply = plain.say(&format!("ACL SETUSER default{rules}")).await;
        assert_eq!(reply, Value::Status("OK".to_owned()));
        Self { plain, stack }
    }

    /// Holds the conversation with both; fails where the answers part.
    pub async fn say_the_same(&self, script: &str) {
        let plain = hold(&self.plain, &self.plain, script).await;
        let ours = hold(&self.stack, &self.stack.redis, script).await;
        if plain != ours {
            let place = plain.iter().zip(&ours).position(|(plain, ours)| plain != ours);
            let place = place.unwrap_or(plain.len().min(ours.len()));
            let from = place.saturating_sub(12);
            let part = |lines: &[String]| {
                lines.iter().skip(from).take(30).cloned().collect::<Vec<_>>().join("\n")
            };
            panic!(
                "the answers part at line {place}\n--- Redis\n{}\n--- respgres\n{}\n---",
                part(&plain),
                part(&ours)
            );
        }
    }

    /// Sends the same bytes to both over new connections, then nothing more; compares all bytes
    /// that come back until the end.
    pub async fn exchange_the_same(&self, bytes: &[u8]) -> Vec<u8> {
        let plain = exchange(&self.plain, bytes).await;
        let ours = exchange(&self.stack, bytes).await;
        assert_eq!(
            escape(&ours),
            escape(&plain),
            "after {}",
            bytes[..bytes.len().min(300)].escape_ascii()
        );
        ours
    }

    /// Stops respgres; fails on a warning or an error in its log that is not announced.
    pub async fn stop(self, announced: &[&str]) {
        self.stack.stop_expecting(announced).await;
    }
}

/// Tests most conversations with this alone.
pub async fn same(script: &str) {
    let both = Both::start().await;
    both.say_the_same(script).await;
    both.stop(&[]).await;
}

/// Sends bytes over a new connection, then the end; all bytes that come back.
pub async fn exchange(server: &impl Server, bytes: &[u8]) -> Vec<u8> {
    let mut client = Client::connect(server).await;
    client.send(bytes).await;
    client.finish_sending().await;
    client.read_to_end().await
}

/// Waits until a line of INFO clients of `redis` has this value.
pub async fn wait_for_clients(redis: &impl Server, line: &str) {
    let mut observer = Client::connect(redis).await;
    wait_until(line, async || {
        let info = observer.say("INFO clients").await;
        let info = String::from_utf8_lossy(info.bytes().expect("INFO is text")).into_owned();
        info.lines().any(|got| got == line)
    })
    .await;
}

/// The conversation with one server; `redis` is the Redis that does the work.
async fn hold(server: &impl Server, redis: &Redis, script: &str) -> Vec<String> {
    let mut connections: BTreeMap<String, Client> = BTreeMap::new();
    let mut ids: BTreeMap<String, i64> = BTreeMap::new();
    let mut transcript = Vec::new();
    for line in
        script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        transcript.push(line.to_owned());
        if let Some(count) = line.strip_prefix("blocked ") {
            wait_for_clients(redis, &format!("blocked_clients:{count}")).await;
            continue;
        }
        if let Some(rest) = line.strip_prefix("subscribers ") {
            let (count, channel) = rest.split_once(' ').expect("a count and a channel");
            wait_until(line, async || {
                let reply = redis.say(&format!("PUBSUB NUMSUB {channel}")).await;
                reply.elements()[1] == Value::Integer(count.parse().expect("a count"))
            })
            .await;
            continue;
        }
        let end = line.find(|c: char| !c.is_ascii_alphanumeric()).expect("a sign after the name");
        let (name, rest) = line.split_at(end);
        if !connections.contains_key(name) {
            connections.insert(name.to_owned(), Client::connect(server).await);
        }
        let client = connections.get_mut(name).expect("it was opened just now");
        let known = |text: &str| {
            ids.iter().fold(text.to_owned(), |text, (name, id)| {
                text.replace(&format!("{{{name}}}"), &id.to_string())
            })
        };
        if let Some(command) = rest.strip_prefix(">>") {
            client.send(&request(&known(command))).await;
        } else if let Some(command) = rest.strip_prefix('>') {
            client.send(&request(&known(command))).await;
            transcript.extend(reply(client).await);
        } else if let Some(commands) = rest.strip_prefix('|') {
            let requests: Vec<Vec<u8>> = known(commands).split(" | ").map(request).collect();
            client.send(&requests.concat()).await;
            for _ in requests {
                transcript.extend(reply(client).await);
            }
        } else if let Some(bytes) = rest.strip_prefix('!') {
            client.send(&unescaped(bytes.trim_start())).await;
        } else if rest == "<" {
            transcript.extend(reply(client).await);
        } else if rest == "$" {
            client.finish_sending().await;
            transcript.push(escape(&client.read_to_end().await));
        } else if rest == "^" {
            transcript.push(escape(&client.read_to_end().await));
        } else if rest == "=" {
            ids.insert(name.to_owned(), client.say("CLIENT ID").await.integer());
        } else if rest == "-" {
            connections.remove(name);
        } else {
            panic!("not a line of a conversation: {line}");
        }
    }
    transcript
}

fn request(line: &str) -> Vec<u8> {
    crate::stack::resp::request(&crate::stack::resp::arguments(line.trim()))
}

async fn reply(client: &mut Client) -> Vec<String> {
    match client.try_reply().await {
        Ok(value) => without_id(value).lines(),
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            vec!["no reply came".to_owned()]
        }
        Err(_) => vec!["the connection was closed".to_owned()],
    }
}

/// HELLO's reply, also as one of EXEC's, without the connection's number, which two servers count
/// differently.
fn without_id(value: Value) -> Value {
    let is_id = |value: &Value| value.bytes() == Some(b"id");
    match value {
        Value::Map(pairs) => Value::Map(
            pairs
                .into_iter()
                .map(|(key, value)| if is_id(&key) { (key, Value::Null) } else { (key, value) })
                .collect(),
        ),
        Value::Array(mut elements) => {
            if elements.first().and_then(Value::bytes) == Some(b"server")
                && let Some(at) = elements.iter().position(is_id)
            {
                elements[at + 1] = Value::Null;
            }
            Value::Array(elements.into_iter().map(without_id).collect())
        }
        other => other,
    }
}

fn unescaped(text: &str) -> Vec<u8> {
    let quoted = format!("\"{}\"", text.replace('"', "\\\""));
    crate::stack::resp::arguments(&quoted).concat()
}
