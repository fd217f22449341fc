//! Keys of the file of other gateways of this protocol that this one does not support: told, and passed over.

use serde_json::{Map, Value};

use super::path::{KeyPath, Step};

/// By the section that has them; `""` is the top of the file. A row of `docs/config.md` each.
pub const UNSUPPORTED: [(&str, &[&str]); 12] = [
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
    ("gateway", &["bind", "mode", "nodes", "remote", "roles", "tls", "tools", "trustedProxies"]),
    ("gateway.auth", &["allowTailscale", "rateLimit", "trustedProxy"]),
    ("gateway.http", &["securityHeaders"]),
    ("gateway.http.endpoints", &["responses"]),
    (
        "gateway.http.endpoints.chatCompletions",
        &["images", "maxBodyBytes", "maxImageParts", "maxTotalImageBytes"],
    ),
    ("gateway.controlUi", &["allowInsecureAuth", "basePath", "enabled", "root"]),
    ("gateway.reload", &["deferralTimeoutMs"]),
    (
        "logging",
        &["consoleLevel", "consoleStyle", "file", "maxFileBytes", "redactPatterns", "redactSensitive"],
    ),
    ("skills", &["allowBundled", "install", "limits", "load"]),
    (SKILL_ENTRY, &["apiKey", "config", "enabled", "env"]),
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

/// Where a skill is described.
const SKILL_ENTRY: &str = "skills.entries.<name>";

/// Whether a key is one that others have and this gateway does not support.
pub fn is_unsupported(path: &KeyPath) -> bool {
    let Some((Step::Key(name), section)) = path.0.split_last() else { return false };
    let section =
        if is_skill(section) { SKILL_ENTRY.to_owned() } else { KeyPath(section.to_vec()).to_string() };
    UNSUPPORTED.iter().any(|(of, names)| *of == section && names.contains(&name.as_str()))
}

/// Whether the value at a path tells other gateways about a skill of theirs: here a skill is a command, and that one has
/// none.
pub fn is_skill_of_others(path: &KeyPath, fields: &Map<String, Value>) -> bool {
    is_skill(&path.0) && fields.keys().all(|name| is_unsupported(&path.key(name)))
}

fn is_skill(path: &[Step]) -> bool {
    let [Step::Key(skills), Step::Key(entries), Step::Key(_)] = path else { return false };
    (skills.as_str(), entries.as_str()) == ("skills", "entries")
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
