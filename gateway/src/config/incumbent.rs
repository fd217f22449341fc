//! Keys of the file of other gateways of this protocol that this one does not support: told, and passed over.

use super::path::{KeyPath, Step};

/// By the section that has them; `""` is the top of the file. A row of `docs/config.md` each.
pub const UNSUPPORTED: [(&str, &[&str]); 9] = [
    (
        "",
        &[
            "acp",
            "approvals",
            "audit",
            "auth",
            "bindings",
            "broadcast",
            "browser",
            "channels",
            "cloudWorkers",
            "commands",
            "cron",
            "desktop",
            "diagnostics",
            "discovery",
            "env",
            "hooks",
            "logging",
            "mcp",
            "memory",
            "messages",
            "meta",
            "models",
            "plugins",
            "secrets",
            "security",
            "session",
            "talk",
            "telemetry",
            "tools",
            "tts",
            "ui",
            "update",
            "wizard",
        ],
    ),
    ("gateway", &["bind", "mode", "nodes", "reload", "remote", "roles", "tls", "tools", "trustedProxies"]),
    ("gateway.auth", &["allowTailscale", "rateLimit", "trustedProxy"]),
    ("gateway.http", &["securityHeaders"]),
    ("gateway.http.endpoints", &["responses"]),
    (
        "gateway.http.endpoints.chatCompletions",
        &["images", "maxBodyBytes", "maxImageParts", "maxTotalImageBytes"],
    ),
    ("gateway.controlUi", &["allowInsecureAuth", "basePath", "enabled", "root"]),
    ("skills", &["allowBundled", "install", "limits", "load"]),
    (
        "agents.defaults",
        &[
            "compaction",
            "heartbeat",
            "maxConcurrent",
            "mediaMaxMb",
            "model",
            "skipBootstrap",
            "timeoutSeconds",
            "workspace",
        ],
    ),
];

/// Whether a key is one that others have and this gateway does not support.
pub fn is_unsupported(path: &KeyPath) -> bool {
    let Some((Step::Key(name), section)) = path.0.split_last() else { return false };
    let section = KeyPath(section.to_vec()).to_string();
    UNSUPPORTED.iter().any(|(of, names)| *of == section && names.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the document lists exactly these keys.
    #[test]
    fn unsupported_keys_are_documented() {
        let document = include_str!("../../../docs/config.md");
        let rows = document.lines().skip_while(|line| *line != "| section | keys |").skip(2);
        let documented: Vec<(String, Vec<String>)> = rows
            .take_while(|line| line.starts_with('|'))
            .map(|line| {
                let (section, keys) = line.trim_matches('|').split_once(" | ").unwrap();
                let section = section.trim().trim_matches('`').trim_start_matches("top").to_owned();
                (section, keys.split(',').map(|key| key.trim().trim_matches('`').to_owned()).collect())
            })
            .collect();
        let known: Vec<(String, Vec<String>)> = UNSUPPORTED
            .iter()
            .map(|(section, keys)| ((*section).to_owned(), keys.iter().map(ToString::to_string).collect()))
            .collect();
        assert_eq!(documented, known);
    }
}
