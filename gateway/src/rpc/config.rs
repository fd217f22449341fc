//! `config.*`: the configuration file, as clients see and change it.
//!
//! | module | does |
//! |---|---|
//! | [`show`] | `config.get`, without secrets |
//! | [`write`] | everything that changes the file: one way, whoever asks |
//! | [`changes`] | what `config.set` and `config.patch` make of a text |
//! | [`schema`] | `config.schema`, and one key of it |
//! | [`budget`] | how often settings may be changed |
//!
//! Which keys clients may change is a table of [`crate::config`]: **no program, no argument, no variable, no directory, no
//! user and no sandbox is named or changed from here.**

pub mod budget;
mod changes;
mod schema;
mod show;
pub mod write;

use std::sync::Arc;

use adapters::openclaw::backend::{Outcome, OwnedCall};
use adapters::openclaw::method::{Method, MethodSet};
use adapters::refusal::RpcError;

use super::{Facts, json, params};
use crate::admin::Admin;
use write::Base;

/// What is served here.
pub const METHODS: MethodSet = MethodSet::of(&[
    Method::ConfigGet,
    Method::ConfigSet,
    Method::ConfigPatch,
    Method::ConfigApply,
    Method::ConfigSchema,
    Method::ConfigSchemaLookup,
]);

/// Answers a call.
pub async fn serve(facts: Arc<Facts>, admin: &Admin, call: OwnedCall) -> Outcome {
    let source = Arc::clone(&facts.sources.source);
    let method = call.method;
    if matches!(method, Method::ConfigGet | Method::ConfigSchema | Method::ConfigSchemaLookup) {
        let done = tokio::task::spawn_blocking(move || match method {
            Method::ConfigGet => Ok(json(&show::get(&source))),
            Method::ConfigSchema => Ok(json(&schema::whole())),
            _ => schema::lookup(&params(&call)?.text("path").unwrap_or_default()),
        });
        return done.await.unwrap_or_else(|_| Err(super::going()));
    }
    facts.budgets.spend(&call)?;
    let (raw, base, patch) = {
        let params = params(&call)?;
        let text = |name| params.text(name).map(std::borrow::Cow::into_owned);
        let lists: Vec<String> = params.texts("replacePaths").into_iter().map(Into::into).collect();
        let is_patch = method == Method::ConfigPatch;
        (text("raw").unwrap_or_default(), Base::Named(text("baseHash")), is_patch.then_some(lists))
    };
    let change = write::Change {
        method,
        base,
        make: Box::new(move |before| match patch {
            Some(lists) => changes::patched(&raw, &lists, before),
            None => changes::replaced(raw, before),
        }),
        allowed: Box::new(|_| false),
    };
    let written = write::write(&source, admin, change).await?;
    Ok(json(&written.answer(&source)))
}

/// A refusal in the words of the incumbent: everything that is wrong, as far as a sentence holds it.
fn invalid(rules: &[String]) -> RpcError {
    const NAMED_MAX: usize = 3;
    let named = rules.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join("; ");
    let more = match rules.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        1 => " (+1 more issue)".to_owned(),
        count => format!(" (+{count} more issues)"),
    };
    let issues: Vec<_> = rules.iter().map(|rule| show::issue(rule)).collect();
    RpcError::invalid(format!("invalid config: {named}{more}"))
        .with_details(serde_json::json!({"issues": issues}))
}
