//! Which files an agent sees, as a list: of what the machine has, and what the specification adds.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::spec::{SYSTEM, SandboxSpec, target_refused};
use super::steps::Step;

/// Files and directories of /etc that programs need to find users, hosts, libraries and certificates.
const ETC: [&str; 15] = [
    "alternatives",
    "ca-certificates",
    "group",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "passwd",
    "protocols",
    "resolv.conf",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
];
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// Links of /dev: programs expect the first four, and shared memory of POSIX is then in the private /tmp.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
    ("/tmp", "dev/shm"),
];

/// Rights of Landlock on files; a number each, as the kernel has them.
mod right {
    pub(super) const EXECUTE: u64 = 1;
    pub(super) const WRITE_FILE: u64 = 1 << 1;
    pub(super) const READ_FILE: u64 = 1 << 2;
    pub(super) const READ_DIR: u64 = 1 << 3;
    pub(super) const MAKE_CHAR: u64 = 1 << 6;
    pub(super) const MAKE_BLOCK: u64 = 1 << 11;
    pub(super) const TRUNCATE: u64 = 1 << 14;
    pub(super) const IOCTL_DEV: u64 = 1 << 15;
}
use right::{EXECUTE, IOCTL_DEV, MAKE_BLOCK, MAKE_CHAR, READ_DIR, READ_FILE, TRUNCATE, WRITE_FILE};

/// What can be asked of a file; the rest is for directories only.
const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

/// What Landlock is asked to look at: all rights on files that this version knows.
pub(super) fn handled_files(version: u32) -> u64 {
    let rights = match version {
        0 | 1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    (1 << rights) - 1
}

/// How the agent may use what it sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    Read,
    Write,
    Device,
}

/// Something of the machine in the view.
#[derive(Debug)]
struct Shown {
    source: PathBuf,
    at: PathBuf,
    how: Use,
    /// Whether symbolic links are followed: on paths of the system only.
    follow: bool,
    directory: bool,
}

/// The view of one sandbox.
#[derive(Debug)]
pub(super) struct View {
    shown: Vec<Shown>,
    /// Links such as /bin to usr/bin.
    links: Vec<(PathBuf, PathBuf)>,
    tmp_mib: u64,
}

/// A path as the kernel takes it.
pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    let bytes = path.as_os_str().as_bytes();
    CString::new(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path with a NUL byte"))
}

/// A path below the root that is being made.
fn below(path: &Path) -> io::Result<CString> {
    c_path(path.strip_prefix("/").unwrap_or(path))
}

