//! What clients are answered about sessions, without a gateway around it.

use adapters::access::devices::Devices;
use adapters::access::secret::Secret;
use adapters::access::{Access, AccessSettings, AuthMode};
use adapters::edge::{HealthReport, HealthStatus};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use sessions::{Append, CommitPolicy, Message, Role};

use super::*;

/// Sessions of two agents in a directory of their own.
struct Rig {
    desk: Desk,
    known: Known,
    _directory: tempfile::TempDir,
}

fn report() -> HealthReport {
    HealthReport {
        ok: true,
        status: HealthStatus::Healthy,
        uptime_seconds: 0,
        connected_channels: Vec::new(),
        active_sessions: 0,
        queued_messages: 0,
        registered_tools: 0,
        memory_usage_mb: 0,
        pid: 0,
        version: String::new(),
        runtime: String::new(),
        shards: 1,
        agents: Vec::new(),
    }
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (sessions, _) = Sessions::open(directory.path(), CommitPolicy::default()).unwrap();
        let secret = Secret::new("0123456789abcdef0123456789abcdef").ok();
        let settings = AccessSettings::new(AuthMode::Token, secret).unwrap();
        let access = Arc::new(Access::new(&settings, Devices::in_memory()).unwrap());
        let edges = Arc::new(EdgeShared::new(1, Box::new(report), access));
        let desk = Desk::new(Arc::new(sessions), edges, directory.path());
        let known = Known {
            agents: vec!["main".into(), "other".into()],
            default_agent: "main".into(),
            state_directory: directory.path().to_owned(),
        };
        Self { desk, known, _directory: directory }
    }

    fn ask(&self, method: Method, params: &Value) -> Result<Value, String> {
        let raw: Box<RawValue> = to_raw_value(params).unwrap();
        let params = Params::of(method, Some(&raw))?;
        let (known, desk) = (&self.known, &self.desk);
        let outcome = match method {
            Method::SessionsList => list::list(known, desk, &params),
            Method::SessionsResolve => list::resolve(known, desk, &params),
            Method::SessionsDescribe => list::describe(known, desk, &params),
            Method::SessionsCreate => change::create(known, desk, &params),
            Method::SessionsPatch => change::patch(known, desk, &params),
            Method::SessionsReset => change::reset(known, desk, &params),
            Method::SessionsDelete => change::delete(known, desk, &params),
            Method::ChatHistory => history::page(known, desk, &params),
            Method::AgentsFilesSet => files::set(known, &desk.workspaces, &params),
            Method::AgentsFilesGet => files::get(known, &desk.workspaces, &params),
            other => panic!("{other:?}"),
        };
        let told = outcome.map_err(|error| error.message.into_owned())?;
        Ok(serde_json::from_slice(&told).unwrap())
    }

    #[expect(clippy::needless_pass_by_value, reason = "as `json!` makes them")]
    fn good(&self, method: Method, params: Value) -> Value {
        self.ask(method, &params).unwrap_or_else(|error| panic!("{method:?} {params}: {error}"))
    }

    #[expect(clippy::needless_pass_by_value, reason = "as `json!` makes them")]
    fn bad(&self, method: Method, params: Value) -> String {
        self.ask(method, &params).expect_err("it is refused")
    }

    fn say(&self, key: &str, id: &str, role: Role, text: &str) {
        let append = Append {
            key: key.to_owned(),
            agent: agent_of(key).unwrap_or("main").to_owned(),
            channel: "openclaw".to_owned(),
            id: id.to_owned(),
            timestamp_ms: now_ms(),
            message: Message::text(role, text),
        };
        self.desk.sessions.try_append(append).unwrap();
        self.desk.sessions.commit(key).unwrap();
    }

    /// The last parts of the keys of a list.
    fn names(&self, params: Value) -> Vec<String> {
        let told = self.good(Method::SessionsList, params);
        let keys = told["sessions"].as_array().unwrap().iter();
        keys.map(|row| row["key"].as_str().unwrap().rsplit(':').next().unwrap().to_owned()).collect()
    }
}

