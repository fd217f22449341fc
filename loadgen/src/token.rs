//! The token or password that is shown to the gateway: given, or that of the configuration of a state directory.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

/// Of a gateway whose configuration does not say.
const PORT_DEFAULT: u16 = 18789;

/// What the gateway of a state directory asks for; nothing where it has no configuration, or asks for nothing. That of the
/// user's own gateway is for its port only: on another one somebody else may listen.
pub fn of_configuration(directory: Option<&Path>, port: u16) -> anyhow::Result<Option<String>> {
    match (directory, std::env::home_dir()) {
        (Some(directory), _) => of_file(&directory.join("openclaw.json"), None),
        (None, Some(home)) => of_file(&home.join(".openclaw/openclaw.json"), Some(port)),
        (None, None) => Ok(None),
    }
}

fn of_file(file: &Path, port: Option<u16>) -> anyhow::Result<Option<String>> {
    if !file.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let settings: Value =
        json5::from_str(&text).with_context(|| format!("cannot read {}", file.display()))?;
    let own_port = settings.pointer("/gateway/port").and_then(Value::as_u64).unwrap_or(PORT_DEFAULT.into());
    if port.is_some_and(|port| u64::from(port) != own_port) {
        return Ok(None);
    }
    let auth = |name: &str| Some(settings.pointer("/gateway/auth")?.get(name)?.as_str()?.to_owned());
    Ok(match auth("mode").as_deref() {
        Some("none") => None,
        Some("password") => auth("password"),
        _ => auth("token"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of the mode that counts, and none where none is asked for.
    #[test]
    fn the_mode_decides() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("openclaw.json");
        let check = |text: &str, expected: Option<&str>| {
            std::fs::write(&file, text).unwrap();
            assert_eq!(of_file(&file, None).unwrap().as_deref(), expected, "{text}");
        };
        assert_eq!(of_file(&file, None).unwrap(), None);
        check("{gateway: {auth: {token: 't', password: 'p'}}} // JSON5", Some("t"));
        check("{gateway: {auth: {mode: 'password', token: 't', password: 'p'}}}", Some("p"));
        check("{gateway: {auth: {mode: 'none'}}}", None);
        check("{}", None);
        std::fs::write(&file, "{").unwrap();
        assert!(of_file(&file, None).unwrap_err().to_string().starts_with("cannot read "));
    }

    /// On another port than the configured one nothing is shown.
    #[test]
    fn the_port_decides() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("openclaw.json");
        let check = |text: &str, port: u16, expected: Option<&str>| {
            std::fs::write(&file, text).unwrap();
            assert_eq!(of_file(&file, Some(port)).unwrap().as_deref(), expected, "{text}");
        };
        check("{gateway: {auth: {token: 't'}}}", 18789, Some("t"));
        check("{gateway: {auth: {token: 't'}}}", 18790, None);
        check("{gateway: {port: 18790, auth: {token: 't'}}}", 18790, Some("t"));
        check("{gateway: {port: 18790, auth: {token: 't'}}}", 18789, None);
    }
}
