//! The parent: prepares everything, clones, writes the maps, and hears what failed.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Signal, WaitOptions};

use super::enter::{Entry, Program};
use super::kernel::{self, Handled, NAMESPACES, NETWORK_NAMESPACE, Strings};
use super::probe::Enforcement;
use super::spec::{Network, SandboxSpec};
use super::steps::Step;
use super::view::{self, View, c_path};
use crate::cgroup::Born;
use crate::spawn::Target;

const MIB: u64 = 1024 * 1024;
/// Landlock's scopes: abstract sockets, and signals; known since version 6.
const SCOPES: u64 = 0b11;
const SCOPES_SINCE: u32 = 6;

/// What is to be run, with everything at hand.
#[derive(Debug)]
pub(crate) struct Task {
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
    /// All variables.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// Where it starts.
    pub(crate) working_directory: PathBuf,
    /// Standard input, output, error.
    pub(crate) standard: [OwnedFd; 3],
    /// Copies of descriptors, and their numbers in the agent.
    pub(crate) rings: Vec<(OwnedFd, Target)>,
    /// The most open files its keeper could give it.
    pub(crate) open_files_max: Option<u64>,
    /// Whether it ends when its keeper does.
    pub(crate) dies_with_keeper: bool,
}

/// A process whose program has been loaded.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) process: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// The specification requires what this machine does not allow.
    #[error("not enforced, and sandbox.require is set: {}", missing.join("; "))]
    Required { missing: Vec<String> },
    /// Something could not be prepared.
    #[error("{step} failed")]
    Prepare {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    /// A step of the child failed.
    #[error("{step} failed")]
    Step {
        step: String,
        #[source]
        source: io::Error,
    },
    /// The program could not be loaded.
    #[error("program {program} cannot be run")]
    Execute {
        program: String,
        #[source]
        source: io::Error,
    },
}

/// Where a process is put.
pub(crate) struct Place<'a> {
    /// The directory of a cgroup of version 2, in which it is made if the kernel does that.
    pub(crate) birth: Option<OwnedFd>,
    /// Is given the process before it has run, and whether it has been made there: it puts it wherever else it has to be.
    pub(crate) attach: &'a dyn Fn(Pid, Born) -> io::Result<()>,
}

fn prepare(step: &'static str) -> impl FnOnce(io::Error) -> SandboxError {
    move |source| SandboxError::Prepare { step, source }
}

/// Starts a program in a sandbox, as far as this machine allows one.
pub(crate) fn start(
    spec: &SandboxSpec,
    allowed: &Enforcement,
    task: Task,
    place: &Place<'_>,
) -> Result<Started, SandboxError> {
    let missing = allowed.not_enforced(spec);
    if spec.require && !missing.is_empty() {
        return Err(SandboxError::Required { missing });
    }
    let path = program_path(&task);
    let program = task.argv.first().cloned().unwrap_or_default();
    let mut steps = sandbox_steps(spec, allowed, Some(&task)).map_err(prepare("listing the view"))?;
    steps.push(Step::Execute);
    let strings = |texts: Vec<Vec<u8>>| -> io::Result<Strings> {
        Ok(Strings::new(texts.into_iter().map(CString::new).collect::<Result<_, _>>()?))
    };
    let arguments = task.argv.iter().map(|text| text.as_bytes().to_vec()).collect();
    let variables = task.environment.iter();
    let variables =
        variables.map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect();
    let loaded = Program {
        path: c_path(&path).map_err(prepare("naming the program"))?,
        arguments: strings(arguments).map_err(prepare("copying arguments"))?,
        environment: strings(variables).map_err(prepare("copying the environment"))?,
        standard: task.standard,
    };
    let step = run_steps(steps, Some(loaded), task.rings, (spec, allowed), place);
    step.map_err(|error| match error {
        Failed::Prepare(step, source) => SandboxError::Prepare { step, source },
        Failed::Step(Step::Execute, source) => SandboxError::Execute { program, source },
        Failed::Step(step, source) => SandboxError::Step { step: step.to_string(), source },
    })
}

