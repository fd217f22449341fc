//! Why there is no keeper to talk to.

use std::path::PathBuf;

use super::{ClientError, WELCOME_DEADLINE};
use crate::control::VERSION;

/// Why no keeper was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket of an earlier keeper answers.
    #[error("a keeper still runs on {}; end it, or choose another state directory", path.display())]
    AlreadyRunning {
        /// The control socket.
        path: PathBuf,
    },
    /// The control socket could not be made.
    #[error("{step} of the control socket {} failed", path.display())]
    Socket {
        /// Which step.
        step: &'static str,
        /// The control socket.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// There is no such program.
    #[error("the keeper {} is missing: it belongs beside `openclaw`, and `cargo build --release --package keeper` builds it", executable.display())]
    Missing {
        /// Where it should be.
        executable: PathBuf,
    },
    /// The program could not be run.
    #[error("the keeper {} cannot be run", executable.display())]
    Run {
        /// The program.
        executable: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The keeper ended or broke off before it answered; its own words are on standard error.
    #[error("the keeper on {} broke off before it answered", path.display())]
    BrokeOff {
        /// The control socket.
        path: PathBuf,
        /// What was seen of it.
        #[source]
        source: ClientError,
    },
    /// The keeper did not answer in time.
    #[error("the keeper on {} did not answer within {} s", path.display(), WELCOME_DEADLINE.as_secs())]
    Silent {
        /// The control socket.
        path: PathBuf,
    },
    /// The keeper answered, but not with a welcome.
    #[error("the keeper on {} refuses: {reason}", path.display())]
    Refused {
        /// The control socket.
        path: PathBuf,
        /// Its reason.
        reason: String,
    },
    /// The keeper speaks none of the versions of this build.
    #[error("the keeper on {} speaks control version {version}, this gateway {VERSION}", path.display())]
    OtherVersion {
        /// The control socket.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}
