//! Rules on the source that no compiler checks: each reads the files of every crate and names what breaks it.
//!
//! A rule is a function from files to findings. Where a file may break one, it stands in a list with the
//! reason. The lists only shrink: an entry that is not needed any more fails too.

#[path = "tidy/code.rs"]
mod code;

use std::fs;
use std::path::Path;

use code::{Function, functions, words};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// How far above an ordering its `SYNC:` comment may begin.
const SYNC_LINES_MAX: usize = 4;
/// Names that say nothing about what a module holds or decides.
const EMPTY_NAMES: [&str; 6] = ["utils", "common", "misc", "manager", "processor", "helpers"];
const RUNTIMES: [&str; 2] = ["tokio", "glommio"];
const UNFINISHED: [&str; 5] = ["todo!", "unimplemented!", "dbg!", "#[ignore]", "#[should_panic]"];
const SLEEPS: [&str; 2] = ["thread::sleep", "time::sleep"];
const STRONG_ORDERINGS: [&str; 4] = ["Acquire", "Release", "AcqRel", "SeqCst"];

/// Where each crate may point. Down only; nobody points at the gateway.
const DEPENDENCIES: [(&str, &[&str]); 11] = [
    ("shm-transport", &[]),
    ("agent-sdk", &["shm-transport"]),
    ("engine", &["shm-transport"]),
    ("keeper", &["shm-transport", "agent-sdk"]),
    ("adapters", &["shm-transport", "agent-sdk"]),
    ("sessions", &[]),
    ("gateway", &["shm-transport", "agent-sdk", "engine", "keeper", "adapters", "sessions"]),
    ("bench-harness", &["shm-transport", "agent-sdk", "engine", "keeper", "adapters"]),
    // A client knows only what is on the wire.
    ("loadgen", &[]),
    ("tests", &["shm-transport", "agent-sdk", "engine", "keeper", "adapters"]),
    ("fuzz", &["shm-transport", "agent-sdk", "engine", "keeper", "adapters"]),
];

/// Files, or functions as `path::name`, that may break a rule, each with the reason.
type Exceptions = &'static [(&'static str, &'static str)];

const NONE: Exceptions = &[];
const LONG_FUNCTIONS: Exceptions = &[(
    "shm-transport/src/link/tests.rs::a_scribbling_peer_harms_only_itself",
    "one line too long; both sides of one run",
)];
const UNSAFE_FILES: Exceptions = &[
    ("shm-transport/src/mapping.rs", "borrows and writes mapped memory"),
    ("shm-transport/src/copy.rs", "reads memory that another process writes"),
    ("shm-transport/src/doorbell.rs", "a futex takes the lower half of a 64-bit word"),
    ("shm-transport/src/link/receiver.rs", "hands out a payload in place"),
    ("shm-transport/src/envelope/body.rs", "opens an archive that is valid by construction or by validation"),
    ("shm-transport/src/ring/loom_rig.rs", "checked cells of the model"),
    ("keeper/src/spawn.rs", "code between fork and exec"),
    ("keeper/src/pidfd.rs", "a signal to the group of a process that is held by descriptor"),
    ("keeper/src/sandbox/kernel.rs", "system calls of the sandbox without a safe wrapper"),
    ("tests/src/bin/sandbox_probe.rs", "system calls that only an attacker makes"),
    ("agent-sdk/src/inherited.rs", "takes inherited descriptors"),
    ("engine/src/journal/uring.rs", "entries of the ring point to buffers"),
    ("engine/src/driver/uring_bell.rs", "glommio takes an eventfd only as a raw descriptor"),
];
const ROOTS_WITH_UNSAFE: Exceptions =
    &[("shm-transport/src/lib.rs", "several of its modules are unsafe; they are listed above")];
const ATOMIC_FILES: Exceptions = &[
    ("shm-transport/src/sync.rs", "where they come from"),
    ("shm-transport/src/doorbell.rs", "a futex word has 32 bits; absent under loom"),
    ("shm-transport/src/copy.rs", "words of payload, not of the algorithm; absent under loom"),
    ("shm-transport/src/mapping.rs", "words of payload, not of the algorithm; absent under loom"),
    ("shm-transport/src/link/tests.rs", "tells a test thread to stop"),
];
const UNPAIRED_ORDERINGS: Exceptions =
    &[("shm-transport/src/ring/model_tests.rs", "one thread plays both sides, so nothing pairs")];

