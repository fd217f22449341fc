//! `agents.files.*`: the files by which an agent knows who it is. Their names are a closed list; nothing that an agent
//! puts into its workspace leads out of it (`sessions::workspace`).

use std::path::Path;

use adapters::openclaw::backend::Outcome;
use adapters::openclaw::params::Params;
use adapters::refusal::RpcError;
use serde::Serialize;
use serde_json::json;
use sessions::workspace::{FileText, WorkspaceError};
use sessions::{BootstrapFile, Workspaces};

use super::{Known, json as write};

/// How many hexadecimal digits a hash has.
const HASH_CHARS: usize = 64;

/// A file, as the schema has it; and its hash, with which it can be replaced only as long as it is what was read.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File {
    name: &'static str,
    path: String,
    missing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
}

impl File {
    fn missing(workspace: &Path, file: BootstrapFile) -> Self {
        let path = workspace.join(file.name()).display().to_string();
        let (size, updated_at_ms, content, hash) = (None, None, None, None);
        Self { name: file.name(), path, missing: true, size, updated_at_ms, content, hash }
    }

    fn of(workspace: &Path, file: BootstrapFile, told: FileText) -> Self {
        Self {
            missing: false,
            size: Some(told.text.len() as u64),
            updated_at_ms: Some(told.updated_ms),
            content: Some(told.text),
            hash: Some(told.hash),
            ..Self::missing(workspace, file)
        }
    }
}

/// `agents.files.list`.
pub fn list(known: &Known, workspaces: &Workspaces, params: &Params<'_>) -> Outcome {
    let agent = agent(known, params)?;
    let workspace = workspaces.path(&agent).map_err(of_workspace)?;
    let summaries = workspaces.list(&agent).map_err(of_workspace)?;
    let files = summaries.into_iter().map(|summary| {
        let missing = File::missing(&workspace, summary.file);
        match summary.found {
            None => missing,
            Some((size, updated_ms)) => {
                File { missing: false, size: Some(size), updated_at_ms: Some(updated_ms), ..missing }
            }
        }
    });
    let files: Vec<_> = files.collect();
    Ok(write(&json!({"agentId": agent, "workspace": workspace.display().to_string(), "files": files})))
}

/// `agents.files.get`.
pub fn get(known: &Known, workspaces: &Workspaces, params: &Params<'_>) -> Outcome {
    let (agent, file) = (agent(known, params)?, file(params)?);
    let workspace = workspaces.path(&agent).map_err(of_workspace)?;
    let told = match workspaces.get(&agent, file).map_err(of_workspace)? {
        Some(told) => File::of(&workspace, file, told),
        None => File::missing(&workspace, file),
    };
    Ok(write(&json!({"agentId": agent, "workspace": workspace.display().to_string(), "file": told})))
}

/// `agents.files.set`.
pub fn set(known: &Known, workspaces: &Workspaces, params: &Params<'_>) -> Outcome {
    let (agent, file) = (agent(known, params)?, file(params)?);
    let expected = params.text("expectedHash");
    let is_hash = |hash: &str| hash.len() == HASH_CHARS && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    if params.raw("expectedHash").is_some() && !expected.as_deref().is_some_and(is_hash) {
        let rule = "at /expectedHash: must match pattern \"^[a-fA-F0-9]{64}$\"";
        return Err(RpcError::invalid(format!("invalid agents.files.set params: {rule}")));
    }
    let workspace = workspaces.path(&agent).map_err(of_workspace)?;
    let text = params.text("content").unwrap_or_default();
    workspaces.set(&agent, file, &text, expected.as_deref()).map_err(of_workspace)?;
    tracing::info!(agent, file = file.name(), bytes = text.len(), "a file of a workspace was replaced");
    let told = match workspaces.get(&agent, file).map_err(of_workspace)? {
        Some(told) => File::of(&workspace, file, told),
        None => File::missing(&workspace, file),
    };
    Ok(write(&json!({
        "ok": true, "agentId": agent, "workspace": workspace.display().to_string(), "file": told,
    })))
}

fn agent(known: &Known, params: &Params<'_>) -> Result<String, RpcError> {
    let name = params.text("agentId").unwrap_or_default().into_owned();
    if known.agents.contains(&name) {
        return Ok(name);
    }
    Err(RpcError::invalid(format!("unknown agent id \"{name}\"")))
}

fn file(params: &Params<'_>) -> Result<BootstrapFile, RpcError> {
    let name = params.text("name").unwrap_or_default();
    BootstrapFile::from_name(&name).ok_or_else(|| {
        let shown: String = name.chars().take(64).collect();
        RpcError::invalid(format!("unsupported file \"{shown}\""))
    })
}

fn of_workspace(error: WorkspaceError) -> RpcError {
    let message = error.to_string();
    match error {
        WorkspaceError::Changed { found, .. } => {
            RpcError::invalid(message).with_details(json!({"reason": "file-changed", "hash": found}))
        }
        WorkspaceError::NotJson { source, .. } => RpcError::invalid(format!("{message}: {source}")),
        WorkspaceError::Agent(_) | WorkspaceError::NotPlain { .. } | WorkspaceError::TooLarge { .. } => {
            RpcError::invalid(message)
        }
        WorkspaceError::System { .. } => {
            tracing::error!(error = &error as &dyn std::error::Error, "a workspace cannot be used");
            RpcError::unavailable("the workspace cannot be used; the log of the gateway says why")
        }
    }
}
