//! `/v1/models`: agents, as the API of OpenAI lists models. Each is there with `openclaw/` before its name, and without.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use adapters::edge::pages::Page;
use adapters::refusal::api::ApiRefusal;
use serde_json::{Value, json};

use super::query::Query;
use super::{JSON, PageError, Sources, json_page};
use crate::admin::agents;

/// Stand for the agent that is meant where none is named.
const DEFAULTS: [&str; 2] = ["openclaw", "openclaw/default"];

/// All models; with `id`, that one.
pub async fn page(sources: &Sources, query: &Query<'_>) -> Result<Page, PageError> {
    query.only(&["id"]).map_err(PageError::Query)?;
    let rows = agents::described(&sources.admin).await.map_err(PageError::Unanswered)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let created = now.saturating_sub(sources.uptime()).as_secs();
    let mut seen = HashSet::new();
    let pools = rows.into_iter().map(|row| row.pool).filter(|pool| seen.insert(pool.clone()));
    let pools: Vec<_> = pools.collect();
    Ok(answer(&names(&pools), query.value("id"), created))
}

/// The members of a pool are one model.
fn names(pools: &[String]) -> Vec<String> {
    let defaults = DEFAULTS.iter().map(|&name| name.to_owned());
    let prefixed = pools.iter().map(|pool| format!("openclaw/{pool}"));
    defaults.chain(prefixed).chain(pools.iter().cloned()).collect()
}

fn answer(names: &[String], id: Option<&str>, created: u64) -> Page {
    let model =
        |name: &str| json!({"id": name, "object": "model", "created": created, "owned_by": "openclaw"});
    let Some(id) = id else {
        let data: Vec<Value> = names.iter().map(|name| model(name)).collect();
        return json_page(200, &json!({"object": "list", "data": data}));
    };
    let id = decoded(id);
    if names.contains(&id) {
        return json_page(200, &model(&id));
    }
    let refusal = ApiRefusal {
        param: Some("model"),
        ..ApiRefusal::new(
            404,
            "model_not_found",
            format!("there is no model {id}; GET /v1/models lists them"),
        )
    };
    Page { status: refusal.status, content_type: JSON, body: refusal.json().to_string().into_bytes() }
}

/// A part of a path, as it was meant.
fn decoded(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let code = piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                bytes.extend_from_slice(&piece.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(piece.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every agent is there under both names, and is found under either, however its client has written it.
    #[test]
    fn agents_are_models() {
        let names = names(&["main".to_owned(), "ada".to_owned()]);
        assert_eq!(names, ["openclaw", "openclaw/default", "openclaw/main", "openclaw/ada", "main", "ada"]);
        let status = |id| answer(&names, Some(id), 1).status;
        for id in ["openclaw/ada", "openclaw%2Fada", "openclaw%2fada", "ada", "openclaw"] {
            assert_eq!(status(id), 200, "{id}");
        }
        for id in ["openclaw/eve", "openclaw%2", "%", "%zz", "", "%ffada"] {
            assert_eq!(status(id), 404, "{id}");
        }
        let list: Value = serde_json::from_slice(&answer(&names, None, 7).body).unwrap();
        assert_eq!(list["data"].as_array().map(Vec::len), Some(6));
        assert_eq!(
            list["data"][3],
            json!({"id": "openclaw/ada", "object": "model", "created": 7, "owned_by": "openclaw"})
        );
    }
}