/// Why [`run_steps`] has no process to show.
#[derive(Debug)]
pub(super) enum Failed {
    Prepare(&'static str, io::Error),
    Step(Step, io::Error),
}

/// All steps of a sandbox but the last.
pub(super) fn sandbox_steps(
    spec: &SandboxSpec,
    allowed: &Enforcement,
    task: Option<&Task>,
) -> io::Result<Vec<Step>> {
    let namespaces = allowed.namespaces();
    let view = View::new(spec)?;
    let directory = task.map_or(Path::new("/"), |task| &task.working_directory);
    let mut steps = vec![Step::Session];
    if task.is_some_and(|task| task.dies_with_keeper) {
        // Before the wait, which fails if the keeper has died already.
        steps.push(Step::DieWithKeeper);
    }
    steps.extend([Step::Await, Step::Descriptors]);
    if namespaces {
        if rustix::process::geteuid().is_root() {
            steps.push(Step::Groups);
        }
        steps.push(Step::HostName);
        steps.extend(view.steps(directory)?);
    }
    steps.push(Step::NoNewPrivileges);
    if let Some(version) = allowed.landlock() {
        steps.extend(view.rules(version, namespaces)?);
    }
    steps.push(Step::WorkingDirectory { at: c_path(directory)? });
    steps.push(Step::Capabilities);
    let limits = &spec.limits;
    let open_files = task
        .and_then(|task| task.open_files_max)
        .map_or(limits.open_files, |most| most.min(limits.open_files));
    let mut bounds = vec![
        (Resource::Nofile, open_files),
        (Resource::Fsize, limits.file_mib.saturating_mul(MIB)),
        (Resource::Stack, limits.stack_mib.saturating_mul(MIB)),
        (Resource::Core, 0),
    ];
    if namespaces {
        bounds.push((Resource::Nproc, limits.processes));
    }
    bounds.extend(limits.address_space_mib.map(|mib| (Resource::As, mib.saturating_mul(MIB))));
    steps.extend(bounds.into_iter().map(|(resource, most)| Step::Limit { resource, most }));
    if allowed.seccomp() {
        let programs = super::filter::programs(spec.seccomp);
        let programs = programs.map_err(|error| io::Error::other(error.to_string()))?;
        steps.extend(programs.into_iter().map(|program| Step::Filter { program }));
    }
    Ok(steps)
}

/// Clones, attaches, lets the child go on, and waits until it has loaded its program, ended or failed.
pub(super) fn run_steps(
    steps: Vec<Step>,
    program: Option<Program>,
    rings: Vec<(OwnedFd, Target)>,
    (spec, allowed): (&SandboxSpec, &Enforcement),
    place: &Place<'_>,
) -> Result<Started, Failed> {
    let namespaces = if allowed.namespaces() { NAMESPACES } else { 0 };
    let network = if namespaces != 0 && spec.network == Network::None { NETWORK_NAMESPACE } else { 0 };
    let pipe =
        || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Failed::Prepare("making a pipe", errno.into()));
    let ((hold, go), (heard, report)) = (pipe()?, pipe()?);
    let go_of_child =
        go.as_fd().try_clone_to_owned().map_err(|error| Failed::Prepare("making a pipe", error))?;
    let version = allowed.landlock().unwrap_or(0);
    let slots = steps.iter().filter(|step| matches!(step, Step::Open { .. })).count();
    let mut entry = Entry {
        steps,
        slots: (0..slots).map(|_| None).collect(),
        rings,
        program,
        handled: Handled {
            files: view::handled_files(version),
            network: 0,
            scoped: if version >= SCOPES_SINCE { SCOPES } else { 0 },
        },
        landlock_version: version,
        hold,
        hold_writer: Some(go_of_child),
        report,
        rules: None,
    };
    let (process, pidfd, born) = clone_in(namespaces | network, place.birth.as_ref(), &mut entry)
        .map_err(|error| Failed::Prepare("making namespaces", error))?;
    let Entry { steps, report, .. } = entry;
    // Its last copy here, so that the pipe ends with the child.
    drop(report);
    let mapped = if namespaces == 0 { Ok(()) } else { write_maps(process) };
    let mapped = mapped.map_err(|error| ("writing the maps of the user namespace", error));
    let attached =
        mapped.and_then(|()| (place.attach)(process, born).map_err(|error| ("entering the cgroup", error)));
    let go_on = |()| rustix::io::write(&go, &[1]).map_err(|errno| ("letting the child go on", errno.into()));
    if let Err((step, error)) = attached.and_then(go_on) {
        abandon(process);
        return Err(Failed::Prepare(step, error));
    }
    drop(go);
    match failure(&heard) {
        Ok(None) => Ok(Started { process, pidfd }),
        Ok(Some((index, error))) => {
            abandon(process);
            match steps.into_iter().nth(index) {
                Some(step) => Err(Failed::Step(step, error)),
                None => Err(Failed::Prepare("reading the report of the child", error)),
            }
        }
        Err(error) => {
            abandon(process);
            Err(Failed::Prepare("reading the report of the child", error))
        }
    }
}

