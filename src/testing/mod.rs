//! What tests of several modules share.

#[allow(dead_code, unused_imports, reason = "each binary that includes it uses a part of it")]
pub(crate) mod server;

// Beside what it tests, and outside of what the end-to-end tests include.
#[path = "server/tests.rs"]
mod server_tests;
