//! What tests of several modules share.

#[allow(dead_code, unused_imports, reason = "each binary that includes it uses a part of it")]
pub(crate) mod server;