/// A file of the workspace.
struct Source {
    /// Relative to the workspace.
    path: String,
    text: String,
    /// The text with comments and literals blanked, line by line as before.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { code::of_rust(text) } else { code::of_manifest(text) };
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_of(&self, krate: &str) -> bool {
        self.path.split('/').next() == Some(krate)
    }

    fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), key: self.path.clone(), line, what: what.into() }
    }

    /// A finding for each line of code that `wrong` says something about.
    fn lines(&self, wrong: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
        let numbered = self.code.lines().zip(1..);
        numbered.filter_map(|(line, number)| Some(self.finding(number, wrong(line)?))).collect()
    }
}

/// What breaks a rule, and where.
struct Finding {
    path: String,
    /// How an exception names it: the path, or a part of the file.
    key: String,
    line: usize,
    what: String,
}

type Rule = fn(&Source) -> Vec<Finding>;

/// Every Rust file and manifest of every crate.
fn workspace() -> Vec<Source> {
    let root = tests::workspace();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("a workspace has a manifest");
    let members = manifest.split_once("members = [").and_then(|(_, rest)| rest.split_once(']'));
    let (members, _) = members.expect("a workspace has members");
    let mut sources = Vec::new();
    for krate in members.split('"').skip(1).step_by(2).chain(["fuzz"]) {
        assert!(root.join(krate).is_dir(), "{krate} is a member and no folder");
        walk(&root, krate, &mut sources);
    }
    sources
}

fn walk(root: &Path, folder: &str, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(root.join(folder)).expect("a folder can be listed") {
        let entry = entry.expect("a folder can be listed");
        let name = entry.file_name().into_string().expect("a name is text");
        let path = format!("{folder}/{name}");
        if entry.file_type().expect("it has a type").is_dir() {
            if name != "target" && !name.starts_with('.') {
                walk(root, &path, sources);
            }
        } else if name.ends_with(".rs") || name == "Cargo.toml" {
            let text = fs::read_to_string(entry.path()).expect("a source is text");
            sources.push(Source::new(&path, &text));
        }
    }
}

