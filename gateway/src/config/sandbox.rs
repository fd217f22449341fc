//! Settings of the sandbox of agents: from words to a specification that the keeper can carry out.

use std::path::{Component, Path, PathBuf};

use keeper::sandbox::spec::{
    BINDS_MAX, Bind, FILE_MIB_MIN, Limits, Network, OPEN_FILES_MIN, PROCESSES_MIN, SYSTEM, SandboxSpec,
    Seccomp, target_refused,
};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use schemars::JsonSchema;
use serde::Deserialize;

use super::range;

const OPEN_FILES_DEFAULT: u64 = 1024;
const OPEN_FILES_MAX: u64 = 1_048_576;
const PROCESSES_DEFAULT: u64 = 512;
const PROCESSES_MAX: u64 = 32_768;
const FILE_DEFAULT_MIB: u64 = 1024;
const FILE_MAX_MIB: u64 = 1_048_576;
/// What a gateway keeps in its state directory, which no agent is shown.
const OWN_FILES: [&str; 8] = [
    "gateway.lock",
    "gateway.sock",
    "journal",
    "keeper.agents",
    "keeper.agents.new",
    "keeper.sock",
    "logs",
    "openclaw.json",
];

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileSandbox {
    mode: Option<String>,
    network: Option<String>,
    seccomp: Option<String>,
    binds: Option<Vec<FileBind>>,
    workspace: Option<PathBuf>,
    require: Option<bool>,
    #[serde(default)]
    limits: FileSandboxLimits,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileBind {
    source: PathBuf,
    target: Option<PathBuf>,
    #[serde(default)]
    writable: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileSandboxLimits {
    open_files: Option<u64>,
    processes: Option<u64>,
    file_mib: Option<u64>,
}

/// What a skill may see and do less than its agent.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileSkillSandbox {
    network: Option<String>,
    seccomp: Option<String>,
    binds: Option<Vec<FileBind>>,
    #[serde(default)]
    limits: FileSandboxLimits,
}

/// The sandbox of the skill `key` as its settings have it, and where they say nothing as `base` has it.
pub(super) fn of_skill(
    broken: &mut Vec<String>,
    key: &str,
    own: &FileSkillSandbox,
    base: &SandboxSpec,
    state_directory: &Path,
) -> SandboxSpec {
    let said = |name: &str, value: &Option<String>| {
        value.as_ref().map(|value| Said { key: format!("{key}.sandbox.{name}"), value: value.clone() })
    };
    let network = said("network", &own.network)
        .and_then(|said| word(broken, &said, &[("host", Network::Host), ("none", Network::None)]));
    let words = [("strict", Seccomp::Strict), ("standard", Seccomp::Standard), ("none", Seccomp::None)];
    let seccomp = said("seccomp", &own.seccomp).and_then(|said| word(broken, &said, &words));
    let mut spec = base.clone();
    spec.network = network.unwrap_or(base.network);
    spec.seccomp = seccomp.unwrap_or(base.seccomp);
    let FileSandboxLimits { open_files, processes, file_mib } = own.limits;
    let limits = [
        ("openFiles", open_files, &mut spec.limits.open_files, (OPEN_FILES_MIN, OPEN_FILES_MAX)),
        ("processes", processes, &mut spec.limits.processes, (PROCESSES_MIN, PROCESSES_MAX)),
        ("fileMib", file_mib, &mut spec.limits.file_mib, (FILE_MIB_MIN, FILE_MAX_MIB)),
    ];
    for (name, value, limit, (min, max)) in limits {
        let Some(value) = value else { continue };
        range(broken, &format!("{key}.sandbox.limits.{name}"), value, min, max);
        *limit = value;
    }
    if let Some(binds) = &own.binds {
        let mut shown = Binds { broken, key, state_directory, list: Vec::new() };
        for FileBind { source, target, writable } in binds {
            let target = target.clone().unwrap_or_else(|| source.clone());
            shown.add("binds", Bind { source: source.clone(), target, writable: *writable });
        }
        spec.binds = shown.list;
    }
    spec
}

/// What of an agent its sandbox depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'a> {
    /// The agent's command; none for the built-in one.
    pub(super) command: Option<&'a [String]>,
    /// Where it starts, if that is said.
    pub(super) working_directory: Option<&'a Path>,
    /// That of the gateway, which no agent is shown.
    pub(super) state_directory: &'a Path,
}