/// Lists have what the parameters ask for. One row for each of them.
#[test]
fn lists_have_what_is_asked_for() {
    let rig = Rig::new();
    rig.say("agent:main:a", "1", Role::User, "hello  there\nfriend");
    rig.say("agent:other:b", "1", Role::User, "x");
    rig.good(Method::SessionsCreate, json!({"key": "c", "label": "Gamma"}));
    rig.good(Method::SessionsPatch, json!({"key": "agent:main:a", "pinned": true}));
    rig.say("agent:gone:d", "1", Role::Assistant, "y");
    rig.good(Method::SessionsPatch, json!({"key": "agent:other:b", "archived": true}));
    let rows = [
        (json!({}), vec!["a", "c", "d"]),
        (json!({"archived": true}), vec!["b"]),
        (json!({"archived": "all"}), vec!["a", "b", "c", "d"]),
        (json!({"agentId": "main"}), vec!["a", "c"]),
        (json!({"agentId": "nobody"}), vec![]),
        (json!({"label": "Gamma"}), vec!["c"]),
        (json!({"search": "gAmM"}), vec!["c"]),
        (json!({"pinned": true}), vec!["a"]),
        (json!({"pinned": false}), vec!["c", "d"]),
        (json!({"requireLastInteraction": true}), vec!["a", "d"]),
        (json!({"configuredAgentsOnly": true}), vec!["a", "c"]),
        (json!({"activeMinutes": 5}), vec!["a", "c", "d"]),
        (json!({"activeOnly": true}), vec![]),
        (json!({"spawnedBy": "agent:main:a"}), vec![]),
    ];
    for (params, expected) in rows {
        let mut names = rig.names(params.clone());
        names.sort();
        assert_eq!(names, expected, "{params}");
    }
    let page = rig.good(Method::SessionsList, json!({"limit": 2}));
    assert_eq!((&page["count"], &page["totalCount"], &page["nextOffset"]), (&json!(2), &json!(3), &json!(2)));
    let page = rig.good(Method::SessionsList, json!({"limit": 2, "offset": 2}));
    assert_eq!(
        (&page["count"], &page["hasMore"], &page["nextOffset"]),
        (&json!(1), &json!(false), &json!(null))
    );
    let told = rig.good(
        Method::SessionsDescribe,
        json!({"key": "a", "includeDerivedTitles": true, "includeLastMessage": true}),
    );
    let told = &told["session"];
    assert_eq!(
        (&told["derivedTitle"], &told["lastMessagePreview"]),
        (&json!("hello there friend"), &told["derivedTitle"])
    );
    assert_eq!(rig.good(Method::SessionsDescribe, json!({"key": "nothing"}))["session"], Value::Null);
    for name in ["boardFace", "hasBoard", "group"] {
        let value = if name == "hasBoard" { json!(true) } else { json!("chat") };
        let refused = rig.bad(Method::SessionsList, json!({name: value}));
        assert_eq!(refused, format!("sessions.list: '{name}' is not known to this gateway"));
    }
}

/// A session is found by its key, its id and its label, and by one of them at a time.
#[test]
fn sessions_are_resolved() {
    let rig = Rig::new();
    let made = rig.good(Method::SessionsCreate, json!({"agentId": "other", "label": "Work"}));
    let key = made["key"].as_str().unwrap();
    assert!(key.starts_with("agent:other:dashboard:"), "{key}");
    let found = json!({"ok": true, "key": key, "agentId": "other"});
    for params in [json!({"key": key}), json!({"sessionId": made["sessionId"]}), json!({"label": "Work"})] {
        assert_eq!(rig.good(Method::SessionsResolve, params), found);
    }
    let rows = [
        (json!({}), "Either key, sessionId, or label is required"),
        (json!({"key": key, "label": "Work"}), "Provide either key, sessionId, or label (not multiple)"),
        (json!({"key": "nothing"}), "No session found: nothing"),
        (json!({"sessionId": "../x"}), "No session found: ../x"),
        (json!({"label": "Play"}), "No session found with label: Play"),
        (json!({"label": "Work", "agentId": "main"}), "No session found with label: Work"),
        (json!({"shortId": "0199"}), "sessions.resolve: 'shortId' is not known to this gateway"),
    ];
    for (params, expected) in rows {
        assert_eq!(rig.bad(Method::SessionsResolve, params), expected);
    }
    let missing = json!({"key": "nothing", "allowMissing": true});
    assert_eq!(rig.good(Method::SessionsResolve, missing), json!({"ok": false}));
}

