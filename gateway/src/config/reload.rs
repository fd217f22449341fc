//! Settings of what happens when the file changes while the gateway runs.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::range;

const DEBOUNCE_DEFAULT_MS: u64 = 300;
const DEBOUNCE_MAX_MS: u64 = 60_000;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileReload {
    mode: Option<String>,
    debounce_ms: Option<u64>,
}

/// Whether changes of the file are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReloadConfig {
    /// They are, and what can count at once does.
    pub watches: bool,
    /// For how long a file must have been left alone: editors write in several steps.
    pub debounce: Duration,
}

/// What holds if the file does not say.
impl Default for ReloadConfig {
    fn default() -> Self {
        Self { watches: true, debounce: Duration::from_millis(DEBOUNCE_DEFAULT_MS) }
    }
}

pub(super) fn check(broken: &mut Vec<String>, file: &FileReload) -> ReloadConfig {
    let watches = match file.mode.as_deref() {
        // What the incumbent calls hybrid restarts itself for the rest, which this gateway never does unasked.
        None | Some("hybrid" | "hot") => true,
        Some("off") => false,
        Some(other) => {
            broken.push(format!("gateway.reload.mode = \"{other}\": must be \"hot\", \"hybrid\" or \"off\""));
            false
        }
    };
    let debounce = file.debounce_ms.unwrap_or(DEBOUNCE_DEFAULT_MS);
    range(broken, "gateway.reload.debounceMs", debounce, 0, DEBOUNCE_MAX_MS);
    ReloadConfig { watches, debounce: Duration::from_millis(debounce) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;
    use crate::options::RunOptions;

    /// The file is watched unless it says otherwise, and what it says is checked.
    #[test]
    fn the_file_says_whether_it_is_watched() {
        let of = |keys: &str| {
            let text = format!("{{gateway: {{reload: {{{keys}}}}}}}");
            check(&text, &RunOptions::default()).map(|config| config.reload)
        };
        assert_eq!(of(""), Ok(ReloadConfig::default()));
        assert_eq!(of("mode: 'hybrid'"), Ok(ReloadConfig::default()));
        let off = ReloadConfig { watches: false, debounce: Duration::from_millis(5) };
        assert_eq!(of("mode: 'off', debounceMs: 5"), Ok(off));
        let broken = of("mode: 'restart', debounceMs: 60001").unwrap_err();
        let rules = [
            "gateway.reload.mode = \"restart\": must be \"hot\", \"hybrid\" or \"off\"",
            "gateway.reload.debounceMs = 60001: must be between 0 and 60000",
        ];
        assert_eq!(broken, rules);
    }
}
