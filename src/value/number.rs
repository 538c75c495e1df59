//! Redis' number grammar.
