//! A type under examination: what Postgres says of values and of their bytes, as SQL.

/// A column's type and format, and the values to try.
pub struct Subject {
    pub type_name: &'static str,
    pub format: Option<&'static str>,
    /// SQL, whether the text `v` is spelled in a way that the documentation names.
    pub documented: String,
    /// SQL, the value that the documentation says `v` (as bytes: `b`) has.
    pub reading: String,
    /// SQL, the bytes that a client gets of a column `c`.
    pub rendering: String,
    pub values: Vec<Vec<u8>>,
}

/// Types of the tests' own.
pub const TYPES: &str = r#"
    create type mood as enum ('sad', 'Ok', 'it''s "fine"', ' x ', 'ünï', '1', '{a,b}');
    create domain small as integer check (value < 1000);
    create domain code as varchar(8);
    create domain padded as char(4);
    create domain price as numeric(10,2) check (value <> 13);
    create domain temper as mood;
    create domain tags as text[];
    create domain nested as small;
"#;

/// The spellings of numbers that every version of Postgres reads.
pub mod spelled {
    pub const INTEGER: &str = r"v ~ '^\s*[-+]?\d+\s*$'";
    pub const NUMERIC: &str =
        r"v ~* '^\s*([-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?inf(inity)?|nan)\s*$'";
    pub const TIME: &str = r"v ~* '^\s*\d{1,2}:\d{1,2}(:\d{1,2}(\.\d*)?)?\s*(z|utc|gmt|[-+](\d{1,4}|\d{1,2}(:\d{1,2}){1,2}))?\s*$'";
    pub const MACADDR: &str = r"v ~* '^\s*([0-9a-f]{1,8}(:[0-9a-f]{1,8}){5}|[0-9a-f]{1,8}(-[0-9a-f]{1,8}){5}|[0-9a-f]{6}[-:]?[0-9a-f]{6}|[0-9a-f]{4}([-.])[0-9a-f]{4}\4[0-9a-f]{4})\s*$'";
    pub const CIDR: &str = "v !~* '^0x'";
    /// Dates and times, and years with a sign, which Postgres does not read.
    pub const MOMENT: &str = r"v ~* '^\s*(epoch|-?infinity|(\d{4,7}|[-+]\d{6}(?!.*[ab]))-\d{1,2}-\d{1,2}(((t\s*|\s+)\d{1,2}:\d{1,2}(:\d{1,2}(\.\d*)?)?\s*|(?=[+z])|\s+)(z|utc|gmt|[-+](\d{1,4}|\d{1,2}(:\d{1,2}){1,2}))?)?((\s+|(?<![a-z]))(bc|ad))?)\s*$'";
}

// === impl Subject ===

impl Subject {
    pub fn new(type_name: &'static str, values: Vec<Vec<u8>>) -> Self {
        Self {
            type_name,
            format: None,
            documented: "true".into(),
            reading: "v".into(),
            rendering: "convert_to(c::text, 'UTF8')".into(),
            values,
        }
    }

    pub fn format(mut self, format: &'static str) -> Self {
        self.format = Some(format);
        self
    }

    pub fn documented(mut self, condition: &str) -> Self {
        self.documented = condition.into();
        self
    }

    pub fn reading(mut self, expression: &str) -> Self {
        self.reading = expression.into();
        self
    }

    /// `text`: SQL for the text that a client gets.
    pub fn rendering(mut self, text: &str) -> Self {
        self.rendering = format!("convert_to({text}, 'UTF8')");
        self
    }

    /// For messages.
    pub fn name(&self) -> String {
        match self.format {
            Some(format) => format!("{} as {format}", self.type_name),
            None => self.type_name.to_owned(),
        }
    }
}
