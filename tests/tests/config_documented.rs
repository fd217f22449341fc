//! Compares `docs/config.md` with the gateway: its keys, limits, flags and variables, and its example.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;
use tests::binary;
use tests::process::Gateway;

const DOCUMENT: &str = include_str!("../../docs/config.md");
const SOURCE: &str = concat!(
    include_str!("../../gateway/src/config.rs"),
    include_str!("../../gateway/src/config/agents.rs"),
    include_str!("../../gateway/src/config/auth.rs"),
    include_str!("../../adapters/src/access/secret.rs"),
    include_str!("../../gateway/src/config/delivery.rs"),
    include_str!("../../gateway/src/config/supervision.rs"),
    include_str!("../../gateway/src/config/limits.rs"),
    include_str!("../../gateway/src/config/sandbox.rs"),
    include_str!("../../gateway/src/config/heartbeat.rs"),
    include_str!("../../gateway/src/config/user.rs"),
    include_str!("../../gateway/src/config/skills.rs"),
    include_str!("../../keeper/src/sandbox/spec.rs")
);
const KEYS: [&str; 5] = ["key", "default", "unit", "limits", "flag"];
const OTHER_FLAGS: [&str; 4] = ["flag", "variable", "default", "what"];
/// Where a cell has nothing to say.
const NOTHING: &str = "–";

/// The rows of the table with this header row, cells trimmed.
fn table<const N: usize>(header: [&str; N]) -> Vec<[&'static str; N]> {
    let cells = |line: &'static str| -> Option<[&'static str; N]> {
        let inner = line.strip_prefix('|')?.strip_suffix('|')?;
        let cells: Vec<_> = inner.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        cells.try_into().ok()
    };
    let mut lines = DOCUMENT.lines().skip_while(|line| cells(line) != Some(header));
    assert!(lines.next().is_some(), "no table {header:?}");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|line| cells(line).unwrap_or_else(|| panic!("not a row of {header:?}: {line}"))).collect()
}

/// The keys below a schema, as the file spells them. An object with keys of its own is a section, and a map of them one
/// with names.
fn keys_of(schema: &Value, prefix: &str, keys: &mut BTreeSet<String>) {
    let Some(properties) = schema["properties"].as_object() else {
        let named = &schema["additionalProperties"];
        if named["properties"].is_object() {
            return keys_of(named, &format!("{prefix}.<name>"), keys);
        }
        assert!(keys.insert(prefix.to_owned()), "{prefix} is there twice");
        return;
    };
    for (name, schema) in properties {
        let dot = if prefix.is_empty() { "" } else { "." };
        keys_of(schema, &format!("{prefix}{dot}{name}"), keys);
    }
}