/// Fails with every finding outside the exceptions, and with every exception that has none.
fn hold(rule: Rule, exceptions: Exceptions) {
    let findings: Vec<_> = workspace().iter().flat_map(rule).collect();
    let excepted = |finding: &Finding| exceptions.iter().any(|(key, _)| *key == finding.key);
    let mut failures: Vec<String> = findings
        .iter()
        .filter(|finding| !excepted(finding))
        .map(|Finding { path, line, what, .. }| format!("{path}:{line}: {what}"))
        .collect();
    for (key, reason) in exceptions {
        if !findings.iter().any(|finding| finding.key == *key) {
            failures.push(format!("{key}: needs no exception any more, take it out ({reason})"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// Every file says first what it is for.
#[test]
fn files_begin_with_their_purpose() {
    hold(purpose, NONE);
}

fn purpose(source: &Source) -> Vec<Finding> {
    let told = !source.is_rust() || source.text.starts_with("//!");
    if told { Vec::new() } else { vec![source.finding(1, "the first line is not `//!`")] }
}

/// No file is longer than what one reads in one go.
#[test]
fn files_are_short() {
    hold(file_length, NONE);
}

fn file_length(source: &Source) -> Vec<Finding> {
    let count = source.text.lines().count();
    if !source.is_rust() || count <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![source.finding(count, format!("{count} lines, at most {FILE_LINES_MAX}"))]
}

/// No function is longer than a screen or two.
#[test]
fn functions_are_short() {
    hold(function_length, LONG_FUNCTIONS);
}

fn function_length(source: &Source) -> Vec<Finding> {
    let long = functions(&source.code).into_iter().filter(|function| function.lines > FUNCTION_LINES_MAX);
    long.map(|Function { name, line, lines }| {
        let what = format!("{name} has {lines} lines, at most {FUNCTION_LINES_MAX}");
        Finding { key: format!("{}::{name}", source.path), ..source.finding(line, what) }
    })
    .collect()
}

/// A module is named for what it holds or decides.
#[test]
fn names_say_something() {
    hold(empty_name, NONE);
}

fn empty_name(source: &Source) -> Vec<Finding> {
    let mut findings = source.lines(|line| {
        let name = words(line).skip_while(|word| *word != "mod").nth(1)?;
        EMPTY_NAMES.contains(&name).then(|| format!("a module named {name}"))
    });
    let mut parts = source.path.split('/').map(|part| part.trim_end_matches(".rs"));
    if let Some(name) = parts.find(|part| EMPTY_NAMES.contains(part)) {
        findings.push(source.finding(1, format!("a path with {name}")));
    }
    findings
}

/// Unsafe code stays in the files that need it.
#[test]
fn unsafe_code_is_confined() {
    hold(unsafe_code, UNSAFE_FILES);
}

fn unsafe_code(source: &Source) -> Vec<Finding> {
    source.lines(|line| words(line).any(|word| word == "unsafe").then(|| "unsafe code".to_owned()))
}

/// The compiler refuses unsafe code too, in every crate but the one that lives on it.
#[test]
fn crate_roots_refuse_unsafe_code() {
    hold(root_without_refusal, ROOTS_WITH_UNSAFE);
}

fn root_without_refusal(source: &Source) -> Vec<Finding> {
    let root = ["/src/lib.rs", "/src/main.rs"].iter().any(|end| source.path.ends_with(end));
    let refusals = ["#![forbid(unsafe_code)]", "#![deny(unsafe_code)]"];
    if !root || refusals.iter().any(|refusal| source.code.contains(refusal)) {
        return Vec::new();
    }
    vec![source.finding(1, "neither forbids nor denies unsafe_code")]
}

/// What two processes share, and what a shard decides, knows no runtime.
#[test]
fn runtimes_stay_outside() {
    hold(runtime, NONE);
}

fn runtime(source: &Source) -> Vec<Finding> {
    let free_crate = ["shm-transport", "keeper", "agent-sdk"].iter().any(|krate| source.is_of(krate));
    let pure = [
        "breaker",
        "classes",
        "core",
        "dead_letters",
        "dedup",
        "event",
        "flight",
        "histogram",
        "paged",
        "registry",
        "retry",
        "routing",
        "scaling",
        "session",
        "supervision",
        "time",
        "wheel",
    ];
    let module = source.path.strip_prefix("engine/src/");
    if !free_crate && !module.is_some_and(|module| pure.iter().any(|part| module.starts_with(part))) {
        return Vec::new();
    }
    source.lines(|line| {
        let name = words(line).find(|word| RUNTIMES.contains(word))?;
        Some(format!("names the runtime {name}"))
    })
}

/// Dependencies between crates point down.
#[test]
fn dependencies_point_down() {
    hold(dependency, NONE);
}

fn dependency(source: &Source) -> Vec<Finding> {
    let Some(krate) = source.path.strip_suffix("/Cargo.toml") else { return Vec::new() };
    let Some((_, allowed)) = DEPENDENCIES.iter().find(|(name, _)| *name == krate) else {
        return vec![source.finding(1, format!("no rule says what {krate} may depend on"))];
    };
    let mut in_dependencies = false;
    let mut findings = Vec::new();
    for (line, number) in source.code.lines().zip(1..) {
        if let Some(header) = line.trim().strip_prefix('[') {
            in_dependencies = header.contains("dependencies");
        }
        // Any mention counts: a key, a header, a renamed package, a path.
        let mut names = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        let own = names.find(|name| DEPENDENCIES.iter().any(|(own, _)| own == name));
        if let Some(name) = own.filter(|name| in_dependencies && !allowed.contains(name)) {
            findings.push(source.finding(number, format!("{krate} may not depend on {name}")));
        }
    }
    findings
}

/// Nothing unfinished, and no test switched off, without a reason.
#[test]
fn nothing_is_unfinished() {
    hold(unfinished, NONE);
}

fn unfinished(source: &Source) -> Vec<Finding> {
    source.lines(|line| {
        let mark = UNFINISHED.iter().find(|mark| line.contains(**mark))?;
        Some(format!("{mark} (an attribute may have a reason: #[ignore = \"…\"])"))
    })
}

/// A test waits for what must come, not for time to pass.
#[test]
fn tests_do_not_sleep() {
    hold(sleep, NONE);
}

fn sleep(source: &Source) -> Vec<Finding> {
    let test = source.is_of("tests") || source.path.contains("/tests/") || source.path.ends_with("tests.rs");
    if !test {
        return Vec::new();
    }
    source.lines(|line| {
        let call = SLEEPS.iter().find(|call| line.contains(**call))?;
        Some(format!("{call} in a test"))
    })
}

/// Atomics come from `crate::sync`, so that loom can replace them.
#[test]
fn atomics_come_from_one_place() {
    hold(atomic, ATOMIC_FILES);
}

fn atomic(source: &Source) -> Vec<Finding> {
    if !source.is_of("shm-transport") {
        return Vec::new();
    }
    source
        .lines(|line| line.contains("sync::atomic").then(|| "atomics from elsewhere than crate::sync".into()))
}

/// Every ordering of the ring that orders anything names its partner.
#[test]
fn orderings_name_their_partner() {
    hold(ordering, UNPAIRED_ORDERINGS);
}

fn ordering(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("shm-transport/src/ring") {
        return Vec::new();
    }
    let lines: Vec<&str> = source.text.lines().collect();
    let mut findings = source.lines(|line| {
        let name = words(line).find(|word| STRONG_ORDERINGS.contains(word))?;
        Some(format!("{name} without a SYNC: comment in the {SYNC_LINES_MAX} lines above"))
    });
    findings.retain(|finding| {
        let above = &lines[(finding.line - 1).saturating_sub(SYNC_LINES_MAX)..finding.line];
        !above.iter().any(|line| line.contains("SYNC:"))
    });
    findings
}

/// Every rule finds what breaks it, at the right line, and nothing in what only looks like it.
#[test]
fn every_rule_can_fail() {
    let long_file = "//! x\n".repeat(501);
    let long_function = format!("\n    fn f(a: [u8; 2]) {{\n{}\n}}", "x;\n".repeat(69));
    let manifest =
        "[dependencies]\ntokio.workspace = true\n[dev-dependencies]\nx = { path = \"../gateway\" }";
    let rows: [(Rule, &str, &str, usize); 18] = [
        (purpose, "a/src/b.rs", "\n//! Late.", 1),
        (file_length, "a/src/b.rs", &long_file, 501),
        (function_length, "a/src/b.rs", &long_function, 2),
        (empty_name, "a/src/utils.rs", "", 1),
        (empty_name, "a/src/misc/b.rs", "", 1),
        (empty_name, "a/src/b.rs", "\npub mod helpers {", 2),
        (unsafe_code, "a/src/b.rs", "\nlet x = unsafe { *y };", 2),
        (root_without_refusal, "a/src/main.rs", "// #![forbid(unsafe_code)]", 1),
        (runtime, "engine/src/core/turns.rs", "\nuse tokio::x;", 2),
        (runtime, "keeper/Cargo.toml", manifest, 2),
        (dependency, "adapters/Cargo.toml", manifest, 4),
        (dependency, "tests/Cargo.toml", "[target.x.dependencies]\ngateway.workspace = true", 2),
        (dependency, "new/Cargo.toml", "", 1),
        (unfinished, "a/src/b.rs", "\n#[ignore]", 2),
        (unfinished, "a/src/b.rs", "\n\ntodo!()", 3),
        (sleep, "a/tests/b.rs", "use std::thread::sleep;", 1),
        (atomic, "shm-transport/src/ring/b.rs", "use std::sync::atomic::AtomicU8;", 1),
        (ordering, "shm-transport/src/ring/b.rs", "// SYNC:\n\n\n\n\nx(Ordering::Release)", 6),
    ];
    for (rule, path, text, line) in rows {
        let found: Vec<_> = rule(&Source::new(path, text)).iter().map(|finding| finding.line).collect();
        assert_eq!(found, [line], "{path}: {text}");
    }
    let quiet = "//! todo! thread::sleep\n/* unsafe /* tokio */ */ const A: &str = \"unsafe \\\" tokio\";\n\
        const B: &str = r#\"\" todo! unsafe\"#; fn c<'a>(d: &'a str) -> char { '\"' }\n\
        #[ignore = \"a reason\"]\n// SYNC: with e.\nf(Ordering::Release, '\\'', b'\\\\');";
    let rules = [purpose, unsafe_code, runtime, unfinished, sleep, atomic, ordering];
    let quiet = Source::new("shm-transport/src/ring/tests.rs", quiet);
    let found: Vec<_> = rules.iter().flat_map(|rule| rule(&quiet)).map(|finding| finding.what).collect();
    assert!(found.is_empty(), "{found:?}");
}
