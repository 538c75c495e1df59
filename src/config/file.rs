//! Reading the file and the environment by the table of settings.
//!
//! Reading does not stop at the first problem: what cannot be read keeps its default, and the
//! problem is noted with its path, so that one run tells all of them.

use toml::de::{DeTable, DeValue};

use super::quantity::{duration_ms, size_bytes};
use super::settings::{COLUMN, MAPPING, Presence, SECTIONS, Section, Setting, Slot, USER};
use super::spelling::advice;
use super::{Config, FieldColumn, Kind, Mapping, OnExpire, Problem, User};

/// What the names of environment variables that override settings begin with.
pub(super) const ENVIRONMENT_PREFIX: &str = "RESPGRES__";

/// What has been read, problems or not.
pub(super) struct Reading {
    pub(super) config: Config,
    pub(super) problems: Vec<Problem>,
    /// The paths that the file or the environment say something about.
    pub(super) said: Vec<String>,
}

// === impl Reading ===

impl Reading {
    /// Reads the text of a file, then the overrides among the variables of the environment.
    pub(super) fn new(text: &str, environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut reading =
            Self { config: Config::default(), problems: Vec::new(), said: Vec::new() };
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = error.span().map(|span| {
                let before = text.get(..span.start).unwrap_or(text);
                1 + before.bytes().filter(|&byte| byte == b'\n').count()
            });
            let path = line.map_or_else(String::new, |line| format!("line {line}"));
            reading.problems.push(Problem::new(path, error.message().replace('\n', ", ")));
        }
        let document = errors.is_empty().then(|| document.get_ref());
        if let Some(document) = document {
            reading.sections(document);
        }
        reading.environment(environment);
        // Mappings start from [defaults], wherever that stands, and from the environment's.
        if let Some(document) = document {
            reading.mappings(document);
        }
        reading
    }

    fn sections(&mut self, document: &DeTable<'_>) {
        for (name, value) in in_order(document).filter(|(name, _)| *name != "mapping") {
            match SECTIONS.iter().find(|section| section.name == name) {
                Some(section) => self.section(section, value),
                None => {
                    let names: Vec<_> = SECTIONS.iter().map(|section| section.name).collect();
                    let known = [&names[..], &["mapping"]].concat();
                    let text = format!("there is no such section; {}", advice(name, &known));
                    self.complain(&step("", name), text);
                }
            }
        }
    }

    fn mappings(&mut self, document: &DeTable<'_>) {
        for (name, value) in in_order(document).filter(|(name, _)| *name == "mapping") {
            self.tables(name, value, |reading, index, table| {
                let mapping = reading.mapping(index, table);
                reading.config.mappings.push(mapping);
            });
        }
    }

    fn section(&mut self, section: &Section, value: &DeValue<'_>) {
        let Some(table) = value.as_table() else {
            self.expected(section.name, "a section", value, &format!("[{}]", section.name));
            return;
        };
        // `auth.user` is a list of tables, and no setting.
        let users = |name: &str| section.name == "auth" && name == "user";
        let mut config = std::mem::replace(&mut self.config, Config::blank());
        self.settings(section.settings, table, section.name, &mut config, users);
        self.config = config;
        for (_, value) in in_order(table).filter(|(name, _)| users(name)) {
            self.tables("auth.user", value, |reading, index, table| {
                let path = format!("auth.user[{index}]");
                let mut user = User { name: String::new(), password: String::new() };
                reading.settings(USER, table, &path, &mut user, |_| false);
                reading.config.auth.users.push(user);
            });
        }
    }

    fn mapping(&mut self, index: usize, table: &DeTable<'_>) -> Mapping {
        let mut mapping = Mapping {
            name: String::new(),
            key: String::new(),
            exclude: Vec::new(),
            kind: Kind::Hash,
            table: String::new(),
            strategy: self.config.defaults.strategy,
            cache_ttl_ms: self.config.defaults.cache_ttl_ms,
            negative_ttl_ms: self.config.defaults.negative_ttl_ms,
            on_postgres_down: self.config.defaults.on_postgres_down,
            expires_at: None,
            on_expire: OnExpire::Delete,
            extra: None,
            key_columns: Default::default(),
            columns: Vec::new(),
            element: None,
            value: None,
        };
        let name = table.get("name").and_then(|name| name.get_ref().as_str());
        let path = match name {
            Some(name) => format!("mapping[{index}] {name:?}"),
            None => format!("mapping[{index}]"),
        };
        self.settings(MAPPING, table, &path, &mut mapping, |_| false);
        mapping
    }

    /// Each table of `[[path]]`, with its place.
    fn tables(
        &mut self,
        path: &str,
        value: &DeValue<'_>,
        mut read: impl FnMut(&mut Self, usize, &DeTable<'_>),
    ) {
        let Some(values) = value.as_array() else {
            self.expected(path, "tables", value, &format!("[[{path}]], with two brackets"));
            return;
        };
        for (index, value) in values.iter().enumerate() {
            match value.get_ref().as_table() {
                Some(table) => read(self, index, table),
                None => {
                    let path = format!("{path}[{index}]");
                    self.expected(&path, "a table", value.get_ref(), "one like the others");
                }
            }
        }
    }

    /// Reads a table by its rows; `skip` names what somebody else reads.
    fn settings<T>(
        &mut self,
        settings: &[Setting<T>],
        table: &DeTable<'_>,
        path: &str,
        target: &mut T,
        skip: impl Fn(&str) -> bool,
    ) {
        for (name, value) in in_order(table).filter(|(name, _)| !skip(name)) {
            let path = step(path, name);
            match settings.iter().find(|setting| setting.name == name) {
                Some(setting) => {
                    self.setting(setting, value, &path, target);
                    self.said.push(path);
                }
                None => {
                    let known: Vec<_> = available(settings).map(|setting| setting.name).collect();
                    self.complain(
                        &path,
                        format!("there is no such setting; {}", advice(name, &known)),
                    );
                }
            }
        }
        for setting in settings {
            if let Presence::Required(example) = setting.presence
                && !table.contains_key(setting.name)
            {
                let text = format!("is missing; write {} = {example}", setting.name);
                self.complain(&step(path, setting.name), text);
            }
        }
    }

    fn setting<T>(
        &mut self,
        setting: &Setting<T>,
        value: &DeValue<'_>,
        path: &str,
        target: &mut T,
    ) {
        if let Presence::NotYet(why) = setting.presence {
            return self.complain(path, why);
        }
        let (expected, example) = match &setting.slot {
            Slot::Text(set) => match value.as_str() {
                Some(text) => return self.note(path, set(target, text)),
                None => ("a text in quotes", String::new()),
            },
            Slot::Number(bounds, set) => match number(value) {
                Some(number) => {
                    return self
                        .note(path, in_bounds(number, bounds).map(|number| set(target, number)));
                }
                None => ("a whole number", String::new()),
            },
            Slot::Share(set) => match share(value) {
                Some(share) => return self.note(path, share.map(|share| set(target, share))),
                None => ("a number from 0 to 1", "0.01".to_owned()),
            },
            Slot::Size(set) => match (number(value), value.as_str()) {
                (Some(bytes), _) => return self.note(path, size(bytes).map(|v| set(target, v))),
                (_, Some(text)) => {
                    let bytes = size_bytes(text).and_then(|bytes| size(bytes.into()));
                    return self.note(path, bytes.map(|bytes| set(target, bytes)));
                }
                _ => ("a size", "bytes, or \"512mb\"".to_owned()),
            },
            Slot::Duration(set) => match (number(value), value.as_str()) {
                (Some(number), _) => {
                    let text = format!("a duration needs its unit: \"{number}ms\", \"{number}s\"");
                    return self.complain(path, text);
                }
                (_, Some(text)) => {
                    return self.note(path, duration_ms(text).map(|ms| set(target, ms)));
                }
                _ => ("a duration in quotes", "\"500ms\", \"1.5s\" or \"24h\"".to_owned()),
            },
            Slot::Flag(set) => match value.as_bool() {
                Some(flag) => return set(target, flag),
                None => ("true or false", String::new()),
            },
            Slot::Texts(set) => match value.as_array() {
                Some(values) => {
                    for (index, value) in values.iter().enumerate() {
                        let path = format!("{path}[{index}]");
                        match value.get_ref().as_str() {
                            Some(text) => self.note(&path, set(target, text)),
                            None => self.expected(&path, "a text in quotes", value.get_ref(), ""),
                        }
                    }
                    return;
                }
                None => ("a list of texts", "[\"…\", \"…\"]".to_owned()),
            },
            Slot::Names(set) => match value.as_table() {
                Some(names) => {
                    for (name, value) in in_order(names) {
                        let path = step(path, name);
                        match value.as_str() {
                            Some(text) => self.note(&path, set(target, name, text)),
                            None => self.expected(&path, "a text in quotes", value, ""),
                        }
                    }
                    return;
                }
                None => ("a table", "{ capture = \"column\" }".to_owned()),
            },
            Slot::Column(set) => {
                if let Some(column) = self.column(setting.name, value, path)
                    && let Err(text) = set(target, column)
                {
                    self.complain(path, text);
                }
                return;
            }
            Slot::Columns(set) => match value.as_table() {
                Some(columns) => {
                    for (field, value) in in_order(columns) {
                        let path = step(path, field);
                        if let Some(column) = self.column(field, value, &path) {
                            set(target, column);
                        }
                    }
                    return;
                }
                None => ("a table", "[mapping.columns]".to_owned()),
            },
        };
        self.expected(path, expected, value, &example);
    }

    fn column(&mut self, field: &str, value: &DeValue<'_>, path: &str) -> Option<FieldColumn> {
        let mut column = FieldColumn {
            field: field.to_owned(),
            column: String::new(),
            format: None,
            column_type: None,
        };
        if let Some(table) = value.as_table() {
            self.settings(COLUMN, table, path, &mut column, |_| false);
        } else if value.as_str().is_some() {
            self.setting(&COLUMN[0], value, path, &mut column);
        } else {
            self.expected(path, "a column", value, "\"column\", or { column = \"column\" }");
        }
        (!column.column.is_empty()).then_some(column)
    }

    /// Applies `RESPGRES__SECTION__NAME` to the setting `section.name`.
    fn environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) {
        let mut overrides: Vec<_> = environment
            .into_iter()
            .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
            .collect();
        overrides.sort();
        for (variable, value) in overrides {
            let known = SECTIONS
                .iter()
                .flat_map(|section| section.settings.iter().map(move |setting| (section, setting)));
            let found = known.clone().find(|(section, setting)| {
                environment_name(section.name, setting.name) == variable
            });
            let Some((section, setting)) = found else {
                let names: Vec<_> = known
                    .map(|(section, setting)| environment_name(section.name, setting.name))
                    .collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let text =
                    format!("there is no setting for this variable; {}", advice(&variable, &names));
                self.complain(&variable, text);
                continue;
            };
            let number = value.parse::<u64>().map(|number| number.to_string());
            let value = match (&setting.slot, &number, value.parse()) {
                (Slot::Flag(_), _, Ok(flag)) => DeValue::Boolean(flag),
                (Slot::Share(_), ..) => match DeValue::parse(&value) {
                    Ok(value) => value.into_inner(),
                    Err(_) => DeValue::String(value.as_str().into()),
                },
                (Slot::Text(_), ..) | (_, Err(_), _) => DeValue::String(value.into()),
                (_, Ok(number), _) => {
                    DeValue::parse(number).expect("a number is TOML").into_inner()
                }
            };
            let mut config = std::mem::replace(&mut self.config, Config::blank());
            self.setting(setting, &value, &variable, &mut config);
            self.config = config;
            self.said.push(format!("{}.{}", section.name, setting.name));
        }
    }

    fn note(&mut self, path: &str, result: Result<(), String>) {
        if let Err(text) = result {
            self.complain(path, text);
        }
    }

    fn complain(&mut self, path: &str, text: impl Into<String>) {
        self.problems.push(Problem::new(path, text));
    }

    /// Says what is expected in place of a value, which may be a secret and is not repeated.
    fn expected(&mut self, path: &str, expected: &str, value: &DeValue<'_>, example: &str) {
        let found = match value {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let advice = if example.is_empty() { "" } else { "; write " };
        self.complain(path, format!("expected {expected}, found {found}{advice}{example}"));
    }
}

