//! What a file, flags and the environment come to, as a whole.

use serde_json::json;

use super::*;
use crate::options::RuntimeChoice;

/// Checks a file of a gateway that lets everybody in, on a machine with 8 cores.
pub(super) fn check(text: &str, options: &RunOptions) -> Result<Config, Vec<String>> {
    let Document(mut file) = Document::parse(text).unwrap();
    file.as_object_mut().unwrap().entry("gateway").or_insert_with(|| json!({}))["auth"] =
        json!({"mode": "none"});
    let standing = Standing { user: 0, limits: Vec::new() };
    let state_directory = Path::new("state");
    let around = Around { options, state_directory, cores: 8, environment: &|_| None, standing: &standing };
    let Examined { config, broken, .. } = examine(Document(file), &around);
    config.ok_or(broken)
}

/// An empty file gives the documented defaults and the built-in agent.
#[test]
fn defaults() {
    let config = check("{}", &RunOptions::default()).unwrap();
    assert_eq!(config.address, SocketAddr::from(([127, 0, 0, 1], 18789)));
    assert_eq!((config.shard_count, config.edge_count, config.runtime), (6, 2, Choice::Epoll));
    let names: Vec<_> = config.agents.iter().map(|agent| (&*agent.name, &agent.kind)).collect();
    assert_eq!(names, [("echo", &AgentKind::Echo)]);
}

/// Flags win over the file.
#[test]
fn flags_win() {
    let options = RunOptions {
        port: Some(1),
        runtime: Some(RuntimeChoice::Auto),
        agent: vec!["list=ls -l".into()],
        ..RunOptions::default()
    };
    let config = check("{gateway: {port: 2}, engine: {runtime: 'uring', shards: 3}}", &options).unwrap();
    assert_eq!((config.address.port(), config.runtime, config.shard_count), (1, Choice::Auto, 3));
    assert_eq!(config.agents[1].kind, AgentKind::Stdio(vec!["ls".into(), "-l".into()]));
}

/// All broken rules come at once, each with key, value and rule.
#[test]
fn every_broken_rule_is_listed() {
    let text =
        "{gateway: {host: '0.0.0.0', edgeThreads: 17, restart: 'x'}, engine: {shards: 0, runtime: 'x'},
        agents: {entries: {'a b': {}, gone: {command: ['no-such-program-here']}, none: {command: []},
        much: {command: ['ls'], inFlightMax: 5000, workingDirectory: '/no/such'}}}}";
    let options = RunOptions { agent: vec!["nothing".into(), "gone=ls".into()], ..RunOptions::default() };
    let broken = check(text, &options).unwrap_err();
    let keys: Vec<_> = broken.iter().map(|rule| rule.split([':', ' ']).next().unwrap()).collect();
    assert_eq!(
        keys,
        [
            "gateway.host",
            "gateway.edgeThreads",
            "engine.shards",
            "gateway.restart",
            "engine.runtime",
            "--agent",
            "--agent",
            "agents.entries.a",
            "agents.entries.a",
            "agents.entries.much.inFlightMax",
            "agents.entries.much.workingDirectory",
            "agents.entries.none.command",
        ]
    );
}

/// What is no file, and what is too long to be a configuration, is not read.
#[test]
fn only_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let cause = |path: &Path| match read(path).unwrap_err() {
        ConfigError::Read { source, .. } => source.to_string(),
        other => panic!("{other}"),
    };
    assert_eq!(cause(folder.path()), "it is no file");
    assert_eq!(cause(Path::new("/dev/zero")), "it is no file");
    let file = folder.path().join("long");
    std::fs::File::create(&file).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
    assert_eq!(cause(&file), "it has more than 8388608 bytes");
}

/// A program that is not there, and an unknown key, are named, beside whatever else is wrong.
#[test]
fn missing_programs_and_unknown_keys_are_named() {
    let broken =
        check("{agents: {entries: {a: {command: ['no-such-program-here']}}}}", &RunOptions::default());
    let rule = "agents.entries.a.command[0] = \"no-such-program-here\": no such program; give its path, or install it";
    assert_eq!(broken.unwrap_err(), [rule]);
    let unknown = check("{gatewy: {}, engine: {shards: 0}}", &RunOptions::default()).unwrap_err();
    let rules = [
        "gatewy: there is no such key; did you mean \"gateway\"?",
        "engine.shards = 0: must be between 1 and 64",
    ];
    assert_eq!(unknown, rules);
}