/// Patches of a session that is there, and one of another one; and why they are refused.
fn refused_patches() -> Vec<(Value, String)> {
    let changed = "Session agent:main:main changed; refresh and try again: ";
    vec![
        (
            json!({"key": "main", "model": "m"}),
            "sessions.patch: 'model' cannot be set on this gateway".to_owned(),
        ),
        (
            json!({"key": "main", "permissionMode": "full"}),
            "sessions.patch: 'permissionMode' cannot be set on this gateway".to_owned(),
        ),
        (json!({"key": "main", "label": "Work"}), "label already in use: Work".to_owned()),
        (
            json!({"key": "main", "fastMode": 3}),
            "invalid sessions.patch params: at /fastMode: must be equal to one of the allowed values"
                .to_owned(),
        ),
        (
            json!({"key": "main", "pinned": true, "expectedLifecycleRevision": "7"}),
            format!("{changed}its lifecycle revision is another"),
        ),
        (
            json!({"key": "main", "pinned": true, "expectedSessionId": "no id"}),
            format!("{changed}it is another session now"),
        ),
        (
            json!({"key": "main", "pinned": true, "expectedPermissionMode": "full"}),
            format!("{changed}expectedPermissionMode does not hold"),
        ),
        (
            json!({"key": "main", "unread": true, "expectedMarkedUnreadAt": 7}),
            format!("{changed}expectedMarkedUnreadAt does not hold"),
        ),
        (
            json!({"key": "new", "pinned": true, "expectedLifecycleRevision": "1"}),
            "session not found: agent:main:new".to_owned(),
        ),
        (
            json!({"key": "agent:nobody:main", "pinned": true}),
            "Agent \"nobody\" no longer exists in configuration".to_owned(),
        ),
        (
            json!({"key": "agent:main:x", "agentId": "other", "pinned": true}),
            "agentId does not match the agent of session key 'agent:main:x'".to_owned(),
        ),
        (
            json!({"key": "main", "nothing": 1}),
            "invalid sessions.patch params: at root: unexpected property 'nothing'".to_owned(),
        ),
        (
            json!({"key": "x".repeat(600)}),
            "invalid session key: must be at most 512 characters, none of them a control character"
                .to_owned(),
        ),
        (
            json!({"key": "a\u{0}b"}),
            "invalid session key: must be at most 512 characters, none of them a control character"
                .to_owned(),
        ),
    ]
}

/// What clients may set is kept and can be cleared; the rest is refused by name, and so is a change of another session
/// than the one that was meant.
#[test]
fn patches_are_whole_or_refused() {
    let rig = Rig::new();
    let patch = |params: Value| rig.ask(Method::SessionsPatch, &params);
    let first =
        patch(json!({"key": "main", "thinkingLevel": "high", "fastMode": "auto", "unread": true})).unwrap();
    let entry = &first["entry"];
    assert_eq!((&entry["thinkingLevel"], &entry["fastMode"]), (&json!("high"), &json!("auto")));
    assert_eq!(
        (&entry["unread"], &entry["isMain"], &entry["lifecycleRevision"]),
        (&json!(true), &json!(true), &json!("1"))
    );
    let cleared =
        patch(json!({"key": "main", "thinkingLevel": null, "unread": false, "model": null})).unwrap();
    assert_eq!(
        (&cleared["entry"]["thinkingLevel"], &cleared["entry"]["unread"]),
        (&Value::Null, &json!(false))
    );

    patch(json!({"key": "agent:main:x", "label": "Work"})).unwrap();
    for (params, expected) in refused_patches() {
        assert_eq!(patch(params.clone()).expect_err("it is refused"), expected, "{params}");
    }
    patch(json!({"key": "main", "pinned": true, "expectedLifecycleRevision": "1", "expectedMarkedUnreadAt": null}))
        .unwrap();
    let taken = rig.bad(Method::SessionsCreate, json!({"key": "fresh", "label": "Work"}));
    assert_eq!(taken, "label already in use: Work");
    assert_eq!(
        rig.good(Method::SessionsDescribe, json!({"key": "fresh"}))["session"],
        Value::Null,
        "all or nothing"
    );
}

