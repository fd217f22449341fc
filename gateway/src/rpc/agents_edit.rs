//! `agents.create`, `agents.update`, `agents.delete`: agents that clients make of templates of the operator.
//!
//! What an agent runs comes from the configuration file on disk only: from `agents.templates`. An agent that a client has made
//! is an entry with the name of a template; entries with a command of their own are the operator's, and stay as they are. The
//! table of agents is made when the gateway starts, so such a change counts after its next start, which is told.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use adapters::openclaw::backend::{Outcome, OwnedCall};
use adapters::openclaw::method::{Method, MethodSet};
use adapters::openclaw::params::Params;
use adapters::refusal::RpcError;
use serde_json::{Value, json};
use sessions::{BootstrapFile, Workspaces};

use super::config::write::{self, Base, Change, blocking};
use super::{Facts, json as text_of, params};
use crate::admin::Admin;
use crate::config::edit::{Change as Edit, edit_all};
use crate::config::path::KeyPath;
use crate::config::source::Text;
use crate::config::{By, ECHO_AGENT, rule_of};

/// What is served here.
pub const METHODS: MethodSet =
    MethodSet::of(&[Method::AgentsCreate, Method::AgentsUpdate, Method::AgentsDelete]);

/// The longest name of an agent.
const ID_BYTES_MAX: usize = 64;
/// The longest line of the file by which an agent knows who it is.
const LINE_CHARS_MAX: usize = 200;
/// The template that is meant where none is named.
const DEFAULT_TEMPLATE: &str = "default";

/// What a client says of an agent, owned.
#[derive(Default)]
struct Wish {
    name: Option<String>,
    emoji: Option<String>,
    avatar: Option<String>,
    template: Option<String>,
    workspace: Option<String>,
}

impl Wish {
    fn of(params: &Params<'_>) -> Self {
        let text = |name| params.text(name).map(Cow::into_owned);
        Self {
            name: text("name"),
            emoji: text("emoji"),
            avatar: text("avatar"),
            template: text("model"),
            workspace: text("workspace"),
        }
    }

    /// The lines of the file by which the agent knows who it is.
    fn lines(&self) -> Vec<(&'static str, String)> {
        let said = [("Name", &self.name), ("Emoji", &self.emoji), ("Avatar", &self.avatar)];
        let line = |text: &str| -> String {
            let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            one_line.chars().take(LINE_CHARS_MAX).collect()
        };
        said.into_iter().filter_map(|(key, text)| Some((key, line(text.as_deref()?)))).collect()
    }
}

/// Answers a call.
pub async fn serve(facts: Arc<Facts>, admin: &Admin, call: OwnedCall) -> Outcome {
    facts.budgets.spend(&call)?;
    let (wish, agent, deletes_files) = {
        let params = params(&call)?;
        if params.raw("agentRuntime").is_some() {
            return Err(RpcError::invalid(
                "agentRuntime cannot be changed: what an agent runs is in the configuration file on disk only",
            ));
        }
        if params.raw("model").is_some_and(|raw| raw.get() == "null") {
            return Err(RpcError::invalid("model cannot be taken away: it names the template of the agent"));
        }
        // As the incumbent does, which puts them aside.
        let deletes_files = params.raw("deleteFiles").is_none_or(|raw| raw.get() == "true");
        (Wish::of(&params), params.text("agentId").map(Cow::into_owned).unwrap_or_default(), deletes_files)
    };
    let edit = Editing { facts: &facts, admin, method: call.method };
    match call.method {
        Method::AgentsCreate => edit.create(wish).await,
        Method::AgentsUpdate => edit.update(agent, wish).await,
        _ => edit.delete(agent, deletes_files).await,
    }
}

struct Editing<'a> {
    facts: &'a Arc<Facts>,
    admin: &'a Admin,
    method: Method,
}