impl View {
    /// Looks at the machine. What the system has not is not shown; what the specification names must be there.
    pub(super) fn new(spec: &SandboxSpec) -> io::Result<Self> {
        let mut view = Self { shown: Vec::new(), links: Vec::new(), tmp_mib: spec.limits.tmp_mib };
        for system in SYSTEM.map(Path::new) {
            match std::fs::read_link(system) {
                Ok(to) => view.links.push((to, system.to_owned())),
                Err(_) if system.is_dir() => view.show(system, system, Use::Read, true),
                Err(_) => {}
            }
        }
        for path in ETC.map(|name| Path::new("/etc").join(name)) {
            view.show(&path, &path, Use::Read, true);
        }
        for path in DEVICES.map(|name| Path::new("/dev").join(name)) {
            view.show(&path, &path, Use::Device, true);
        }
        let mut binds: Vec<_> = spec.binds.iter().collect();
        // What lies deeper is bound later, onto what the outer one shows.
        binds.sort_by_key(|bind| bind.target.components().count());
        for bind in binds {
            if let Some(rule) = target_refused(&bind.target) {
                let reason = format!("bind onto {}: {rule}", bind.target.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
            }
            let found = std::fs::symlink_metadata(&bind.source).map_err(|error| {
                io::Error::new(error.kind(), format!("bind {}: {error}", bind.source.display()))
            })?;
            view.shown.push(Shown {
                source: bind.source.clone(),
                at: bind.target.clone(),
                how: if bind.writable { Use::Write } else { Use::Read },
                follow: false,
                directory: found.is_dir(),
            });
        }
        Ok(view)
    }

    fn show(&mut self, source: &Path, at: &Path, how: Use, follow: bool) {
        // Absent on this machine, or a link to nowhere.
        let Ok(found) = std::fs::metadata(source) else { return };
        let (source, at) = (source.to_owned(), at.to_owned());
        self.shown.push(Shown { source, at, how, follow, directory: found.is_dir() });
    }

    /// The steps that make the view the root. The directory in which the agent starts is in it, empty if nothing is shown
    /// there.
    pub(super) fn steps(&self, start: &Path) -> io::Result<Vec<Step>> {
        let mut steps = vec![Step::Private];
        for (slot, shown) in self.shown.iter().enumerate() {
            steps.push(Step::Open { source: c_path(&shown.source)?, slot, follow: shown.follow });
        }
        steps.push(Step::Root);
        let mut made = BTreeSet::new();
        let options = CString::new(format!("mode=1777,size={}m", self.tmp_mib))?;
        directories(&mut steps, &mut made, Path::new("/tmp"))?;
        steps.push(Step::Memory { at: c"tmp".to_owned(), options });
        directories(&mut steps, &mut made, Path::new("/proc"))?;
        steps.extend([Step::Processes, Step::NoNamespaces, Step::SealProcesses]);
        for (to, at) in &self.links {
            steps.push(Step::Link { to: c_path(to)?, at: below(at)? });
        }
        for (slot, shown) in self.shown.iter().enumerate() {
            let at = below(&shown.at)?;
            if shown.directory {
                directories(&mut steps, &mut made, &shown.at)?;
            } else {
                directories(&mut steps, &mut made, shown.at.parent().unwrap_or(Path::new("/")))?;
                steps.push(Step::File { at: at.clone() });
            }
            let attributes = match shown.how {
                Use::Read => libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV,
                Use::Write => libc::MOUNT_ATTR_NODEV,
                Use::Device => libc::MOUNT_ATTR_NOEXEC,
            };
            steps.push(Step::Place { slot, at, attributes });
        }
        directories(&mut steps, &mut made, start)?;
        for (to, at) in LINKS {
            steps.push(Step::Link { to: CString::new(to)?, at: CString::new(at)? });
        }
        steps.extend([Step::Pivot, Step::Seal]);
        Ok(steps)
    }

    /// The steps that have Landlock hold the same view. Without namespaces the paths are those of the machine, there
    /// is no private /tmp, and binds are where they come from.
    pub(super) fn rules(&self, version: u32, namespaces: bool) -> io::Result<Vec<Step>> {
        let handled = handled_files(version);
        let read = EXECUTE | READ_FILE | READ_DIR;
        let write = handled & !(MAKE_CHAR | MAKE_BLOCK);
        let mut steps = vec![Step::Rules];
        for shown in &self.shown {
            let access = match shown.how {
                Use::Read => read,
                Use::Write => write,
                Use::Device => READ_FILE | WRITE_FILE | IOCTL_DEV,
            };
            let access = if shown.directory { access } else { access & OF_FILES };
            let at = if namespaces { &shown.at } else { &shown.source };
            steps.push(Step::Allow { at: c_path(at)?, access: access & handled });
        }
        let mut own = vec![("/proc", READ_FILE | READ_DIR)];
        if namespaces {
            own.extend([("/tmp", write), ("/dev", READ_DIR)]);
        }
        for (at, access) in own {
            steps.push(Step::Allow { at: CString::new(at)?, access: access & handled });
        }
        steps.push(Step::Restrict);
        Ok(steps)
    }
}

/// Steps that make a directory and those above it, each once.
fn directories(steps: &mut Vec<Step>, made: &mut BTreeSet<PathBuf>, path: &Path) -> io::Result<()> {
    let mut above: Vec<_> = path.ancestors().filter(|above| *above != Path::new("/")).collect();
    above.reverse();
    for directory in above {
        if made.insert(directory.to_owned()) {
            steps.push(Step::Directory { at: below(directory)? });
        }
    }
    Ok(())
}
