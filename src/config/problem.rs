//! What is wrong with a configuration file: all of it at once, each with its path and the way out.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: `server.listen`, `mapping[3] "usage".key` (mappings count from 0). Empty where it
    /// concerns the file as a whole.
    pub path: String,
    /// What is wrong, and what would be right.
    pub text: String,
}

/// All that is wrong with one file; as an error it prints one line a problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    /// The file's name, as the operator gave it.
    pub file: String,
    /// At least one, in the file's order.
    pub problems: Vec<Problem>,
}

// === impl Problem ===

impl Problem {
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.text)
        } else {
            write!(f, "{}: {}", self.path, self.text)
        }
    }
}

// === impl Problems ===

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not valid:", self.file)?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}