/// A word with the key it comes from.
struct Said {
    key: String,
    value: String,
}

/// The sandbox of the agent `key`: its own settings, else those of `agents.defaults`, else the defaults. `None` if it
/// is off.
pub(super) fn check(
    broken: &mut Vec<String>,
    key: &str,
    own: &FileSandbox,
    defaults: &FileSandbox,
    around: Surroundings<'_>,
) -> Option<SandboxSpec> {
    let chosen = |name: &str, own: Option<&str>, default: Option<&str>, preset: &str| {
        let (place, value) = match (own, default) {
            (Some(own), _) => (key, own),
            (None, Some(default)) => ("agents.defaults", default),
            (None, None) => (key, preset),
        };
        Said { key: format!("{place}.sandbox.{name}"), value: value.to_owned() }
    };
    let mode = chosen("mode", own.mode.as_deref(), defaults.mode.as_deref(), "on");
    let on = word(broken, &mode, &[("on", true), ("off", false)])?;
    let network = chosen("network", own.network.as_deref(), defaults.network.as_deref(), "host");
    let network = word(broken, &network, &[("host", Network::Host), ("none", Network::None)]);
    let seccomp = chosen("seccomp", own.seccomp.as_deref(), defaults.seccomp.as_deref(), "standard");
    let words = [("strict", Seccomp::Strict), ("standard", Seccomp::Standard), ("none", Seccomp::None)];
    let seccomp = word(broken, &seccomp, &words);
    let limits = limits(broken, key, &own.limits, &defaults.limits);
    if !on {
        return None;
    }
    let mut binds = Binds { broken, key, state_directory: around.state_directory, list: Vec::new() };
    for bind in own.binds.as_ref().or(defaults.binds.as_ref()).into_iter().flatten() {
        let target = bind.target.clone().unwrap_or_else(|| bind.source.clone());
        binds.add("binds", Bind { source: bind.source.clone(), target, writable: bind.writable });
    }
    if let Some(workspace) = own.workspace.as_ref().or(defaults.workspace.as_ref()) {
        binds.workspace(workspace);
    }
    binds.start(around, own.workspace.is_some() || defaults.workspace.is_some());
    let Binds { list, .. } = binds;
    if list.len() > BINDS_MAX {
        broken.push(format!(
            "{key}.sandbox.binds: at most {BINDS_MAX} are possible, with those of the command"
        ));
    }
    let require = own.require.or(defaults.require).unwrap_or(false);
    Some(SandboxSpec { network: network?, seccomp: seccomp?, binds: list, limits, require })
}

fn word<T: Copy>(broken: &mut Vec<String>, from: &Said, words: &[(&str, T)]) -> Option<T> {
    let found = words.iter().find(|(word, _)| *word == from.value).map(|(_, value)| *value);
    if found.is_none() {
        let words: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let rule = format!("{} = \"{}\": must be {}", from.key, from.value, words.join(" or "));
        if !broken.contains(&rule) {
            broken.push(rule);
        }
    }
    found
}

