//! `openclaw doctor`: what this machine allows, and how to turn on what it does not.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use engine::driver::{self, Choice};
use keeper::cgroup::enforcement::State;
use keeper::cgroup::{Cgroups, Holder};
use keeper::sandbox::probe::{self, Held};
use rustix::process::{Resource, geteuid, getrlimit};
use serde::Serialize;

use crate::config;
use crate::options::{DoctorOptions, FilePlace};
use crate::privileges;
use crate::state_directory;
use crate::table::{self, Align, print_json};

/// Locked memory below this leaves no room for the rings of io_uring on kernels that count them.
const LOCKED_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// Open files below this leave room for less than five hundred agents.
const OPEN_FILES_MIN: u64 = 4096;

const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
/// Sources that the kernel lets programs read by themselves.
const FAST_CLOCKS: [&str; 4] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];

const COLUMNS: [(&str, Align); 3] =
    [("FEATURE", Align::Left), ("STATE", Align::Left), ("REASON", Align::Left)];

/// Why nothing was printed.
#[derive(Debug, thiserror::Error)]
#[error("the findings cannot be printed")]
pub struct DoctorError(#[from] std::io::Error);

/// One thing that was looked at.
#[derive(Serialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Finding {
    feature: &'static str,
    enforced: bool,
    reason: String,
    /// How to turn it on; absent where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Serialize, Debug)]
struct Findings {
    features: Vec<Finding>,
}

/// Looks at the machine, as the gateway's keeper would, and prints what it finds.
pub fn run(options: &DoctorOptions) -> Result<ExitCode, DoctorError> {
    let features = look(&options.place);
    if options.json {
        print_json(&Findings { features })?;
    } else {
        writeln!(std::io::stdout(), "{}", text(&features))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// All findings. This process has one thread until here, which the probe needs.
fn look(place: &FilePlace) -> Vec<Finding> {
    let enforcement = probe::probe();
    let sandbox = enforcement.parts().map(|(feature, held)| match held.clone() {
        Held::Enforced(reason) => Finding { feature, enforced: true, reason, remedy: None },
        Held::NotEnforced { reason, remedy } => {
            Finding { feature, enforced: false, reason, remedy: Some(remedy) }
        }
    });
    let mut features = Vec::from(sandbox);
    // The write limit is for the disk on which the state lies, which may not be there yet: that of its nearest parent.
    let state = state_directory::chosen(place.state_dir.as_deref()).unwrap_or_default();
    let nearest = state.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    features.extend(Cgroups::of_this_process(&[std::process::id()]).enforcement(nearest).into_iter().map(
        |cgroup| {
            let feature = cgroup.feature.name();
            match cgroup.state {
                State::Enforced(Holder::Version1) => found(feature, "cgroups, version 1".to_owned()),
                State::Enforced(Holder::Version2) => found(feature, "cgroups, version 2".to_owned()),
                State::NotEnforced { reason, remedy } => {
                    Finding { feature, enforced: false, reason, remedy: Some(remedy.to_owned()) }
                }
            }
        },
    ));
    features.push(gateway_user(privileges::can_become_another(), geteuid().as_raw()));
    features.push(match driver::choose(Choice::Uring) {
        Ok(_) => found("io_uring", "the kernel allows it".to_owned()),
        Err(error) => Finding {
            feature: "io_uring",
            enforced: false,
            reason: format!("{error}; shards run on epoll"),
            remedy: Some(
                "sysctl kernel.io_uring_disabled=0, and in a container a seccomp profile that allows it"
                    .into(),
            ),
        },
    });
    features.push(clock());
    features.push(privacy(&state));
    features.push(configuration(place));
    let bounds = [
        (
            "locked memory",
            Resource::Memlock,
            LOCKED_BYTES_MIN,
            "bytes",
            "ulimit -l 8192, or LimitMEMLOCK=8M of the service",
        ),
        (
            "open files",
            Resource::Nofile,
            OPEN_FILES_MIN,
            "files",
            "ulimit -Hn 65536, or LimitNOFILE=65536 of the service",
        ),
    ];
    features.extend(bounds.map(|(feature, resource, least, unit, remedy)| {
        // The keeper raises its own limit to the hard one.
        bound(feature, getrlimit(resource).maximum, least, unit, remedy)
    }));
    features
}

/// What a gateway that is started by this user makes of its privileges.
fn gateway_user(can_become_another: Option<bool>, own: u32) -> Finding {
    const FEATURE: &str = "gateway privileges";
    match can_become_another {
        None => found(FEATURE, format!("it runs as user {own}, without capabilities")),
        Some(true) => found(
            FEATURE,
            "it gives up capabilities, and stays root unless gateway.user names another user".to_owned(),
        ),
        Some(false) => Finding {
            feature: FEATURE,
            enforced: false,
            reason: "it gives up capabilities, and stays root: gateway.user needs CAP_SETUID and CAP_SETGID"
                .to_owned(),
            remedy: Some("start it with CAP_SETUID and CAP_SETGID, or as an ordinary user".to_owned()),
        },
    }
}

/// Whether the clock is read without a system call: it is read for each message.
fn clock() -> Finding {
    const FEATURE: &str = "clock";
    match std::fs::read_to_string(CLOCK_SOURCE).map(|name| name.trim().to_owned()) {
        Ok(name) if FAST_CLOCKS.contains(&name.as_str()) => found(FEATURE, name),
        Ok(name) => missing(
            FEATURE,
            format!("{name} is read through the kernel"),
            format!("echo tsc > {CLOCK_SOURCE}, where the kernel offers that"),
        ),
        Err(error) => missing(FEATURE, format!("{CLOCK_SOURCE}: {error}"), "mount /sys".into()),
    }
}

/// Whether nobody but its owner reads what is in the state directory: the token, and what was said.
fn privacy(state: &Path) -> Finding {
    const FEATURE: &str = "private state";
    let Ok(metadata) = state.metadata() else {
        return found(FEATURE, format!("{} is made at the first start", state.display()));
    };
    let mode = metadata.permissions().mode() & 0o777;
    let shown = state.display();
    if mode & 0o077 == 0 {
        return found(FEATURE, format!("{shown} is its owner's only"));
    }
    missing(FEATURE, format!("{shown} has mode {mode:o}"), format!("chmod 700 {shown}"))
}

/// Whether a gateway could start with the configuration.
fn configuration(place: &FilePlace) -> Finding {
    const FEATURE: &str = "configuration";
    let state = state_directory::chosen(place.state_dir.as_deref()).unwrap_or_default();
    let file = config::file::path(place.config.as_deref(), &state);
    if place.config.is_none() && !file.exists() {
        return found(FEATURE, format!("{} is written at the first start", file.display()));
    }
    match config::load_at(place) {
        Ok(_) => found(FEATURE, format!("{} can be used", file.display())),
        Err(error) => {
            // The table has a line for each; `config validate` has all of them.
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            missing(FEATURE, format!("{}: {reason}", file.display()), "openclaw config validate".into())
        }
    }
}

fn missing(feature: &'static str, reason: String, remedy: String) -> Finding {
    Finding { feature, enforced: false, reason, remedy: Some(remedy) }
}

fn found(feature: &'static str, reason: String) -> Finding {
    Finding { feature, enforced: true, reason, remedy: None }
}

fn bound(feature: &'static str, most: Option<u64>, least: u64, unit: &str, remedy: &str) -> Finding {
    match most {
        None => found(feature, "unlimited".to_owned()),
        Some(most) if most >= least => found(feature, format!("{most} {unit}")),
        Some(most) => Finding {
            feature,
            enforced: false,
            reason: format!("{most} {unit}, at least {least} are needed"),
            remedy: Some(remedy.to_owned()),
        },
    }
}

fn text(features: &[Finding]) -> String {
    let state = |finding: &Finding| if finding.enforced { "enforced" } else { "not enforced" }.to_owned();
    let rows: Vec<_> = features
        .iter()
        .map(|finding| [finding.feature.to_owned(), state(finding), finding.reason.clone()])
        .collect();
    let mut lines = table::render(&COLUMNS, &rows);
    for finding in features {
        if let Some(remedy) = &finding.remedy {
            lines.push(format!("\n{}: {remedy}", finding.feature));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ordinary user has nothing to give up; root may become another user, where it has what that takes.
    #[test]
    fn privileges_are_told() {
        let told = |can| {
            let Finding { enforced, reason, remedy, .. } = gateway_user(can, 7);
            (enforced, reason.contains("user 7"), reason.contains("gateway.user"), remedy.is_some())
        };
        assert_eq!(told(None), (true, true, false, false));
        assert_eq!(told(Some(true)), (true, false, true, false));
        assert_eq!(told(Some(false)), (false, false, true, true));
    }

    /// A directory that others may read is told with how to close it, one that is not there and a private one are not.
    #[test]
    fn an_open_state_directory_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let check = |mode: u32, enforced: bool| {
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(privacy(folder.path()).enforced, enforced, "{mode:o}");
        };
        check(0o700, true);
        check(0o750, false);
        check(0o701, false);
        assert_eq!(privacy(folder.path()).remedy, Some(format!("chmod 700 {}", folder.path().display())));
        assert!(privacy(&folder.path().join("gone")).enforced);
    }

    /// A configuration that cannot be used is told; one that is not there is no fault.
    #[test]
    fn a_wrong_configuration_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let place = FilePlace { state_dir: Some(folder.path().to_owned()), config: None };
        assert!(configuration(&place).enforced);
        let write = |text: &str| std::fs::write(folder.path().join("openclaw.json"), text).unwrap();
        write("{gateway: {auth: {mode: 'none'}}}");
        assert!(configuration(&place).enforced);
        write("{gateway: {auth: {mode: 'none'}}, x: 1}");
        let told = configuration(&place);
        assert!(!told.enforced && told.reason.contains("1 of the settings"), "{told:?}");
    }

    /// Both sides of a limit, and a row for what is missing with how to turn it on below.
    #[test]
    fn what_is_missing_comes_with_a_remedy() {
        assert!(bound("open files", None, 10, "files", "more").enforced);
        assert!(bound("open files", Some(10), 10, "files", "more").enforced);
        let few = bound("open files", Some(9), 10, "files", "more");
        assert_eq!((few.enforced, few.remedy.as_deref()), (false, Some("more")));
        let text = text(&[found("seccomp", "filters".to_owned()), few]);
        let expected = "FEATURE     STATE         REASON\n\
            seccomp     enforced      filters\n\
            open files  not enforced  9 files, at least 10 are needed\n\nopen files: more";
        assert_eq!(text, expected);
    }
}
