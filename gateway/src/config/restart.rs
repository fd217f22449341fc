//! Whether and how a gateway is started again.

use std::path::Path;

use keeper::control::{KEPT_VARIABLES, Start};

use super::auth::SECRET_VARIABLES;
use crate::options::RestartChoice;
use crate::systemd;

/// Variables that say something to a gateway, beside those that everybody gets.
const OWN_VARIABLES: [&str; 5] = [
    "OPENCLAW_CONFIG_PATH",
    "OPENCLAW_STATE_DIR",
    "OPENCLAW_LOG_LEVEL",
    SECRET_VARIABLES[0].0,
    SECRET_VARIABLES[1].0,
];

/// The longest text of arguments, directory and variables, as JSON: it travels to the keeper in one message.
const START_BYTES_MAX: usize = 48 * 1024;

const _: () = assert!(START_BYTES_MAX + 4096 < keeper::control::DATAGRAM_BYTES_MAX, "with what goes along");

/// Whether the keeper starts a gateway that has crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Unless systemd does.
    Auto,
    /// In any case.
    Always,
    /// Not at all.
    Never,
}

/// The flag or the key; what it may not be is added to `broken`.
pub(super) fn check(broken: &mut Vec<String>, flag: Option<RestartChoice>, file: Option<&str>) -> Restart {
    match (flag, file) {
        (Some(RestartChoice::Auto), _) | (None, None | Some("auto")) => Restart::Auto,
        (Some(RestartChoice::Always), _) | (None, Some("always")) => Restart::Always,
        (Some(RestartChoice::Never), _) | (None, Some("never")) => Restart::Never,
        (None, Some(other)) => {
            broken.push(format!("gateway.restart = \"{other}\": must be \"auto\", \"always\" or \"never\""));
            Restart::Never
        }
    }
}

impl Restart {
    /// Whether the keeper is to start the next gateway after a crash.
    pub fn after_crash(self) -> bool {
        match self {
            Self::Auto => !systemd::is_there(),
            Self::Always => true,
            Self::Never => false,
        }
    }

    /// Whether the keeper is to start the next gateway after `gateway restart`.
    pub fn after_handover(self) -> bool {
        self == Self::Always || !systemd::is_there()
    }
}

/// How this process would be started again: its program as it is then, its arguments, directory and variables. `None`: an
/// argument is no text, the directory is gone, or it is all too long.
pub fn start_again(executable: &Path) -> Option<Start> {
    let mut argv = vec![executable.to_str()?.to_owned()];
    for argument in std::env::args_os().skip(1) {
        argv.push(argument.into_string().ok()?);
    }
    let names = KEPT_VARIABLES.iter().chain(&OWN_VARIABLES);
    let environment = names.map(|&name| (name.to_owned(), std::env::var(name).ok())).collect();
    let start = Start { argv, working_directory: std::env::current_dir().ok()?, environment };
    (serde_json::to_vec(&start).ok()?.len() <= START_BYTES_MAX).then_some(start)
}
