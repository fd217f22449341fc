//! What can be asked of a sandbox: a closed set of choices, which a child can only narrow.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Least of open files: those that an agent is started with, and a few of its own.
pub const OPEN_FILES_MIN: u64 = 16;
/// Least of processes and threads.
pub const PROCESSES_MIN: u64 = 8;
/// Least size of a file in MiB: the largest message, and as much again.
pub const FILE_MIB_MIN: u64 = 128;
/// The most binds of one sandbox.
pub const BINDS_MAX: usize = 64;
/// Directories of the machine that every view has, read-only, as far as they are there.
pub const SYSTEM: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// Where the view has something of its own.
const OWN: [&str; 4] = ["/etc", "/proc", "/dev", "/sys"];

/// What an agent may reach of the network.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Nothing: a namespace of its own, whose loopback is down.
    None,
    /// What its machine reaches.
    Host,
}

/// Which system calls are refused.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// All but a list of those that ordinary programs need.
    Strict,
    /// Those that ordinary programs do not need and that reach beyond a process.
    Standard,
    /// None.
    None,
}

/// A file or directory of the machine that the agent sees.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Bind {
    /// Where it is: absolute, no component of it a symbolic link.
    pub source: PathBuf,
    /// Where the agent sees it: absolute.
    pub target: PathBuf,
    /// Whether the agent may change it.
    #[serde(default)]
    pub writable: bool,
}

/// Bounds on what an agent takes.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Limits {
    /// Open files of each process.
    pub open_files: u64,
    /// Processes and threads together. Not held without namespaces, where those of the whole user would count.
    pub processes: u64,
    /// Size of any file it writes, in MiB.
    pub file_mib: u64,
    /// Stack of each process, in MiB.
    pub stack_mib: u64,
    /// Address space of each process, in MiB; unbounded if absent.
    pub address_space_mib: Option<u64>,
    /// What may lie in its `/tmp`, in MiB.
    pub tmp_mib: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            open_files: 1024,
            processes: 512,
            file_mib: 1024,
            stack_mib: 8,
            address_space_mib: None,
            tmp_mib: 256,
        }
    }
}

/// What an agent may see and do. Namespaces for users, processes, mounts, IPC and host name are always part of it,
/// and so are the loss of all capabilities and the minimal read-only view.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct SandboxSpec {
    /// The network.
    pub network: Network,
    /// System calls.
    pub seccomp: Seccomp,
    /// Files and directories beside those that every view has, in the order in which they are bound.
    pub binds: Vec<Bind>,
    /// Bounds.
    pub limits: Limits,
    /// Whether an agent is refused that cannot have all of it.
    pub require: bool,
}

impl Default for SandboxSpec {
    fn default() -> Self {
        Self {
            network: Network::Host,
            seccomp: Seccomp::Standard,
            binds: Vec::new(),
            limits: Limits::default(),
            require: false,
        }
    }
}

/// A specification that is meant to be narrower, and allows something that the wider one does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field} allows what the surrounding sandbox does not")]
pub struct NotNarrower {
    /// Which field of it.
    pub field: &'static str,
}

impl SandboxSpec {
    /// The sandbox of a child of this one that asks for `wanted`: exactly that, if this one allows all of it.
    ///
    /// # Errors
    /// With the first field by which `wanted` is not narrower.
    pub fn narrow(&self, wanted: &Self) -> Result<Self, NotNarrower> {
        let within = |field, holds: bool| if holds { Ok(()) } else { Err(NotNarrower { field }) };
        let (ours, theirs) = (&self.limits, &wanted.limits);
        within("network", wanted.network <= self.network)?;
        within("seccomp", wanted.seccomp <= self.seccomp)?;
        within("binds", wanted.binds.iter().all(|bind| self.shows(bind)))?;
        within("limits.open_files", theirs.open_files <= ours.open_files)?;
        within("limits.processes", theirs.processes <= ours.processes)?;
        within("limits.file_mib", theirs.file_mib <= ours.file_mib)?;
        within("limits.stack_mib", theirs.stack_mib <= ours.stack_mib)?;
        let bounded = ours.address_space_mib.is_none_or(|ours| {
            let theirs = theirs.address_space_mib;
            theirs.is_some_and(|theirs| theirs <= ours)
        });
        within("limits.address_space_mib", bounded)?;
        within("limits.tmp_mib", theirs.tmp_mib <= ours.tmp_mib)?;
        within("require", wanted.require || !self.require)?;
        Ok(wanted.clone())
    }

