//! What this machine allows of a sandbox, and what is not enforced without it.

use serde::{Deserialize, Serialize};

use super::kernel;
use super::spec::{Network, SandboxSpec, Seccomp};
use super::start::{Failed, Place, run_steps, sandbox_steps};

/// Landlock keeps signals and abstract sockets inside since this version.
const LANDLOCK_SCOPES_SINCE: u32 = 6;

/// Whether the machine holds a part of the sandbox.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// It does; what with.
    Enforced(String),
    /// It does not.
    NotEnforced {
        /// What was tried, and the kernel's answer.
        reason: String,
        /// What somebody can do about it.
        remedy: String,
    },
}

/// What a machine allows of a sandbox.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Enforcement {
    /// Namespaces with the view; nothing of both without all of it.
    namespaces: Held,
    /// Landlock.
    landlock: Held,
    /// The newest Landlock interface; 0 without.
    landlock_version: u32,
    /// Seccomp.
    seccomp: Held,
}

impl Default for Enforcement {
    /// What is known of a keeper that does not tell: nothing.
    fn default() -> Self {
        let untold = || Held::NotEnforced {
            reason: "the keeper does not tell".to_owned(),
            remedy: "start the keeper of this version".to_owned(),
        };
        Self { namespaces: untold(), landlock: untold(), landlock_version: 0, seccomp: untold() }
    }
}

impl Enforcement {
    /// The parts by name.
    pub fn parts(&self) -> [(&'static str, &Held); 3] {
        [("namespaces", &self.namespaces), ("landlock", &self.landlock), ("seccomp", &self.seccomp)]
    }

    /// What of a specification is not enforced, a sentence each; empty if all is.
    pub fn not_enforced(&self, spec: &SandboxSpec) -> Vec<String> {
        let mut missing = Vec::new();
        for (name, held) in self.parts() {
            match held {
                Held::Enforced(_) => {}
                Held::NotEnforced { .. } if name == "seccomp" && spec.seccomp == Seccomp::None => {}
                Held::NotEnforced { reason, .. } => missing.push(format!("{name} ({reason})")),
            }
        }
        if !self.namespaces() {
            if spec.network == Network::None {
                missing.push("network = none (needs namespaces)".to_owned());
            }
            missing.push("limits.processes (needs namespaces)".to_owned());
            if self.landlock_version < LANDLOCK_SCOPES_SINCE {
                missing.push("signals to other processes (needs namespaces, or Landlock 6)".to_owned());
            }
        }
        missing
    }

    pub(super) fn namespaces(&self) -> bool {
        matches!(self.namespaces, Held::Enforced(_))
    }

    pub(super) fn landlock(&self) -> Option<u32> {
        (self.landlock_version > 0).then_some(self.landlock_version)
    }

    pub(super) fn seccomp(&self) -> bool {
        matches!(self.seccomp, Held::Enforced(_))
    }
}

/// Finds out what this machine allows: by asking the kernel, and by making the sandbox of an agent without a program.
/// The caller has one thread.
pub fn probe() -> Enforcement {
    let seccomp = match kernel::seccomp_available() {
        Ok(()) => Held::Enforced("filters".to_owned()),
        Err(error) => Held::NotEnforced {
            reason: format!("seccomp: {error}"),
            remedy: "a kernel with CONFIG_SECCOMP_FILTER".to_owned(),
        },
    };
    let (landlock, landlock_version) = match kernel::landlock_version() {
        Ok(version) => (Held::Enforced(format!("version {version}")), version),
        Err(error) => {
            let reason = format!("landlock_create_ruleset: {error}");
            let remedy =
                "a kernel from 5.13 on with CONFIG_SECURITY_LANDLOCK, and landlock in the parameter lsm=";
            (Held::NotEnforced { reason, remedy: remedy.to_owned() }, 0)
        }
    };
    let all = Held::Enforced("user, pid, mount, ipc, uts; a view of its own".to_owned());
    let hoped = Enforcement { namespaces: all, landlock, landlock_version, seccomp };
    match attempt(&hoped) {
        Ok(()) => hoped,
        Err(reason) => {
            let remedy = "allow user namespaces: sysctl user.max_user_namespaces above 0, \
                kernel.unprivileged_userns_clone=1 (Debian), \
                kernel.apparmor_restrict_unprivileged_userns=0 or a profile (Ubuntu); \
                in a container: not in a chroot, and without masked paths in /proc";
            Enforcement { namespaces: Held::NotEnforced { reason, remedy: remedy.to_owned() }, ..hoped }
        }
    }
}

/// Makes a whole sandbox, and lets it end.
fn attempt(hoped: &Enforcement) -> Result<(), String> {
    let spec = SandboxSpec::default();
    let steps = sandbox_steps(&spec, hoped, None).map_err(|error| format!("listing the view: {error}"))?;
    let place = Place { birth: None, attach: &|_, _| Ok(()) };
    match run_steps(steps, None, Vec::new(), (&spec, hoped), &place) {
        Ok(started) => {
            let end = rustix::process::WaitOptions::empty();
            // It has told that nothing failed; its exit code says no more.
            let _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(started.process), end)); // As above.
            Ok(())
        }
        Err(Failed::Prepare(step, error)) => Err(format!("{step}: {error}")),
        Err(Failed::Step(step, error)) => Err(format!("{step}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_namespaces(landlock_version: u32) -> Enforcement {
        let held = || Held::Enforced(String::new());
        let missing = Held::NotEnforced { reason: "because".to_owned(), remedy: String::new() };
        Enforcement { namespaces: missing, landlock: held(), landlock_version, seccomp: held() }
    }

    /// What depends on something that is missing is missing, too, and what was not asked for is not.
    #[test]
    fn what_is_missing_is_named() {
        let spec = SandboxSpec::default();
        let whole = ["namespaces (because)", "limits.processes (needs namespaces)"];
        assert_eq!(without_namespaces(6).not_enforced(&spec), whole);
        let closed = SandboxSpec { network: Network::None, ..spec.clone() };
        let missing = without_namespaces(5).not_enforced(&closed);
        assert!(missing.iter().any(|missing| missing.starts_with("network = none")), "{missing:?}");
        assert!(missing.iter().any(|missing| missing.starts_with("signals")), "{missing:?}");
        let untold = Enforcement::default();
        let free = SandboxSpec { seccomp: Seccomp::None, ..spec };
        assert!(!untold.not_enforced(&free).iter().any(|missing| missing.starts_with("seccomp")));
    }
}
