//! The text form of messages, and what of them others have to understand.

use super::*;

/// Both sides of each limit.
#[test]
fn versions_are_negotiated() {
    assert_eq!(negotiate(2, 2), Some(2));
    assert_eq!(negotiate(0, 9), Some(2));
    assert_eq!(negotiate(3, 9), None);
    assert_eq!(negotiate(0, 1), None);
    assert_eq!(negotiate(3, 2), None);
}

/// The definition of an agent is that of what it is started with: every field but its numbers changes it.
#[test]
fn a_definition_is_what_an_agent_is_started_with() {
    let base = Spawn {
        instance: 1,
        generation: 2,
        name: "a".into(),
        argv: vec!["b".into()],
        environment: Vec::new(),
        working_directory: None,
        to_agent_bytes: 4096,
        from_agent_bytes: 4096,
        log_path: None,
        limits: Limits::default(),
        sandbox: None,
    };
    let definition = base.definition();
    assert_eq!(Spawn { instance: 7, generation: 8, ..base.clone() }.definition(), definition);
    let others = [
        Spawn { name: "b".into(), ..base.clone() },
        Spawn { argv: vec!["b".into(), "c".into()], ..base.clone() },
        Spawn { environment: vec![("A".into(), "b".into())], ..base.clone() },
        Spawn { working_directory: Some("/".into()), ..base.clone() },
        Spawn { to_agent_bytes: 8192, ..base.clone() },
        Spawn { from_agent_bytes: 8192, ..base.clone() },
        Spawn { log_path: Some("/x".into()), ..base.clone() },
        Spawn { limits: Limits { memory_bytes: Some(1 << 30), ..Limits::default() }, ..base.clone() },
        Spawn { sandbox: Some(Box::default()), ..base },
    ];
    for other in others {
        assert_ne!(other.definition(), definition, "{other:?}");
    }
}

/// The text form, which another build must read.
#[test]
fn messages_have_this_form() {
    let died = |cause, usage| Event::Died {
        instance: 1,
        generation: 2,
        process_id: 3,
        exit: Exit::Signal(9),
        cause,
        usage,
    };
    let cause = Some(Cause::OutOfMemory { limit_bytes: Some(64) });
    let known = died(cause, Usage { cpu_us: Some(5), memory_peak_bytes: None });
    let text = r#"{"type":"died","instance":1,"generation":2,"process_id":3,"exit":{"signal":9},"cause":{"out_of_memory":{"limit_bytes":64}},"usage":{"cpu_us":5,"memory_peak_bytes":null}}"#;
    assert_eq!(serde_json::to_string(&known).unwrap(), text);
    assert_eq!(serde_json::from_str::<Event>(text).unwrap(), known);
    let died = died(None, Usage::default());
    let text = r#"{"type":"died","instance":1,"generation":2,"process_id":3,"exit":{"signal":9}}"#;
    assert_eq!(serde_json::to_string(&died).unwrap(), text);
    assert_eq!(serde_json::from_str::<Event>(text).unwrap(), died);
    // These two in all versions.
    let other = r#"{"type":"other_version","version":7}"#;
    assert_eq!(serde_json::from_str::<Event>(other).unwrap(), Event::OtherVersion { version: 7 });
    let shutdown = r#"{"type":"shutdown","grace_ms":7}"#;
    assert_eq!(serde_json::from_str::<Request>(shutdown).unwrap(), Request::Shutdown { grace_ms: 7 });
    let kill = r#"{"type":"kill","instance":18446744073709551615,"signal":15}"#;
    assert_eq!(
        serde_json::from_str::<Request>(kill).unwrap(),
        Request::Kill { instance: u64::MAX, signal: 15 }
    );
}

/// What an earlier build says is understood: a start without a sandbox, a welcome that tells nothing of one, and a
/// start of which all is enforced.
#[test]
fn messages_of_earlier_builds_are_understood() {
    let spawn = r#"{"type":"spawn","instance":1,"generation":2,"name":"a","argv":["x"],"environment":[],
        "working_directory":null,"to_agent_bytes":1,"from_agent_bytes":1,"log_path":null}"#;
    let Request::Spawn(spawn) = serde_json::from_str(spawn).unwrap() else { panic!("another request") };
    assert_eq!(spawn.sandbox, None);
    let welcome = r#"{"type":"welcome","version":1,"process_id":3}"#;
    let enforcement = Enforcement::default();
    let expected = Event::Welcome {
        version: 1,
        process_id: 3,
        enforcement,
        shape: None,
        skills: false,
        beats: false,
        standbys: false,
    };
    assert_eq!(serde_json::from_str::<Event>(welcome).unwrap(), expected);
    let spawned =
        Event::Spawned { instance: 1, generation: 2, process_id: 3, not_enforced: Vec::new(), cgroup: None };
    let text = r#"{"type":"spawned","instance":1,"generation":2,"process_id":3}"#;
    assert_eq!(serde_json::to_string(&spawned).unwrap(), text);
    assert_eq!(serde_json::from_str::<Event>(text).unwrap(), spawned);
}