    /// Whether what `bind` shows is shown by this sandbox, too; as writable only if nothing of it is read-only here.
    fn shows(&self, bind: &Bind) -> bool {
        let plain = !bind.source.components().any(|part| part == Component::ParentDir);
        let covered = self.binds.iter().any(|ours| bind.source.starts_with(&ours.source));
        let mut overlapping = self
            .binds
            .iter()
            .filter(|ours| bind.source.starts_with(&ours.source) || ours.source.starts_with(&bind.source));
        plain && covered && (!bind.writable || overlapping.all(|ours| ours.writable))
    }
}

/// Why something cannot be bound at a path of the view, if it cannot.
pub fn target_refused(target: &Path) -> Option<&'static str> {
    let mut parts = target.components();
    if parts.next() != Some(Component::RootDir) || !parts.all(|part| matches!(part, Component::Normal(_))) {
        return Some("must be an absolute path without '.' and '..'");
    }
    if target.parent().is_none() {
        return Some("must not be the root of the view");
    }
    let taken = SYSTEM.iter().chain(&OWN).any(|own| target.starts_with(own));
    if taken {
        return Some(
            "lies outside of what a view may add to: not in /usr, /bin, /sbin, /lib*, /etc, /proc, /dev or /sys",
        );
    }
    (target == Path::new("/tmp")).then_some("must not replace the private /tmp; a path below it may be bound")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATHS: [&str; 6] = ["/a", "/a/b", "/a/b/c", "/ab", "/d", "/a/../d"];

    fn bind() -> impl Strategy<Value = Bind> {
        (0..PATHS.len(), any::<bool>()).prop_map(|(index, writable)| Bind {
            source: PATHS[index].into(),
            target: format!("/view/{index}").into(),
            writable,
        })
    }

    fn limits() -> impl Strategy<Value = Limits> {
        let small = 1..4u64;
        (
            small.clone(),
            small.clone(),
            small.clone(),
            small.clone(),
            proptest::option::of(small.clone()),
            small,
        )
            .prop_map(|(open_files, processes, file_mib, stack_mib, address_space_mib, tmp_mib)| {
                Limits { open_files, processes, file_mib, stack_mib, address_space_mib, tmp_mib }
            })
    }

    fn spec() -> impl Strategy<Value = SandboxSpec> {
        let network = prop_oneof![Just(Network::None), Just(Network::Host)];
        let seccomp = prop_oneof![Just(Seccomp::Strict), Just(Seccomp::Standard), Just(Seccomp::None)];
        (network, seccomp, proptest::collection::vec(bind(), 0..4), limits(), any::<bool>()).prop_map(
            |(network, seccomp, binds, limits, require)| SandboxSpec {
                network,
                seccomp,
                binds,
                limits,
                require,
            },
        )
    }

    type Widen = fn(&mut SandboxSpec);

    /// What an agent might do.
    #[derive(Debug)]
    enum Attempt {
        Connect,
        CallOutsideStrict,
        CallOutsideStandard,
        Read(&'static str),
        Write(&'static str),
        Take(fn(&Limits) -> u64, u64),
        RunUnenforced,
    }

    fn attempts() -> Vec<Attempt> {
        let mut all = vec![
            Attempt::Connect,
            Attempt::CallOutsideStrict,
            Attempt::CallOutsideStandard,
            Attempt::RunUnenforced,
        ];
        for path in ["/a/file", "/a/b/file", "/a/b/c/file", "/ab/file", "/d/file"] {
            all.extend([Attempt::Read(path), Attempt::Write(path)]);
        }
        let bounds: [fn(&Limits) -> u64; 6] = [
            |limits| limits.open_files,
            |limits| limits.processes,
            |limits| limits.file_mib,
            |limits| limits.stack_mib,
            |limits| limits.address_space_mib.unwrap_or(u64::MAX),
            |limits| limits.tmp_mib,
        ];
        all.extend(bounds.iter().flat_map(|bound| (1..5).map(|much| Attempt::Take(*bound, much))));
        all
    }

    /// Written apart from `narrow`: what a sandbox lets an agent do.
    fn allows(spec: &SandboxSpec, attempt: &Attempt) -> bool {
        // What `..` leads to is what the kernel would show.
        let real = |bind: &Bind| {
            if bind.source == Path::new("/a/../d") { PathBuf::from("/d") } else { bind.source.clone() }
        };
        let covers = |bind: &&Bind, path: &str| Path::new(path).starts_with(real(bind));
        match attempt {
            Attempt::Connect => spec.network == Network::Host,
            Attempt::CallOutsideStrict => spec.seccomp != Seccomp::Strict,
            Attempt::CallOutsideStandard => spec.seccomp == Seccomp::None,
            Attempt::Read(path) => spec.binds.iter().any(|bind| covers(&bind, path)),
            Attempt::Write(path) => spec.binds.iter().any(|bind| covers(&bind, path) && bind.writable),
            Attempt::Take(bound, much) => *much <= bound(&spec.limits),
            Attempt::RunUnenforced => !spec.require,
        }
    }

    proptest! {
        /// What is narrowed never allows what either side forbids, and is exactly what was asked for.
        #[test]
        fn a_child_can_only_narrow(outer in spec(), wanted in spec()) {
            if let Ok(inner) = outer.narrow(&wanted) {
                for attempt in attempts() {
                    let allowed = allows(&inner, &attempt);
                    prop_assert!(!allowed || (allows(&outer, &attempt) && allows(&wanted, &attempt)), "{attempt:?}");
                }
                prop_assert_eq!(inner, wanted);
            }
        }

        /// Each field alone is enough for a refusal, and what is narrower in each field is granted.
        #[test]
        fn each_field_is_looked_at(mut outer in spec()) {
            outer.limits.address_space_mib = Some(3);
            outer.require = true;
            outer.network = Network::None;
            outer.seccomp = Seccomp::Strict;
            let narrower = SandboxSpec { binds: Vec::new(), ..outer.clone() };
            prop_assert_eq!(outer.narrow(&narrower), Ok(narrower));
            let widened: [(&str, Widen); 10] = [
                ("network", |spec| spec.network = Network::Host),
                ("seccomp", |spec| spec.seccomp = Seccomp::Standard),
                ("binds", |spec| spec.binds = vec![Bind { source: "/e".into(), target: "/a".into(), writable: false }]),
                ("limits.open_files", |spec| spec.limits.open_files += 1),
                ("limits.processes", |spec| spec.limits.processes += 1),
                ("limits.file_mib", |spec| spec.limits.file_mib += 1),
                ("limits.stack_mib", |spec| spec.limits.stack_mib += 1),
                ("limits.address_space_mib", |spec| spec.limits.address_space_mib = None),
                ("limits.tmp_mib", |spec| spec.limits.tmp_mib += 1),
                ("require", |spec| spec.require = false),
            ];
            for (field, widen) in widened {
                let mut wanted = SandboxSpec { binds: Vec::new(), ..outer.clone() };
                widen(&mut wanted);
                prop_assert_eq!(outer.narrow(&wanted), Err(NotNarrower { field }));
            }
        }
    }

    /// Both sides of each rule on targets.
    #[test]
    fn targets_stay_in_the_free_part_of_the_view() {
        for target in ["/srv", "/srv/data", "/tmp/data", "/home/agent", "/usrlocal"] {
            assert_eq!(target_refused(Path::new(target)), None, "{target}");
        }
        for target in [
            "/",
            "srv",
            "",
            "/srv/../etc",
            "/usr/x",
            "/etc",
            "/proc/1",
            "/dev/sda",
            "/sys",
            "/lib64/x",
            "/tmp",
        ] {
            assert!(target_refused(Path::new(target)).is_some(), "{target}");
        }
    }
}