fn limits(
    broken: &mut Vec<String>,
    key: &str,
    own: &FileSandboxLimits,
    defaults: &FileSandboxLimits,
) -> Limits {
    let mut bound = |name: &str, own: Option<u64>, default: Option<u64>, preset: u64, min: u64, max: u64| {
        let place = if own.is_none() && default.is_some() { "agents.defaults" } else { key };
        let value = own.or(default).unwrap_or(preset);
        range(broken, &format!("{place}.sandbox.limits.{name}"), value, min, max);
        value
    };
    let open_files = bound(
        "openFiles",
        own.open_files,
        defaults.open_files,
        OPEN_FILES_DEFAULT,
        OPEN_FILES_MIN,
        OPEN_FILES_MAX,
    );
    let processes = bound(
        "processes",
        own.processes,
        defaults.processes,
        PROCESSES_DEFAULT,
        PROCESSES_MIN,
        PROCESSES_MAX,
    );
    let file_mib =
        bound("fileMib", own.file_mib, defaults.file_mib, FILE_DEFAULT_MIB, FILE_MIB_MIN, FILE_MAX_MIB);
    Limits { open_files, processes, file_mib, ..Limits::default() }
}

/// The binds of one agent, while they are collected.
struct Binds<'a> {
    broken: &'a mut Vec<String>,
    key: &'a str,
    state_directory: &'a Path,
    list: Vec<Bind>,
}

impl Binds<'_> {
    /// Adds a bind that the file names, or says why it cannot be.
    fn add(&mut self, name: &str, bind: Bind) {
        let source = bind.source.display();
        let reason = source_refused(&bind.source)
            .or_else(|| shows_state(&bind.source, self.state_directory))
            .or_else(|| {
                target_refused(&bind.target).map(|rule| format!("target {} {rule}", bind.target.display()))
            });
        match reason {
            Some(reason) => self.broken.push(format!("{}.sandbox.{name} = {source}: {reason}", self.key)),
            None => self.list.push(bind),
        }
    }

    fn workspace(&mut self, workspace: &Path) {
        if workspace.is_absolute() && !workspace.is_dir() {
            let rule =
                format!("{}.sandbox.workspace = {}: is not a directory", self.key, workspace.display());
            return self.broken.push(rule);
        }
        self.add("workspace", Bind { source: workspace.into(), target: workspace.into(), writable: true });
    }

    /// Shows what the agent starts with: its directory, writable unless there is a workspace beside it, and the files
    /// that its command names.
    fn start(&mut self, around: Surroundings<'_>, has_workspace: bool) {
        let Ok(own) = std::env::current_dir() else { return };
        let directory = around.working_directory.map(|directory| own.join(directory));
        if let Some(directory) = &directory
            && let Ok(source) = directory.canonicalize()
            && !self.is_shown(directory)
            && directory != Path::new("/tmp")
        {
            if let Some(reason) = shows_state(&source, self.state_directory) {
                let directory = directory.display();
                self.broken.push(format!("{}.workingDirectory = {directory}: {reason}", self.key));
            } else if target_refused(directory).is_none() {
                self.list.push(Bind { source, target: directory.clone(), writable: !has_workspace });
            }
        }
        let start = directory.unwrap_or(own);
        for (index, word) in around.command.unwrap_or_default().iter().enumerate() {
            // A program without a slash is looked for in PATH, inside.
            if index > 0 || word.contains('/') {
                self.show_file(&start.join(word));
            }
        }
    }

    /// Shows a file of the command, read-only, unless it is shown already or has no place in a view.
    fn show_file(&mut self, path: &Path) {
        let (true, Ok(source)) = (path.is_file(), path.canonicalize()) else { return };
        let target = without_dots(path);
        if target_refused(&target).is_none()
            && !self.is_shown(&target)
            && shows_state(&source, self.state_directory).is_none()
        {
            self.list.push(Bind { source, target, writable: false });
        }
    }

    fn is_shown(&self, path: &Path) -> bool {
        is_visible(&self.list, path)
    }
}

/// Whether a path is in the view: of the system, or by a bind.
pub(super) fn is_visible(binds: &[Bind], path: &Path) -> bool {
    let system = SYSTEM.iter().any(|system| path.starts_with(system));
    system || binds.iter().any(|bind| path.starts_with(&bind.target))
}