impl Editing<'_> {
    async fn create(self, wish: Wish) -> Outcome {
        let name = wish.name.clone().unwrap_or_default();
        let id = id_of(&name)?;
        if id == ECHO_AGENT {
            return Err(RpcError::invalid(format!("\"{id}\" is reserved")));
        }
        self.check_workspace(&id, &wish)?;
        let (own, wanted) = (id.clone(), wish.template.clone());
        let make = move |before: &Text| {
            let document = &before.document.0;
            if entry(document, &own).is_some() {
                return Err(RpcError::invalid(format!("agent \"{own}\" already exists")));
            }
            let template = template(document, wanted.as_deref())?;
            edited(before, &[Edit::Set(entry_path(&own), json!({ "template": template }))])
        };
        let written = self.write(&id, Box::new(make)).await?;
        let workspace = self.introduce(&id, wish).await?;
        let restart = written.restart();
        Ok(text_of(
            &json!({"ok": true, "agentId": id, "name": name, "workspace": workspace, "restart": restart}),
        ))
    }

    async fn update(self, id: String, wish: Wish) -> Outcome {
        self.check_workspace(&id, &wish)?;
        let (own, wanted) = (id.clone(), wish.template.clone());
        let make = move |before: &Text| {
            let document = &before.document.0;
            let found = entry(document, &own);
            if found.is_none() && own != ECHO_AGENT {
                return Err(unknown(&own));
            }
            let Some(wanted) = wanted else { return Ok(before.text.clone().unwrap_or_default()) };
            if found.is_none_or(|entry| entry.get("template").is_none()) {
                return Err(of_the_operator(&own, "command"));
            }
            let template = template(document, Some(&wanted))?;
            edited(before, &[Edit::Set(entry_path(&own).key("template"), template.into())])
        };
        let written = self.write(&id, Box::new(make)).await?;
        if !wish.lines().is_empty() {
            self.introduce(&id, wish).await?;
        }
        Ok(text_of(&json!({"ok": true, "agentId": id, "restart": written.restart()})))
    }

    async fn delete(self, id: String, deletes_files: bool) -> Outcome {
        let own = id.clone();
        let (sender, removed) = std::sync::mpsc::channel();
        let make = move |before: &Text| {
            let document = &before.document.0;
            let found = entry(document, &own).ok_or_else(|| unknown(&own))?;
            if let Some(key) = key_of_the_operator(&own, found) {
                return Err(of_the_operator(&own, &key));
            }
            let (mut edits, count) = unbound(document, &own);
            edits.push(Edit::Unset(entry_path(&own)));
            // The receiver lives as long as the call.
            let _ = sender.send(count);
            edited(before, &edits)
        };
        let written = self.write(&id, Box::new(make)).await?;
        let mut answer = json!({
            "ok": true,
            "agentId": id,
            "removedBindings": removed.try_recv().unwrap_or(0),
            "restart": written.restart(),
        });
        if deletes_files {
            let workspace = self.workspace(&id)?;
            let (place, method) = blocking(move || put_aside(&workspace)).await?;
            answer["removed"] = json!([{"path": place, "method": method}]);
        }
        Ok(text_of(&answer))
    }

    async fn write(&self, id: &str, make: write::Make) -> Result<write::Written, RpcError> {
        let prefix = ["agents", "entries", id].map(str::to_owned);
        let allowed = Box::new(move |key: &[String]| key.starts_with(&prefix));
        let change = Change { method: self.method, base: Base::Any, make, allowed };
        write::write(&self.facts.sources.source, self.admin, change).await
    }

    fn workspaces(&self) -> Workspaces {
        Workspaces::new(self.facts.known.state_directory.join("agents"))
    }

    fn workspace(&self, id: &str) -> Result<PathBuf, RpcError> {
        self.workspaces().path(id).map_err(|error| RpcError::invalid(error.to_string()))
    }

    /// A directory of the machine is for the operator to give away.
    fn check_workspace(&self, id: &str, wish: &Wish) -> Result<(), RpcError> {
        let own = self.workspace(id)?;
        match &wish.workspace {
            Some(wanted) if Path::new(wanted) != own => Err(RpcError::invalid(format!(
                "workspace cannot be chosen: the files of agent \"{id}\" are in {}",
                own.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Makes the files of an agent, and writes down who it is.
    async fn introduce(&self, id: &str, wish: Wish) -> Result<String, RpcError> {
        let (workspaces, id) = (self.workspaces(), id.to_owned());
        blocking(move || {
            let failed = |error: sessions::workspace::WorkspaceError| {
                RpcError::unavailable(format!(
                    "the configuration is changed, but not the files of agent \"{id}\": {error}"
                ))
            };
            workspaces.prepare(&id).map_err(failed)?;
            let file = workspaces.get(&id, BootstrapFile::Identity).map_err(failed)?;
            let (text, hash) = file.map_or((String::new(), None), |file| (file.text, Some(file.hash)));
            let said = with_lines(&text, &wish.lines());
            workspaces.set(&id, BootstrapFile::Identity, &said, hash.as_deref()).map_err(failed)?;
            Ok(workspaces.path(&id).map_err(failed)?.display().to_string())
        })
        .await
    }
}

/// The name of an agent as others name it: small letters, digits, `-` and `_`.
fn id_of(name: &str) -> Result<String, RpcError> {
    let plain = |c: char| {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }
    };
    let id: String = name.trim().chars().map(plain).collect();
    let id = id.trim_matches('-');
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        let rule = format!("must have 1 to {ID_BYTES_MAX} letters or digits");
        return Err(RpcError::invalid(format!("agent name \"{name}\" {rule}")));
    }
    Ok(id.to_owned())
}

fn entry<'a>(document: &'a Value, id: &str) -> Option<&'a Value> {
    entry_path(id).find(document)
}

