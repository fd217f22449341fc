//! stub
pub(crate) fn run(_argv: &[String], _a: impl FnOnce() -> Result<agent_sdk::Agent, super::host::HostError>) -> Result<u8, super::host::HostError> { Ok(127) }