/// The settings that can be used.
pub(super) fn available<T>(settings: &[Setting<T>]) -> impl Iterator<Item = &Setting<T>> {
    settings.iter().filter(|setting| !matches!(setting.presence, Presence::NotYet(_)))
}

/// The variable that overrides `section.name`.
pub(super) fn environment_name(section: &str, name: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{section}__{name}").to_ascii_uppercase()
}

/// Reads one default of the table.
pub(super) fn apply_default(setting: &Setting<Config>, config: &mut Config) {
    let Presence::Default(text) = setting.presence else { return };
    let value = DeValue::parse(text).expect("the table's defaults are TOML");
    let mut reading = Reading { config: Config::blank(), problems: Vec::new(), said: Vec::new() };
    reading.setting(setting, value.get_ref(), setting.name, config);
    debug_assert_eq!(reading.problems, []);
}

/// A table's entries in the order of the file.
fn in_order<'a>(
    table: &'a DeTable<'_>,
) -> impl Iterator<Item = (&'a str, &'a DeValue<'a>)> + use<'a> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries.into_iter().map(|(name, value)| (name.get_ref().as_ref(), value.get_ref()))
}

/// A path one step longer; names that TOML wants quoted are quoted.
pub(super) fn step(path: &str, name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    let name = if !name.is_empty() && name.bytes().all(is_bare) {
        name.to_owned()
    } else {
        format!("{name:?}")
    };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

fn number(value: &DeValue<'_>) -> Option<i128> {
    let integer = value.as_integer()?;
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn in_bounds(number: i128, bounds: &std::ops::RangeInclusive<u64>) -> Result<u64, String> {
    let number = u64::try_from(number).ok().filter(|number| bounds.contains(number));
    number.ok_or_else(|| format!("must be from {} to {}", bounds.start(), bounds.end()))
}

/// `Err`: it is a number, and none of a share.
fn share(value: &DeValue<'_>) -> Option<Result<f64, String>> {
    let text = match (value.as_float(), value.as_integer()) {
        (Some(number), _) => number.as_str(),
        (_, Some(number)) => number.as_str(),
        _ => return None,
    };
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    Some(share.ok_or_else(|| "must be from 0 to 1".to_owned()))
}

fn size(bytes: i128) -> Result<usize, String> {
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "must be at least 1 byte, and no more than memory can be".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::{Flush, LogFormat, Strategy};
    use super::*;

    fn read(text: &str) -> Config {
        Config::from_toml(text, []).unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// Asserts the whole complaint about a file.
    fn check(text: &str, expected: &str) {
        check_with(text, &[], expected);
    }

    fn check_with(text: &str, environment: &[(&str, &str)], expected: &str) {
        let environment = environment.iter().map(|(name, v)| (name.to_string(), v.to_string()));
        let complaint = match Config::from_toml(text, environment) {
            Ok(_) => "nothing is wrong".to_owned(),
            Err(problems) => problems.to_string(),
        };
        let lines = |text: &str| {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(lines(&complaint), lines(expected));
    }

    #[test]
    fn an_empty_file_says_the_defaults() {
        let config = read("");
        assert_eq!(config.server.listen, "127.0.0.1:6380");
        assert_eq!(config.server.threads, 0);
        assert_eq!(config.server.max_clients, 10_000);
        assert!(config.auth.password.is_none() && config.auth.users.is_empty());
        assert_eq!(config.limits.max_argument_bytes, 512 << 20);
        assert_eq!(config.limits.max_request_bytes, 1 << 30);
        assert_eq!(config.limits.client_backlog_bytes, 1 << 20);
        assert_eq!(config.limits.client_backlog_max_bytes, 256 << 20);
        assert_eq!(config.limits.client_requests, 8192);
        assert_eq!(config.upstream.url, "redis://127.0.0.1:6379");
        assert_eq!(config.upstream.database, 0);
        assert_eq!(config.upstream.connect_timeout_ms, 1000);
        assert_eq!(config.upstream.request_timeout_ms, 5000);
        assert_eq!(config.upstream.silence_timeout_ms, 10_000);
        assert_eq!(config.upstream.reconnect_min_ms, 50);
        assert_eq!(config.upstream.reconnect_max_ms, 2000);
        assert_eq!(config.upstream.flush, Flush::Refuse);
        assert!(!config.upstream.admin_commands);
        assert_eq!(config.postgres.url, "postgres://localhost/respgres");
        assert_eq!((config.postgres.writers, config.postgres.readers), (1, 2));
        assert_eq!((config.postgres.streams, config.postgres.stream_timeout_ms), (4, 60_000));
        assert_eq!(config.postgres.batch_operations, 1000);
        assert_eq!(config.postgres.connect_timeout_ms, 3000);
        assert_eq!(config.postgres.statement_timeout_ms, 5000);
        assert_eq!(config.log.format, LogFormat::Text);
        assert_eq!(config.log.level, "info");
        assert_eq!(config.defaults.strategy, Strategy::DualWrite);
        assert_eq!(config.defaults.cache_ttl_ms, 86_400_000);
        assert_eq!(config.defaults.negative_ttl_ms, 5000);
        assert_eq!(config.defaults.lease_ms, 10_000);
        assert_eq!(config.defaults.cache_max_elements, 10_000);
        assert!(config.defaults.verify_hits.abs() < f64::EPSILON);
        assert!(config.mappings.is_empty());
    }

    #[test]
    fn a_share_is_a_number_from_0_to_1() {
        for (text, expected) in [("0.25", 0.25), ("1", 1.0), ("0", 0.0), ("1e-3", 0.001)] {
            let share = read(&format!("[defaults]\nverify_hits = {text}")).defaults.verify_hits;
            assert!((share - expected).abs() < 1e-12, "{text}: {share}");
            let environment = [("RESPGRES__DEFAULTS__VERIFY_HITS".to_owned(), text.to_owned())];
            let share = Config::from_toml("", environment).unwrap().defaults.verify_hits;
            assert!((share - expected).abs() < 1e-12, "{text}: {share}");
        }
        for text in ["1.01", "-0.1", "nan", "inf", "2"] {
            let expected = "respgres.toml is not valid:\ndefaults.verify_hits: must be from 0 to 1";
            check(&format!("[defaults]\nverify_hits = {text}"), expected);
        }
        check_with(
            "",
            &[("RESPGRES__DEFAULTS__VERIFY_HITS", ".5%")],
            "respgres.toml is not valid:
            RESPGRES__DEFAULTS__VERIFY_HITS: expected a number from 0 to 1, found a text; write 0.01",
        );
    }

    #[test]
    fn a_mapping_is_read_in_the_order_of_the_file() {
        let config = read(
            r#"
            [[mapping]]
            name = "api_keys"
            key = "apikey:{id:uuid}"
            exclude = ["apikey:x*", "apikey:y*"]
            kind = "hash"
            table = "app.api_keys"
            strategy = "postgres_only"
            expires_at = "key_expires_at"
            extra = "extra"
            key_columns = { id = "key_id" }
            [mapping.columns]
            tokenLimit = { column = "token_limit", type = "bigint" }
            name = "name"
            "a b:c" = "odd"
            isActive = { column = "is_active", format = "yes/no", type = "boolean" }
            [[mapping]]
            name = "groups"
            key = "group:{id:text}"
            table = "groups"
            extra = "extra"
            cache_ttl = "1m"
            [defaults]
            strategy = "redis_only"
            cache_ttl = "2s"
            [postgres]
            url = "postgres://h/d"
            "#,
        );
        let [keys, groups] = &config.mappings[..] else { panic!("{config:?}") };
        assert_eq!(keys.name, "api_keys");
        assert_eq!(keys.key, "apikey:{id:uuid}");
        assert_eq!(keys.exclude, ["apikey:x*", "apikey:y*"]);
        assert_eq!(keys.table, "app.api_keys");
        assert_eq!((keys.strategy, keys.cache_ttl_ms), (Strategy::PostgresOnly, 2000));
        assert_eq!(keys.expires_at.as_deref(), Some("key_expires_at"));
        assert_eq!(keys.extra.as_deref(), Some("extra"));
        assert_eq!(keys.key_columns["id"], "key_id");
        let columns: Vec<_> = keys
            .columns
            .iter()
            .map(|c| (&*c.field, &*c.column, c.format.as_deref(), c.column_type.as_deref()))
            .collect();
        assert_eq!(
            columns,
            [
                ("tokenLimit", "token_limit", None, Some("bigint")),
                ("name", "name", None, None),
                ("a b:c", "odd", None, None),
                ("isActive", "is_active", Some("yes/no"), Some("boolean")),
            ]
        );
        assert_eq!((groups.strategy, groups.cache_ttl_ms), (Strategy::RedisOnly, 60_000));
        assert_eq!(groups.kind, Kind::Hash);
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        check(
            r#"
            sever = 1
            [server]
            lisen = "127.0.0.1:6380"
            listen = "6380"
            threads = "two"
            max_clients = 0
            [limits]
            max_argument_bytes = "2tb"
            client_backlog_bytes = 0
            client_backlog_max_bytes = 1.5
            [upstream]
            url = "rediss://u:hunter2@cache"
            database = -1
            connect_timeout = 3000
            request_timeout = "5"
            reconnect_min = "3s"
            flush = "never"
            [log]
            level = "inof"
            format = "jsn"
            [defaults]
            strategy = "dualwrite"
            "#,
            r#"
            respgres.toml is not valid:
              sever: there is no such section; did you mean "server"?
              server.lisen: there is no such setting; did you mean "listen"?
              server.listen: "6380" is not host:port; write "127.0.0.1:6380", "[::1]:6380", or "0.0.0.0:6380" for all addresses
              server.threads: expected a whole number, found a text
              server.max_clients: must be from 1 to 1000000
              limits.max_argument_bytes: "2tb" is not a size; write bytes, or a number and its unit (kb, mb, gb), such as "512mb"
              limits.client_backlog_bytes: must be at least 1 byte, and no more than memory can be
              limits.client_backlog_max_bytes: expected a size, found a number with a point; write bytes, or "512mb"
              upstream.url: TLS to the upstream (rediss://) is not available yet; write redis://, and let a tunnel on this host encrypt what leaves it
              upstream.database: must be from 0 to 65535
              upstream.connect_timeout: a duration needs its unit: "3000ms", "3000s"
              upstream.request_timeout: a duration needs its unit: "5ms", "5s"
              upstream.flush: there is no word "never"; there are: refuse, cache, truncate
              log.level: there is no level "inof"; did you mean "info"?
              log.format: there is no format "jsn"; did you mean "json"?
              defaults.strategy: there is no strategy "dualwrite"; did you mean "dual_write"?
              upstream.reconnect_min: is more than upstream.reconnect_max, up to which the pauses grow
            "#,
        );
    }

    #[test]
    fn what_is_wrong_with_mappings_is_told_at_once() {
        check(
            r#"
            [[mapping]]
            name = "api keys"
            keys = "apikey:{id:uuid}"
            table = "api-keys"
            strategy = "write_behind"
            on_expire = "leave"
            exclude = ["", 5]
            key_columns = { id = 5, name = "a b" }
            [mapping.columns]
            name = "name"
            isActive = { column = "name", format = "TRUE" }
            tokenLimit = { colum = "token_limit" }
            claudeAiOauth = { column = "oauth", encrypt = "field-key-1" }
            createdAt = { column = "created_at", format = "a/a", type = "text; drop table x" }
            number = 5
            [[mapping]]
            name = "groups"
            key = "g:{id:text}"
            table = "respgres.expiry"
            cache_ttl = "0s"
            [[mapping]]
            name = "groups"
            key = "h:{id:text}"
            table = "groups"
            extra = "extra"
            expires_at = "extra"
            [mapping.columns]
            a = { column = "a", format = "epoch-ms", type = "boolean" }
            b = { column = "b", format = "1/0", type = "timestamptz" }
            c = { column = "c", format = "1/0", type = "bigint" }
            "#,
            r#"
            respgres.toml is not valid:
              mapping[0] "api keys".name: "api keys" is not a mapping's name; use letters, digits, '_', '-' and '.', at most 63
              mapping[0] "api keys".keys: there is no such setting; did you mean "key"?
              mapping[0] "api keys".table: "api-keys" is not a table's name; use letters, digits, '_' and '$', a letter or '_' first, at most 63 bytes
              mapping[0] "api keys".strategy: there is no strategy "write_behind"; there are: dual_write, cache_first, database_first, redis_only, postgres_only
              mapping[0] "api keys".on_expire: there is no word "leave"; there are: delete, keep
              mapping[0] "api keys".exclude[0]: is empty; say something, or remove it
              mapping[0] "api keys".exclude[1]: expected a text in quotes, found a number
              mapping[0] "api keys".key_columns.id: expected a text in quotes, found a number
              mapping[0] "api keys".key_columns.name: "a b" is not a column's name; use letters, digits, '_' and '$', a letter or '_' first, at most 63 bytes
              mapping[0] "api keys".columns.isActive.format: there is no format "TRUE"; there are: iso8601-ms, iso8601, epoch-s, epoch-ms, postgres, and for booleans any "a/b"
              mapping[0] "api keys".columns.tokenLimit.colum: there is no such setting; did you mean "column"?
              mapping[0] "api keys".columns.tokenLimit.column: is missing; write column = "is_active"
              mapping[0] "api keys".columns.claudeAiOauth.encrypt: not available yet; remove it, and let the application encrypt the value
              mapping[0] "api keys".columns.createdAt.format: "a/a" spells true and false alike; write two different words
              mapping[0] "api keys".columns.createdAt.type: "text; drop table x" is not a type; write "bigint", "timestamptz", "text"
              mapping[0] "api keys".columns.number: expected a column, found a number; write "column", or { column = "column" }
              mapping[0] "api keys".key: is missing; write key = "apikey:{id:uuid}"
              mapping[1] "groups".table: the schema "respgres" holds respgres' own tables; use another one
              mapping[1] "groups".cache_ttl: "0s" is not longer than nothing; write a number and its unit (ms, s, m, h, d), such as "500ms", "1.5s" or "24h"
              postgres.url: is missing, and mappings need it; write url = "postgres://user:password@host:port/database"
              mapping[0] "api keys".columns.isActive: columns.name has the column "name" already; give each its own
              mapping[1] "groups".columns: there is no column that a field could go to; write some, or extra = "extra"
              mapping[2] "groups".name: mapping[1] has the same name; give each its own
              mapping[2] "groups".extra: expires_at has the column "extra" already; give each its own
              mapping[2] "groups".columns.a.format: the format "epoch-ms" is none of the type "boolean"; booleans are spelled "true/false", "1/0", any "a/b"
              mapping[2] "groups".columns.b.format: the format "1/0" is none of the type "timestamptz"; timestamps have iso8601-ms, iso8601, epoch-s, epoch-ms, postgres
              mapping[2] "groups".columns.c.format: the format "1/0" is none of the type "bigint"; only booleans and timestamps have formats; remove it
            "#,
        );
    }

    #[test]
    fn each_kind_has_settings_of_its_own() {
        check(
            r#"
            [postgres]
            url = "postgres://h/d"
            [[mapping]]
            name = "a"
            key = "a:{id:text}"
            table = "a"
            kind = "set"
            field = "field"
            expires_at = "gone_at"
            [[mapping]]
            name = "b"
            key = "b:{id:text}"
            table = "b"
            kind = "hash_entries"
            columns = { a = "a" }
            field = "value"
            [[mapping]]
            name = "c"
            key = "c:{id:text}"
            table = "c"
            kind = "set"
            field = "field"
            member = "member"
            [[mapping]]
            name = "d"
            key = "d:{id:text}"
            table = "d"
            kind = "hash_entries"
            field = { column = "x", format = "1/0", type = "text" }
            value = "x"
            "#,
            r#"
            respgres.toml is not valid:
              mapping[2] "c".member: "field" is there already, and a mapping has one of them; remove one
              mapping[0] "a".expires_at: means nothing for the kind "set", which has member; remove it, or choose another kind
              mapping[0] "a".field: means nothing for the kind "set", which has member; remove it, or choose another kind
              mapping[0] "a".member: is missing, and the kind "set" needs it; write member = "member"
              mapping[1] "b".columns: means nothing for the kind "hash_entries", which has field, value, extra; remove it, or choose another kind
              mapping[1] "b".value: is missing, and the kind "hash_entries" needs it; write value = "value"
              mapping[2] "c".field: means nothing for the kind "set", which has member; remove it, or choose another kind
              mapping[3] "d".value: field has the column "x" already; give each its own
              mapping[3] "d".field.format: the format "1/0" is none of the type "text"; only booleans and timestamps have formats; remove it
            "#,
        );
    }

    #[test]
    fn users_and_passwords_are_read_and_never_shown() {
        let text = r#"
            [auth]
            password = "hunter2"
            [[auth.user]]
            name = "ann"
            password = "hunter3"
            [upstream]
            url = "redis://:hunter4@cache"
            [postgres]
            url = "postgres://u:hunter5@h/d?password=hunter6"
        "#;
        let config = read(text);
        assert_eq!(config.auth.password.as_deref(), Some("hunter2"));
        assert_eq!(config.auth.users[0].password, "hunter3");
        let shown = format!("{config:?}");
        assert!(shown.contains("ann") && !shown.contains("hunter"), "{shown}");
        check(
            r#"
            [auth]
            password = ""
            user = { name = "ann" }
            "#,
            r#"
            respgres.toml is not valid:
              auth.password: is empty; say something, or remove it
              auth.user: expected tables, found a table; write [[auth.user]], with two brackets
            "#,
        );
        check(
            r#"
            [auth]
            password = "hunter2"
            [[auth.user]]
            name = "ann"
            [[auth.user]]
            name = "ann"
            password = "hunter3"
            [[auth.user]]
            name = "default"
            password = 5
            "#,
            r#"
            respgres.toml is not valid:
              auth.user[0].password: is missing; write password = "…"
              auth.user[2].password: expected a text in quotes, found a number
              auth.user[1].name: there is a user "ann" already; give each its own name
              auth.user[2].name: auth.password is the password of the user "default"; remove one of them
            "#,
        );
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let environment = [
            ("RESPGRES__SERVER__LISTEN", "[::1]:7000"),
            ("RESPGRES__SERVER__THREADS", "3"),
            ("RESPGRES__LIMITS__MAX_ARGUMENT_BYTES", "1mb"),
            ("RESPGRES__LIMITS__MAX_REQUEST_BYTES", "2097152"),
            ("RESPGRES__UPSTREAM__CONNECT_TIMEOUT", "250ms"),
            ("RESPGRES__POSTGRES__URL", "postgres://h/d"),
            ("RESPGRES__AUTH__PASSWORD", "123"),
            ("RESPGRES_CONFIG", "ignored"),
            ("PATH", "/bin"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let text = r#"
            [server]
            listen = "127.0.0.1:1"
            [[mapping]]
            name = "m"
            key = "m:{id:text}"
            table = "m"
            extra = "extra"
        "#;
        let config = Config::from_toml(text, environment).unwrap();
        assert_eq!(config.server.listen, "[::1]:7000");
        assert_eq!(config.server.threads, 3);
        assert_eq!(config.limits.max_argument_bytes, 1 << 20);
        assert_eq!(config.limits.max_request_bytes, 2 << 20);
        assert_eq!(config.upstream.connect_timeout_ms, 250);
        assert_eq!(config.postgres.url, "postgres://h/d");
        assert_eq!(config.auth.password.as_deref(), Some("123"));
        check_with(
            "",
            &[
                ("RESPGRES__SERVER__THREADS", "many"),
                ("RESPGRES__POSTGRES__URI", "postgres://u:hunter2@h/d"),
                ("RESPGRES__UPSTREAM__CONNECT_TIMEOUT", "250"),
            ],
            r#"
            respgres.toml is not valid:
              RESPGRES__POSTGRES__URI: there is no setting for this variable; did you mean "RESPGRES__POSTGRES__URL"?
              RESPGRES__SERVER__THREADS: expected a whole number, found a text
              RESPGRES__UPSTREAM__CONNECT_TIMEOUT: a duration needs its unit: "250ms", "250s"
            "#,
        );
    }

    #[test]
    fn what_is_true_or_false_is_nothing_else() {
        assert!(read("[upstream]\nadmin_commands = true\n").upstream.admin_commands);
        let from = |value: &str| {
            let name = "RESPGRES__UPSTREAM__ADMIN_COMMANDS".to_owned();
            Config::from_toml("[upstream]\nadmin_commands = true\n", [(name, value.to_owned())])
        };
        assert!(from("true").unwrap().upstream.admin_commands);
        assert!(!from("false").unwrap().upstream.admin_commands);
        let complaint = "RESPGRES__UPSTREAM__ADMIN_COMMANDS: expected true or false, found a";
        for (value, found) in [("yes", "text"), ("1", "number"), ("", "text")] {
            let told = from(value).unwrap_err().to_string();
            assert!(told.ends_with(&format!("{complaint} {found}")), "{told}");
        }
        check(
            "[upstream]\nadmin_commands = \"true\"\n",
            "
            respgres.toml is not valid:
              upstream.admin_commands: expected true or false, found a text
            ",
        );
    }

    #[test]
    fn what_is_not_toml_is_told_with_its_line() {
        check(
            "[server\nlisten = \"127.0.0.1:1\"\nthreads = \n",
            "
            respgres.toml is not valid:
              line 1: unclosed table, expected `]`
            ",
        );
        check(
            "[[mapping]]\nname = \"a\"\nname = \"b\"\n",
            "
            respgres.toml is not valid:
              line 3: duplicate key
            ",
        );
        check(
            "server = 5\nmapping = 5\n",
            "
            respgres.toml is not valid:
              server: expected a section, found a number; write [server]
              mapping: expected tables, found a number; write [[mapping]], with two brackets
            ",
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_told_like_any_other_problem() {
        let problems = Config::load(std::path::Path::new("/nowhere/respgres.toml")).unwrap_err();
        assert_eq!(
            problems.to_string(),
            "/nowhere/respgres.toml is not valid:\n  \
             the file cannot be read: No such file or directory (os error 2)"
        );
    }
}