fn entry_path(id: &str) -> KeyPath {
    KeyPath::default().key("agents").key("entries").key(id)
}

/// In the words of the incumbent.
fn unknown(id: &str) -> RpcError {
    RpcError::invalid(format!("Agent \"{id}\" no longer exists in configuration"))
}

fn of_the_operator(id: &str, key: &str) -> RpcError {
    RpcError::invalid(format!(
        "agent \"{id}\" is the operator's: agents.entries.{id}.{key} is in the configuration file on disk, and can be changed \
         there only"
    ))
}

/// A key of an entry that only the operator can have written, beside its template.
fn key_of_the_operator(id: &str, entry: &Value) -> Option<String> {
    let path = ["agents", "entries", id].map(str::to_owned);
    let own = |name: &String| {
        let key: Vec<String> = path.iter().cloned().chain([name.clone()]).collect();
        name != "template" && rule_of(&key).is_none_or(|rule| rule.by == By::File)
    };
    let Some(fields) = entry.as_object() else { return Some("command".to_owned()) };
    if !fields.contains_key("template") {
        return Some("command".to_owned());
    }
    fields.keys().find(|name| own(name)).cloned()
}

/// The template that a client means, of those that the operator has written down.
fn template(document: &Value, wanted: Option<&str>) -> Result<String, RpcError> {
    let templates = document.pointer("/agents/templates").and_then(Value::as_object);
    let names: Vec<&str> = templates.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let there = || format!("there are: {}", names.join(", "));
    match (wanted, names.as_slice()) {
        (_, []) => Err(RpcError::invalid(format!(
            "what an agent runs is in the configuration file on disk only, and agents.templates is empty there: set \
             agents.templates.{DEFAULT_TEMPLATE}.command"
        ))),
        (Some(wanted), names) if names.contains(&wanted) => Ok(wanted.to_owned()),
        (Some(wanted), _) => {
            Err(RpcError::invalid(format!("model \"{wanted}\" is none of agents.templates; {}", there())))
        }
        (None, [only]) => Ok((*only).to_owned()),
        (None, names) if names.contains(&DEFAULT_TEMPLATE) => Ok(DEFAULT_TEMPLATE.to_owned()),
        (None, _) => {
            Err(RpcError::invalid(format!("model has to name one of agents.templates; {}", there())))
        }
    }
}

/// What takes an agent out of the rules of routing, and how many of them name it.
fn unbound(document: &Value, id: &str) -> (Vec<Edit>, usize) {
    let path = |name: &str| KeyPath::default().key("routing").key(name);
    let mut edits = Vec::new();
    let rules = path("rules").find(document).and_then(Value::as_array);
    let (own, others): (Vec<Value>, Vec<Value>) =
        rules.into_iter().flatten().cloned().partition(|rule| rule["agent"] == id);
    if !own.is_empty() {
        edits.push(Edit::Set(path("rules"), others.into()));
    }
    if path("default").find(document).is_some_and(|default| default == id) {
        edits.push(Edit::Unset(path("default")));
    }
    (edits, own.len())
}