/// A reset keeps the session and hides what was said; a deleted session is gone, its transcript is put aside, and a main
/// session stays.
#[test]
fn sessions_are_reset_and_deleted() {
    let rig = Rig::new();
    rig.say("agent:main:x", "1", Role::User, "before");
    let before = rig.good(Method::SessionsDescribe, json!({"key": "x"}))["session"].clone();
    let reset = rig.good(Method::SessionsReset, json!({"key": "x", "reason": "new"}));
    assert_eq!(reset["entry"]["sessionId"], before["sessionId"]);
    assert_eq!(reset["entry"]["lifecycleRevision"], "2");
    rig.say("agent:main:x", "2", Role::Assistant, "after");
    let told = rig.good(Method::ChatHistory, json!({"sessionKey": "x"}));
    let told = told["messages"].as_array().unwrap();
    assert_eq!((&told[0]["role"], &told[0]["__openclaw"]["kind"]), (&json!("system"), &json!("reset")));
    assert_eq!((&told[1]["content"], &told[1]["__openclaw"]["seq"]), (&json!("after"), &json!(3)));
    assert_eq!(rig.good(Method::SessionsReset, json!({"key": "fresh"}))["entry"]["lifecycleRevision"], "1");

    let other = json!({"key": "x", "expectedSessionUpdatedAt": 7});
    assert!(rig.bad(Method::SessionsDelete, other).contains("its last change is another"));
    let kept = rig.bad(Method::SessionsDelete, json!({"key": "x", "archivedOnly": true}));
    assert_eq!(kept, "Session agent:main:x is not archived");
    let main = rig.bad(Method::SessionsDelete, json!({"key": "agent:other:main"}));
    assert_eq!(main, "Cannot delete the main session (agent:other:main).");
    let deleted = rig.good(Method::SessionsDelete, json!({"key": "x"}));
    assert!(std::path::Path::new(deleted["archived"][0].as_str().unwrap()).exists());
    let again = rig.good(Method::SessionsDelete, json!({"key": "x"}));
    assert_eq!(again, json!({"ok": true, "key": "agent:main:x", "deleted": false, "archived": []}));
}

