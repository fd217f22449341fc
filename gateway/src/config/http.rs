//! `gateway.http`: what is served on the port of the WebSocket only where somebody wants it.

use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileHttp {
    #[serde(default)]
    endpoints: FileEndpoints,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileEndpoints {
    #[serde(default)]
    chat_completions: FileEndpoint,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileEndpoint {
    #[serde(default)]
    enabled: bool,
}

impl FileHttp {
    /// Whether agents answer requests as models of the API of OpenAI do.
    pub(super) fn completions(&self) -> bool {
        self.endpoints.chat_completions.enabled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They are off unless the file says otherwise.
    #[test]
    fn completions_are_off() {
        let read = |text: &str| serde_json::from_str::<FileHttp>(text).unwrap().completions();
        assert!(!read("{}"));
        assert!(!read(r#"{"endpoints": {"chatCompletions": {}}}"#));
        assert!(read(r#"{"endpoints": {"chatCompletions": {"enabled": true}}}"#));
    }
}