/// What `openclaw config schema` prints.
fn schema() -> Value {
    let output = Command::new(binary("openclaw")).args(["config", "schema"]).output().expect("it starts");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A number that the source defines.
fn constant(name: &str) -> String {
    let rest =
        SOURCE.split(&format!("const {name}: ")).nth(1).unwrap_or_else(|| panic!("no constant {name}"));
    let value = rest.split_once(" = ").and_then(|(_, rest)| rest.split_once(';'));
    value.expect("a constant has a value").0.replace('_', "")
}

/// What the command line takes: each flag, with the variable that stands in for it.
fn flags() -> BTreeSet<(String, String)> {
    let output = Command::new(binary("openclaw")).args(["gateway", "run", "--help"]).output();
    let output = output.expect("the gateway starts");
    assert!(output.status.success(), "{output:?}");
    let help = String::from_utf8(output.stdout).expect("help is text");
    let paragraphs = help.split("\n      --").skip(1);
    paragraphs
        .map(|paragraph| {
            let name = paragraph.split([' ', '\n']).next().unwrap_or_default();
            let variable = paragraph.split_once("[env: ").and_then(|(_, rest)| rest.split_once('='));
            (format!("--{name}"), variable.map_or(NOTHING, |(variable, _)| variable).to_owned())
        })
        .collect()
}

/// Every key of the file has a row, and every row a key.
#[test]
fn keys_are_documented() {
    let mut keys = BTreeSet::new();
    keys_of(&schema(), "", &mut keys);
    let documented: BTreeSet<_> = table(KEYS).iter().map(|row| row[0].to_owned()).collect();
    assert_eq!(documented, keys, "docs/config.md (left) and openclaw config schema (right)");
}

/// Every key that a variable of the environment stands in for has a row, and every row such a key.
#[test]
fn variables_of_keys_are_documented() {
    let rows = table(["variable", "key"]);
    for [variable, key] in &rows {
        assert!(SOURCE.contains(&format!("(\"{variable}\", \"{key}\")")), "{variable}");
    }
    assert_eq!(rows.len(), SOURCE.matches("\", \"gateway.auth.").count());
}

/// A key whose row has this default and these limits.
fn check_numbers(key: &str, numbers: &(String, String)) {
    let rows = table(KEYS);
    let row = rows.iter().find(|row| row[0] == key).unwrap_or_else(|| panic!("no row {key}"));
    assert_eq!((row[1], row[3]), (numbers.0.as_str(), numbers.1.as_str()), "{key}");
}

/// The bounds of secrets and origins are those of the source.
#[test]
fn bounds_of_access_are_those_of_the_source() {
    let bytes = constant("SECRET_BYTES_MAX");
    let token = format!("{} to {bytes} characters of a bearer token", constant("TOKEN_CHARS_MIN"));
    check_numbers("gateway.auth.token", &("none".into(), token));
    check_numbers("gateway.auth.password", &("none".into(), format!("1 to {bytes} bytes, not blank")));
    let origins = format!("at most {}", constant("ORIGINS_MAX"));
    check_numbers("gateway.controlUi.allowedOrigins", &("none".into(), origins));
}

/// A default and limits, as a row of the document has them.
fn both(default: &str, least: u64, most: &str) -> (String, String) {
    (constant(default), format!("{least} to {}", constant(most)))
}

/// Defaults and limits that are numbers are those of the source.
#[test]
fn numbers_are_those_of_the_source() {
    let port = (constant("PORT_DEFAULT"), format!("0 to {}; 0 takes a free one", u16::MAX));
    let edges = ("1 for every 4 cores, at least 1".into(), format!("1 to {}", constant("EDGES_MAX")));
    let drain = (constant("DRAIN_TIMEOUT_DEFAULT_MS"), format!("0 to {}", constant("DRAIN_TIMEOUT_MAX_MS")));
    let handover =
        (constant("HANDOVER_TIMEOUT_DEFAULT_MS"), format!("0 to {}", constant("HANDOVER_TIMEOUT_MAX_MS")));
    let rest = "the cores left by the edge threads, at least 1";
    let shards = (rest.into(), format!("1 to {}", constant("SHARDS_MAX")));
    let in_flight = (constant("IN_FLIGHT_DEFAULT"), format!("1 to {}", constant("IN_FLIGHT_MAX")));
    let bounded =
        |least: &str, most: &str| ("none".into(), format!("{} to {}", constant(least), constant(most)));
    let expected = [
        ("gateway.port", port),
        ("gateway.edgeThreads", edges),
        ("gateway.drainTimeoutMs", drain),
        ("gateway.handoverTimeoutMs", handover),
        ("engine.shards", shards),
        ("agents.entries.<name>.inFlightMax", in_flight),
        ("agents.defaults.limits.memoryMib", bounded("MEMORY_MIN_MIB", "MEMORY_MAX_MIB")),
        ("agents.defaults.limits.processes", bounded("PROCESSES_MIN_COUNT", "PROCESSES_MAX_COUNT")),
        (
            "agents.defaults.limits.ioWriteMibPerS",
            ("none".into(), format!("1 to {}", constant("IO_WRITE_MAX_MIB_PER_S"))),
        ),
        (
            "agents.defaults.limits.cpus",
            ("none".into(), format!("{} to the cores of the machine", constant("CPUS_MIN"))),
        ),
        ("agents.entries.<name>.instances", ("1".into(), format!("1 to {}", constant("INSTANCES_MAX")))),
        ("agents.entries.<name>.minInstances", ("1".into(), format!("1 to {}", constant("INSTANCES_MAX")))),
        ("agents.entries.<name>.idleTimeoutMs", both("IDLE_TIMEOUT_DEFAULT_MS", 1000, "LONG_MS")),
        ("agents.entries.<name>.drainTimeoutMs", both("AGENT_DRAIN_DEFAULT_MS", 0, "LONG_MS")),
        ("agents.entries.<name>.restart.max", both("RESTARTS_DEFAULT", 0, "RESTARTS_MAX")),
        ("agents.entries.<name>.restart.windowMs", both("RESTART_WINDOW_DEFAULT_MS", 1, "LONG_MS")),
        (
            "agents.entries.<name>.sickness.errorPercent",
            (constant("ERROR_PERCENT_DEFAULT"), "1 to 100".into()),
        ),
        ("agents.entries.<name>.sickness.windowMs", both("SICK_WINDOW_DEFAULT_MS", 1000, "LONG_MS")),
        ("skills.entries.<name>.timeoutMs", both("SKILL_TIMEOUT_DEFAULT_MS", 1, "SKILL_TIMEOUT_MAX_MS")),
        ("supervision.fleet.max", both("FLEET_DEFAULT", 1, "FLEET_MAX")),
        ("supervision.fleet.windowMs", both("FLEET_WINDOW_DEFAULT_MS", 1, "LONG_MS")),
        ("journal.segmentMib", both("SEGMENT_DEFAULT_MIB", 1, "SEGMENT_MAX_MIB")),
        ("journal.retainMib", both("RETAIN_DEFAULT_MIB", 1, "RETAIN_MAX_MIB")),
        ("journal.dedupHours", both("DEDUP_DEFAULT_HOURS", 0, "DEDUP_MAX_HOURS")),
        ("journal.dedupIds", both("DEDUP_DEFAULT_IDS", 1, "DEDUP_MAX_IDS")),
        ("delivery.attemptsMax", both("ATTEMPTS_DEFAULT", 1, "ATTEMPTS_MAX")),
        ("delivery.deadLettersMax", both("DEAD_LETTERS_DEFAULT", 1, "DEAD_LETTERS_MAX")),
        ("agents.entries.<name>.startTimeoutMs", both("START_TIMEOUT_DEFAULT_MS", 1, "START_TIMEOUT_MAX_MS")),
        ("supervision.heartbeat.intervalMs", both("HEARTBEAT_DEFAULT_MS", 10, "HEARTBEAT_MAX_MS")),
        (
            "supervision.heartbeat.idleIntervalMs",
            both("HEARTBEAT_IDLE_DEFAULT_MS", 10, "HEARTBEAT_IDLE_MAX_MS"),
        ),
        ("supervision.heartbeat.misses", both("MISSES_DEFAULT", 1, "MISSES_MAX")),
    ];
    expected.into_iter().for_each(|(key, numbers)| check_numbers(key, &numbers));
    for (name, sentence) in [("AGENTS_MAX", "most {} agents"), ("AGENT_NAME_BYTES_MAX", "1 to {} letters")] {
        let sentence = sentence.replace("{}", &constant(name));
        assert!(DOCUMENT.replace('\n', " ").replace("  ", " ").contains(&sentence), "{sentence}");
    }
}

/// Who the gateway may become is what the source allows.
#[test]
fn users_are_those_of_the_source() {
    let rows = table(KEYS);
    let row = rows.iter().find(|row| row[0] == "gateway.user").expect("a row");
    let known = constant("PASSWD_PATH");
    let expected = format!("a user in `{}`, or 0 to {}", known.trim_matches('"'), constant("USER_MAX"));
    assert_eq!((row[1], row[3]), ("the user who starts it", expected.as_str()));
}

/// What processes in a sandbox may take by default is that of the source, and entries take it from there.
#[test]
fn limits_of_sandboxes_are_those_of_the_source() {
    let limits = [
        ("openFiles", both("OPEN_FILES_DEFAULT", 16, "OPEN_FILES_MAX"), "OPEN_FILES_MIN"),
        ("processes", both("PROCESSES_DEFAULT", 8, "PROCESSES_MAX"), "PROCESSES_MIN"),
        ("fileMib", both("FILE_DEFAULT_MIB", 128, "FILE_MAX_MIB"), "FILE_MIB_MIN"),
    ];
    let rows = table(KEYS);
    for (key, numbers, least) in limits {
        let key = format!("agents.defaults.sandbox.limits.{key}");
        let row = rows.iter().find(|row| row[0] == key).unwrap_or_else(|| panic!("no row {key}"));
        assert_eq!((row[1].to_owned(), row[3].to_owned()), numbers, "{key}");
        assert!(row[3].starts_with(&format!("{} to", constant(least))), "{key}");
        // The rows of entries differ in the default only, which they take from here.
        let entry = key.replace("agents.defaults", "agents.entries.<name>");
        let own = rows.iter().find(|row| row[0] == entry).unwrap_or_else(|| panic!("no row {entry}"));
        assert_eq!((own[1], own[2], own[3]), ("agents.defaults", row[2], row[3]), "{entry}");
    }
}

/// Every flag of `openclaw gateway run` is in one of the tables with its variable, and no other is.
#[test]
fn flags_are_documented() {
    let with_key = table(KEYS).into_iter().filter(|row| row[4] != NOTHING).map(|row| (row[4], NOTHING));
    let without = table(OTHER_FLAGS).into_iter().map(|row| (row[0], row[1]));
    let documented: Vec<_> =
        with_key.chain(without).map(|(flag, variable)| (flag.to_owned(), variable.to_owned())).collect();
    let once: BTreeSet<_> = documented.iter().cloned().collect();
    assert_eq!(once.len(), documented.len(), "a flag is there twice: {documented:?}");
    assert_eq!(once, flags(), "docs/config.md (left) and openclaw gateway run --help (right)");
}

/// The gateway starts with the example, which has every key. Its directory is a temporary one here, and its user this one.
#[test]
fn the_example_is_accepted() {
    let (_, rest) = DOCUMENT.split_once("```json5\n").expect("there is an example");
    let (example, _) = rest.split_once("```").expect("the example ends");
    for row in table(KEYS) {
        let key = row[0].rsplit('.').next().unwrap_or_default();
        assert!(example.contains(&format!(" {key}: ")), "the example lacks {}", row[0]);
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let folder_path = folder.path().to_str().expect("the path is text");
    let (program, file) = (folder.path().join("words.py"), folder.path().join("example.json5"));
    std::fs::write(program, "").expect("the program is written");
    let user = format!("user: {}", rustix::process::geteuid().as_raw());
    let example = example.replace("/srv/agents", folder_path).replace("user: \"openclaw\"", &user);
    std::fs::write(&file, example).expect("the example is written");
    if let Err(refused) = Gateway::start(&["--config", file.to_str().expect("the path is text")]) {
        panic!("the example is refused: {}", refused.stderr);
    }
}