/// Makes the child in its cgroup. Where that is refused, by a kernel before 5.7 or for what the cgroup is, it is made beside
/// the keeper, and has to be moved before it runs.
fn clone_in(
    namespaces: libc::c_int,
    birth: Option<&OwnedFd>,
    entry: &mut Entry,
) -> io::Result<(Pid, OwnedFd, Born)> {
    if let Some(cgroup) = birth
        && let Ok((process, pidfd)) = kernel::clone_child(namespaces, Some(cgroup.as_fd()), entry)
    {
        return Ok((process, pidfd, Born::Inside));
    }
    // What was wrong with it if it was not the cgroup is wrong again.
    kernel::clone_child(namespaces, None, entry).map(|(process, pidfd)| (process, pidfd, Born::Outside))
}

/// Maps the keeper's user and group onto themselves, and no others.
fn write_maps(process: Pid) -> io::Result<()> {
    let folder = PathBuf::from(format!("/proc/{}", process.as_raw_nonzero()));
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if user != 0 {
        // The kernel wants this before an ordinary user may map a group.
        std::fs::write(folder.join("setgroups"), "deny")?;
    }
    std::fs::write(folder.join("uid_map"), format!("{user} {user} 1"))?;
    std::fs::write(folder.join("gid_map"), format!("{group} {group} 1"))
}

/// What the child says has failed, or nothing if its program is loaded.
fn failure(heard: &OwnedFd) -> io::Result<Option<(usize, io::Error)>> {
    let mut told = [0; 8];
    match rustix::io::retry_on_intr(|| rustix::io::read(heard, &mut told))? {
        0 => Ok(None),
        8 => {
            let [a, b, c, d, e, f, g, h] = told;
            let index = u32::from_ne_bytes([a, b, c, d]) as usize;
            Ok(Some((index, io::Error::from_raw_os_error(i32::from_ne_bytes([e, f, g, h])))))
        }
        _ => Err(Errno::IO.into()),
    }
}

/// Ends a child that is of no use.
fn abandon(process: Pid) {
    // It may have ended already; either way it is waited for.
    let _ = rustix::process::kill_process(process, Signal::KILL); // As above.
    let _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(process), WaitOptions::empty())); // As above.
}

/// The path of the program: as given if it has a slash, else where PATH has it.
fn program_path(task: &Task) -> PathBuf {
    let program = task.argv.first().map(String::as_str).unwrap_or_default();
    if program.contains('/') {
        return PathBuf::from(program);
    }
    let path = task.environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value);
    let found = path.and_then(|path| {
        std::env::split_paths(path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
    });
    found.unwrap_or_else(|| PathBuf::from(program))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs::File;

    use super::*;
    use crate::cgroup::{Cgroups, Limits, Subtree};
    use crate::sandbox::probe;

    /// Makes a process there, and says whether it was made inside, and what its cgroups were then.
    fn born(birth: Option<OwnedFd>) -> (Born, String) {
        let (spec, allowed) = (SandboxSpec::default(), probe::probe());
        let steps = sandbox_steps(&spec, &allowed, None).unwrap();
        let seen = RefCell::new(None);
        let attach = |process: Pid, born| {
            let path = format!("/proc/{}/cgroup", process.as_raw_nonzero());
            *seen.borrow_mut() = Some((born, std::fs::read_to_string(path)?));
            Ok(())
        };
        let place = Place { birth, attach: &attach };
        let started = run_steps(steps, None, Vec::new(), (&spec, &allowed), &place).unwrap();
        rustix::process::waitpid(Some(started.process), WaitOptions::empty()).unwrap();
        seen.into_inner().expect("it was given")
    }

    /// A process is made in the cgroup of version 2, before anybody could have moved it; where the kernel refuses that,
    /// since it is none, the process is made all the same.
    #[test]
    fn a_process_begins_in_its_cgroup() {
        let folder = tempfile::tempdir().unwrap();
        let none = OwnedFd::from(File::open(folder.path()).unwrap());
        let before = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        assert_eq!(born(Some(none)), (Born::Outside, before.clone()));
        assert_eq!(born(None), (Born::Outside, before));

        let subtree = Subtree::open(&Cgroups::of_this_process(&[]), folder.path());
        let agent = subtree.create("born", 1, &Limits::default()).unwrap();
        if agent.birthplace().is_none() {
            return println!("not run: version 2 of cgroups cannot be used here");
        }
        let (born, cgroups) = born(agent.birthplace());
        let own = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
        assert_eq!((born, own.rsplit('/').next()), (Born::Inside, agent.leaf()), "{cgroups}");
        assert!(agent.is_empty() && agent.remove());
        subtree.close();
    }
}
