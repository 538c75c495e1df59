//! The command table.
use super::Command;
/// All commands.
pub static COMMANDS: &[Command] = &[];
/// Finds a command by its name, in any case.
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name.as_bytes().eq_ignore_ascii_case(name))
}