/// Why a program cannot be run, if it cannot: as given if it has a slash, else looked for in the directories of PATH, of
/// which a sandbox has only some.
pub(super) fn program_refused(
    program: &str,
    directory: Option<&Path>,
    sandbox: Option<&SandboxSpec>,
) -> Option<String> {
    let missing = || Some("no such program; give its path, or install it".to_owned());
    if program.contains('/') {
        let path = directory.map_or_else(|| PathBuf::from(program), |directory| directory.join(program));
        return if path.is_file() { None } else { missing() };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).map(|directory| directory.join(program));
    let places: Vec<_> = places.filter(|path| path.is_file()).collect();
    let Some(first) = places.first() else { return missing() };
    let seen = sandbox.is_none_or(|spec| places.iter().any(|path| is_visible(&spec.binds, path)));
    (!seen).then(|| {
        let folder = first.parent().unwrap_or(first).display();
        format!("lies in {folder}, which the sandbox does not show; add what it needs to sandbox.binds")
    })
}

/// A path without `.` and `..`, by its words alone.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

/// Why a source cannot be bound, if it cannot: it is looked up as the keeper does.
fn source_refused(source: &Path) -> Option<String> {
    if !source.is_absolute() {
        return Some("must be an absolute path".to_owned());
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(CWD, source, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(_) => None,
        Err(Errno::NOENT) => Some("is not there".to_owned()),
        Err(Errno::LOOP) => {
            Some("must not be, or lie behind, a symbolic link; name what it points to".to_owned())
        }
        Err(errno) => Some(format!("cannot be opened: {}", std::io::Error::from(errno))),
    }
}

/// Why an agent must not be shown this, if it would show what the gateway keeps.
fn shows_state(source: &Path, state_directory: &Path) -> Option<String> {
    let state = std::path::absolute(state_directory).unwrap_or_else(|_| state_directory.to_owned());
    let state = state.canonicalize().unwrap_or(state);
    let inside = source.strip_prefix(&state).ok().and_then(|rest| rest.components().next());
    let own = inside.is_some_and(|first| OWN_FILES.iter().any(|own| first.as_os_str() == *own));
    (own || state.starts_with(source)).then(|| {
        format!(
            "would show an agent the state directory of the gateway, {}; name something else",
            state.display()
        )
    })
}

/// A specification that shows also the program that hosts agents.
pub fn with_host(mut spec: SandboxSpec, host: &Path) -> SandboxSpec {
    if !is_visible(&spec.binds, host) {
        spec.binds.push(Bind { source: host.to_owned(), target: host.to_owned(), writable: false });
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str, around: Surroundings<'_>) -> Result<Option<SandboxSpec>, Vec<String>> {
        let mut broken = Vec::new();
        let own: FileSandbox = json5::from_str(text).unwrap();
        let spec = check(&mut broken, "agents.entries.a", &own, &FileSandbox::default(), around);
        if broken.is_empty() { Ok(spec) } else { Err(broken) }
    }

    fn around(state_directory: &Path) -> Surroundings<'_> {
        Surroundings { command: None, working_directory: None, state_directory }
    }

    /// Every rule is named with its key and its reason, before anything starts.
    #[test]
    fn broken_rules_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        let state = path.join("state");
        std::fs::create_dir_all(state.join("journal")).unwrap();
        std::fs::create_dir(path.join("data")).unwrap();
        std::os::unix::fs::symlink(path.join("data"), path.join("link")).unwrap();
        let at = |name: &str| path.join(name).display().to_string();
        let bind = |source: &str| format!("{{binds: [{{source: '{source}'}}]}}");
        let data = at("data");
        let cases = [
            ("{mode: 'maybe'}".to_owned(), "mode = \"maybe\": must be \"on\" or \"off\""),
            ("{network: 'lan'}".to_owned(), "network = \"lan\": must be \"host\" or \"none\""),
            (
                "{seccomp: 'weak'}".to_owned(),
                "seccomp = \"weak\": must be \"strict\" or \"standard\" or \"none\"",
            ),
            ("{limits: {openFiles: 15}}".to_owned(), "limits.openFiles = 15: must be between 16 and"),
            ("{limits: {processes: 7}}".to_owned(), "limits.processes = 7: must be between 8 and"),
            ("{limits: {fileMib: 127}}".to_owned(), "limits.fileMib = 127: must be between 128 and"),
            (bind("relative"), "binds = relative: must be an absolute path"),
            (bind(&at("absent")), "absent: is not there"),
            (bind(&at("link")), "link: must not be, or lie behind, a symbolic link"),
            (bind(&at("link/../link")), "link: must not be, or lie behind, a symbolic link"),
            (bind(&at("state")), "would show an agent the state directory"),
            (bind(&at("state/journal")), "would show an agent the state directory"),
            (bind(&at("")), "would show an agent the state directory"),
            (format!("{{binds: [{{source: '{data}', target: '/etc/x'}}]}}"), "target /etc/x lies outside"),
            (
                format!("{{binds: [{{source: '{data}', target: '/a/../b'}}]}}"),
                "target /a/../b must be an absolute",
            ),
            (format!("{{workspace: '{}'}}", at("absent")), "workspace = "),
        ];
        for (text, expected) in cases {
            let broken = checked(&text, around(&state)).unwrap_err();
            assert!(broken.len() == 1 && broken[0].contains(expected), "{text}: {broken:?}");
            assert!(broken[0].starts_with("agents.entries.a.sandbox."), "{broken:?}");
        }
        assert!(json5::from_str::<FileSandbox>("{netwrk: 'none'}").is_err());
    }

    /// Own settings win over defaults, and what the agent starts with is shown.
    #[test]
    fn settings_become_a_specification() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        for name in ["agent.py", "other.py"] {
            std::fs::write(path.join(name), "").unwrap();
        }
        let (state, work) = (path.join("state"), path.join("work"));
        std::fs::create_dir(&work).unwrap();
        let script = path.join("agent.py").display().to_string();
        let command = ["python3".to_owned(), script, "../other.py".to_owned(), "/etc/passwd".to_owned()];
        let surroundings =
            Surroundings { command: Some(&command), working_directory: Some(&work), state_directory: &state };
        let spec = checked("{}", surroundings).unwrap().unwrap();
        let bind = |path: PathBuf, writable| Bind { source: path.clone(), target: path, writable };
        let files = ["agent.py", "other.py"].map(|name| bind(path.join(name), false));
        assert_eq!(spec.binds, [&[bind(work.clone(), true)], &files[..]].concat());
        assert_eq!((spec.network, spec.seccomp, spec.require), (Network::Host, Seccomp::Standard, false));
        assert_eq!(spec.limits, Limits::default());

        let mut broken = Vec::new();
        let own: FileSandbox = json5::from_str("{network: 'none', limits: {openFiles: 64}}").unwrap();
        let defaults: FileSandbox =
            json5::from_str("{network: 'host', seccomp: 'strict', require: true, limits: {openFiles: 32}}")
                .unwrap();
        let spec = check(&mut broken, "a", &own, &defaults, around(&state)).unwrap();
        assert_eq!((spec.network, spec.seccomp, spec.require), (Network::None, Seccomp::Strict, true));
        assert_eq!((spec.limits.open_files, spec.binds.len()), (64, 0));
        let off: FileSandbox = json5::from_str("{mode: 'off'}").unwrap();
        assert_eq!(check(&mut broken, "a", &off, &defaults, around(&state)), None);
        assert_eq!(broken, Vec::<String>::new());
        let wrong: FileSandbox = json5::from_str("{mode: 'of'}").unwrap();
        check(&mut broken, "a", &FileSandbox::default(), &wrong, around(&state));
        assert!(broken[0].starts_with("agents.defaults.sandbox.mode = \"of\""), "{broken:?}");
        let shown = with_host(spec, &path.join("agent.py"));
        assert_eq!(shown.binds, [bind(path.join("agent.py"), false)]);
        assert_eq!(with_host(shown.clone(), Path::new("/usr/bin/openclaw")), shown);
    }
}