/// Pages go from the end to the beginning without a gap, a cursor tells what is new and nothing twice, and what has no
/// room is told without its words.
#[test]
fn history_is_told_in_pages() {
    let rig = Rig::new();
    let history = |params: Value| {
        let mut all = json!({"sessionKey": "x"});
        all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
        rig.good(Method::ChatHistory, all)
    };
    let texts = |page: &Value| -> Vec<String> {
        page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["content"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        (&history(json!({}))["messages"], &history(json!({}))["sessionId"]),
        (&json!([]), &Value::Null)
    );
    for number in 0..5 {
        rig.say("agent:main:x", &number.to_string(), Role::User, &format!("m{number}"));
    }
    let page = history(json!({"limit": 2}));
    assert_eq!((texts(&page), &page["nextOffset"]), (vec!["m3".into(), "m4".into()], &json!(2)));
    let page = history(json!({"limit": 2, "offset": 4}));
    assert_eq!((texts(&page), &page["hasMore"]), (vec!["m0".into()], &json!(false)));
    let around = history(json!({"limit": 2, "messageId": "1"}));
    assert_eq!((texts(&around), &around["nextOffset"]), (vec!["m1".into(), "m2".into()], &json!(4)));
    let rest = history(json!({"limit": 2, "offset": around["nextOffset"]}));
    assert_eq!(texts(&rest), ["m0"]);

    let whole = history(json!({}));
    let cursor = page_cursor(&whole);
    rig.say("agent:main:x", "5", Role::Assistant, &"long ".repeat(90));
    let new = history(json!({"cursor": cursor, "maxChars": 4}));
    assert_eq!((&new["kind"], texts(&new)), (&json!("delta"), vec!["long\n...(truncated)...".to_owned()]));
    assert_eq!(texts(&history(json!({"cursor": page_cursor(&new)}))), Vec::<String>::new());
    let small = history(json!({"maxBytes": 1024, "limit": 1000}));
    assert!(texts(&small).len() < 6 && small["hasMore"] == json!(true));
    let page = rig.ask(Method::ChatHistory, &json!({"sessionKey": "x", "sessionId": "other"}));
    assert!(page.unwrap_err().contains("is another session now"));
    rig.good(Method::SessionsReset, json!({"key": "x"}));
    assert_eq!(history(json!({"cursor": page_cursor(&new)})), json!({"kind": "reset"}));
    assert_eq!(history(json!({"cursor": "nonsense"})), json!({"kind": "reset"}));
    assert_eq!(
        rig.bad(Method::ChatHistory, json!({"sessionKey": "x", "messageId": "1"})),
        "message not found: 1"
    );

    rig.say("agent:main:x", "big", Role::Assistant, &"x".repeat(7 << 20));
    let big = history(json!({}));
    assert_eq!(big["messages"][0]["content"][0]["text"], entry::OMITTED);
}

fn page_cursor(page: &Value) -> &str {
    page["deltaCursor"].as_str().unwrap()
}

/// Files of agents are replaced by who has read them last; names and agents are closed lists.
#[test]
fn files_are_guarded() {
    let rig = Rig::new();
    let set = |more: Value| {
        let mut all = json!({"agentId": "main", "name": "SOUL.md", "content": "new"});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rig.ask(Method::AgentsFilesSet, &all)
    };
    let first = set(json!({})).unwrap();
    let hash = first["file"]["hash"].as_str().unwrap();
    set(json!({"content": "newer", "expectedHash": hash})).unwrap();
    assert!(set(json!({"content": "lost", "expectedHash": hash})).unwrap_err().contains("has changed"));
    let got = rig.good(Method::AgentsFilesGet, json!({"agentId": "main", "name": "SOUL.md"}));
    assert_eq!(got["file"]["content"], "newer");
    let missing = rig.good(Method::AgentsFilesGet, json!({"agentId": "other", "name": "USER.md"}));
    assert_eq!((&missing["file"]["missing"], &missing["file"]["hash"]), (&json!(true), &Value::Null));
    for name in ["../SOUL.md", "/etc/passwd", "soul.md", "SOUL.md\u{0}", "memory/x.md"] {
        assert_eq!(set(json!({"name": name})).unwrap_err(), format!("unsupported file \"{name}\""));
    }
    for agent in ["..", "nobody", "main/../main"] {
        assert_eq!(set(json!({"agentId": agent})).unwrap_err(), format!("unknown agent id \"{agent}\""));
    }
    let refused = set(json!({"expectedHash": "z".repeat(64)})).unwrap_err();
    assert!(refused.contains("at /expectedHash: must match pattern"), "{refused}");
}

/// A session that came by another dialect is named by its own key, in every method, and is no session of an agent's.
#[test]
fn keys_of_other_dialects_are_names_too() {
    let rig = Rig::new();
    let key = "websocket/local/s";
    rig.say(key, "1", Role::User, "hello");
    assert_eq!(rig.good(Method::SessionsDescribe, json!({"key": key}))["session"]["key"], key);
    assert_eq!(rig.good(Method::ChatHistory, json!({"sessionKey": key}))["totalMessages"], 1);
    let patched = rig.good(Method::SessionsPatch, json!({"key": key, "pinned": true}));
    assert_eq!(patched["entry"]["pinned"], true);
    assert_eq!(rig.good(Method::SessionsDelete, json!({"key": key}))["deleted"], true);
    // Not there any more, it is a short name like any other.
    let told = rig.good(Method::SessionsDelete, json!({"key": key}));
    assert_eq!(told["key"], "agent:main:websocket/local/s");
}

/// Who finds a session busy is told what runs in it, and when to come again.
#[test]
fn a_busy_session_is_told() {
    let error = of_busy(&Busy { key: "k".into(), runs: vec!["r".into()] });
    assert_eq!(error.message, "Session k is still active; try again in a moment. It waits for r");
    assert_eq!(
        (error.code, error.retryable, error.retry_after_ms),
        (RpcCode::Unavailable, true, Some(1_000))
    );
    assert_eq!(error.details, Some(json!({"code": "SESSION_ACTIVE", "runIds": ["r"]})));
}
