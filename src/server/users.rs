//! Who may connect: the password of the user `default`, and named users.

use crate::config;

/// The users of the configuration file.
pub struct Users {
    default_password: Option<String>,
    named: Vec<config::User>,
}

impl Users {
    pub fn new(auth: &config::Auth) -> Self {
        Self { default_password: auth.password.clone(), named: auth.users.clone() }
    }

    /// Whether a client has to authenticate before anything else.
    pub fn must_authenticate(&self) -> bool {
        self.default_password.is_some() || !self.named.is_empty()
    }

    pub fn default_has_password(&self) -> bool {
        self.default_password.is_some()
    }

    pub fn has(&self, name: &[u8]) -> bool {
        name == b"default" || self.named.iter().any(|user| user.name.as_bytes() == name)
    }

    /// Checks a password. As in Redis, a user `default` without a password takes any.
    pub fn check(&self, name: &[u8], password: &[u8]) -> bool {
        if name == b"default" {
            return match &self.default_password {
                Some(expected) => is_same(expected.as_bytes(), password),
                None => self.named.is_empty(),
            };
        }
        let known = self.named.iter().find(|user| user.name.as_bytes() == name);
        known.is_some_and(|user| is_same(user.password.as_bytes(), password))
    }
}

/// Compares in a time that does not tell where the first difference is.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