fn edited(before: &Text, edits: &[Edit]) -> Result<String, RpcError> {
    let text = before.text.as_deref().unwrap_or("{}\n");
    edit_all(text, edits).map_err(|error| RpcError::invalid(error.to_string()))
}

/// A file with these lines in the place of those that say the same, or at its end.
fn with_lines(text: &str, wanted: &[(&'static str, String)]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (key, value) in wanted {
        let begin = format!("- {key}:");
        let line = format!("{begin} {value}");
        match lines.iter_mut().find(|line| line.starts_with(&begin)) {
            Some(found) => *found = line,
            None => lines.push(line),
        }
    }
    lines.join("\n") + "\n"
}

/// Puts a workspace aside, so that it can be had back.
fn put_aside(workspace: &Path) -> Result<(String, &'static str), RpcError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let aside = workspace.with_file_name(format!("workspace.deleted-{}", since.as_millis()));
    match std::fs::rename(workspace, &aside) {
        Ok(()) => Ok((aside.display().to_string(), "trash")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok((workspace.display().to_string(), "missing"))
        }
        Err(error) => Err(RpcError::unavailable(format!(
            "the agent is taken out, but {} cannot be put aside: {error}",
            workspace.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<T: std::fmt::Debug>(result: Result<T, RpcError>) -> String {
        result.unwrap_err().message.into_owned()
    }

    /// A name becomes an id that agents may have.
    #[test]
    fn names_become_ids() {
        for (name, id) in [("Words", "words"), (" My Agent! ", "my-agent"), ("a.b", "a-b"), ("x_1", "x_1")] {
            assert_eq!(id_of(name).unwrap(), id, "{name}");
        }
        for name in ["", " ", "!!", "ä", &"x".repeat(65)] {
            assert_eq!(
                said(id_of(name)),
                format!("agent name \"{name}\" must have 1 to 64 letters or digits")
            );
        }
    }

    /// Which template is meant: the named one, the only one, or `default`; without any, the key that is missing is named.
    #[test]
    fn templates_are_the_operators() {
        let of = |names: &[&str], wanted| {
            let templates: serde_json::Map<_, _> =
                names.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
            template(&json!({"agents": {"templates": templates}}), wanted)
        };
        assert_eq!(of(&["a"], None).unwrap(), "a");
        assert_eq!(of(&["a", "b"], Some("b")).unwrap(), "b");
        assert_eq!(of(&["a", "default"], None).unwrap(), "default");
        assert_eq!(said(of(&["a", "b"], None)), "model has to name one of agents.templates; there are: a, b");
        assert_eq!(said(of(&["a"], Some("x"))), "model \"x\" is none of agents.templates; there are: a");
        assert!(said(of(&[], Some("x"))).ends_with("set agents.templates.default.command"));
        assert!(said(template(&json!({}), None)).ends_with("set agents.templates.default.command"));
    }

    /// An entry is the operator's if it has a key that no client can have written.
    #[test]
    fn entries_of_the_operator_are_known() {
        let rows = [
            (json!({"template": "t"}), None),
            (json!({"template": "t", "spares": 1, "restart": {"max": 1}}), None),
            (json!({"template": "t", "sandbox": {"mode": "on"}}), Some("sandbox")),
            (json!({"command": ["ls"]}), Some("command")),
            (json!({}), Some("command")),
        ];
        for (entry, key) in rows {
            assert_eq!(key_of_the_operator("a", &entry).as_deref(), key, "{entry}");
        }
        let document = json!({"routing": {"default": "a", "rules": [{"agent": "a"}, {"agent": "b"}]}});
        let (edits, count) = unbound(&document, "a");
        assert_eq!((edits.len(), count), (2, 1));
        assert_eq!(unbound(&document, "c"), (vec![], 0));
    }

    /// Lines that say the same are replaced, others stay.
    #[test]
    fn lines_are_replaced() {
        let wish = Wish { name: Some("A\nB  c".into()), emoji: Some("x".into()), ..Wish::default() };
        let text = with_lines("# Identity\n\n- Name: old\n- Manner: brief\n", &wish.lines());
        assert_eq!(text, "# Identity\n\n- Name: A B c\n- Manner: brief\n- Emoji: x\n");
    }
}
