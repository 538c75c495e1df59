//! From a live Redis to mappings: which families of keys there are, what they hold, and a configuration
//! file with the SQL of its tables to begin with.
//!
//! Names and values are only counted, in bounded room (see `tree` and `profile`); what they make is pure and
//! the same from run to run. A proposal is read by the reader of configuration files before anybody sees it.

mod column;
mod document;
mod family;
mod names;
mod profile;
mod proposal;
pub mod sampler;
mod segment;
#[cfg(test)]
mod tests;
mod tree;

use crate::config::{Config, Problems};
use crate::mapping::registry::{Plan, plan};
use crate::store::schema::create_statements;

use tree::Names;

pub use sampler::{SampleError, Sampling, Survey};

/// What is proposed, in all its forms.
#[derive(Debug)]
pub struct Proposal {
    /// The configuration file, TOML.
    pub config: String,
    /// The tables, SQL.
    pub schema: String,
    /// A table of all families, for people.
    pub summary: String,
    /// All of it, for programs.
    pub json: serde_json::Value,
}

/// Makes a proposal of what was seen.
///
/// # Errors
/// When the proposal is not valid, which is a defect of this module.
pub fn propose(survey: Survey, sampling: &Sampling) -> Result<Proposal, Problems> {
    let mut notes = survey.notes.clone();
    if !survey.has_all_names {
        let of = survey.expected.max(survey.keys());
        notes.push(format!("only {} of about {of} keys were seen", survey.keys()));
    } else if !survey.is_complete {
        notes.push("not all families were looked into".to_owned());
    }
    if survey.has_own_keys {
        notes.push(
            "a respgres runs on this Redis: of keys that it maps only cached copies are here"
                .to_owned(),
        );
    }
    let looked_into = survey.looked_into;
    propose_for(survey.finish(), looked_into, notes, sampling)
}

fn propose_for(
    names: Names,
    looked_into: u64,
    notes: Vec<String>,
    sampling: &Sampling,
) -> Result<Proposal, Problems> {
    let head = document::Head {
        keys: names.keys,
        looked_into,
        unnamable: names.unnamable,
        untold: names.untold,
        notes,
    };
    let (proposed, left) = proposal::decide(family::families(names));
    let config = document::config(&sampling.address, sampling.database, &head, &proposed, &left);
    let schema = read(&config)?.iter().map(create_statements).collect::<Vec<_>>().join("\n");
    Ok(Proposal {
        summary: document::summary(&head, &proposed, &left),
        json: document::json(&head, &proposed, &left, &config, &schema),
        config,
        schema,
    })
}

/// Reads a configuration as `respgres check-config` does.
fn read(text: &str) -> Result<Vec<Plan>, Problems> {
    let config = Config::from_toml(text, [])?;
    plan(&config).map_err(|problems| Problems { file: "the proposal".to_owned(), problems })
}
