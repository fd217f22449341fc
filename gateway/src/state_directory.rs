//! The directory in which one gateway keeps its files, and the lock that makes it one.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::config::Account;
use crate::privileges::{self, PrivilegeError};

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirectoryError {
    /// It cannot be made or written.
    #[error("{step} {path} failed", path = path.display())]
    System {
        /// Which step.
        step: &'static str,
        /// Which file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The user that the configuration names cannot be acted as.
    #[error(transparent)]
    User(#[from] PrivilegeError),
    /// Another gateway uses it.
    #[error(
        "state directory {path} is used by another gateway (process {holder}); stop it, or give --state-dir",
        path = path.display()
    )]
    Taken {
        /// Which directory.
        path: PathBuf,
        /// What the lock file says.
        holder: String,
    },
}

/// Why the gateway of a state directory cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// The default state directory is unknown.
    #[error("there is no home directory, so --state-dir is needed")]
    NoHome,
    /// Nobody is there.
    #[error(
        "no gateway runs in state directory {}; start one with `openclaw gateway run`, or give --state-dir",
        directory.display()
    )]
    NoGateway {
        /// The state directory.
        directory: PathBuf,
    },
    /// The state directory is somebody else's.
    #[error(
        "not allowed to {what} the gateway in state directory {}: only the user who runs it is",
        directory.display()
    )]
    NotAllowed {
        /// What was to be done.
        what: &'static str,
        /// The state directory.
        directory: PathBuf,
    },
}

/// The directory that was given, or `~/.openclaw`; `None` where there is no home directory.
pub fn chosen(given: Option<&Path>) -> Option<PathBuf> {
    given.map(Path::to_owned).or_else(|| Some(std::env::home_dir()?.join(".openclaw")))
}

/// The control socket of the keeper of a gateway that uses this directory.
pub fn keeper_socket(directory: &Path) -> PathBuf {
    directory.join("keeper.sock")
}

/// The admin socket of a gateway that uses this directory.
pub fn admin_socket(directory: &Path) -> PathBuf {
    directory.join("gateway.sock")
}

/// The devices that are paired with a gateway that uses this directory.
pub fn devices_file(directory: &Path) -> PathBuf {
    directory.join("devices.json")
}

/// What a gateway that uses this directory has to say.
pub fn gateway_log(directory: &Path) -> PathBuf {
    directory.join("logs").join("gateway.log")
}

/// What a gateway that was started in the background, and its keeper, print on standard error.
pub fn gateway_errors(directory: &Path) -> PathBuf {
    directory.join("logs").join("gateway.err")
}

/// What an agent of a gateway that uses this directory prints.
pub fn agent_log(directory: &Path, name: &str) -> PathBuf {
    directory.join("logs").join("agents").join(format!("{name}.log"))
}

/// The directory, locked for as long as this value lives.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    _lock: File,
}

impl StateDirectory {
    /// Makes the directory (for the owner only) and takes its lock, as `account` if there is one: whatever is made belongs to
    /// that user.
    pub fn open(path: &Path, account: Option<Account>) -> Result<Self, StateDirectoryError> {
        if let Some(account) = account {
            make_for(path, account)?;
        }
        privileges::acting_as(account, || Self::lock(path))?
    }

    fn lock(path: &Path) -> Result<Self, StateDirectoryError> {
        let failed = |step: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| StateDirectoryError::System { step, path, source }
        };
        let logs = path.join("logs").join("agents");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&logs)
            .map_err(failed("making", &logs))?;
        let path = path.canonicalize().map_err(failed("resolving", path))?;
        let lock_path = path.join("gateway.lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed("opening", &lock_path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            // Only for the message; an unreadable lock file is still a held lock.
            let _ = lock.read_to_string(&mut holder);
            return Err(StateDirectoryError::Taken { path, holder: holder.trim().to_owned() });
        }
        lock.set_len(0).map_err(failed("writing", &lock_path))?;
        writeln!(lock, "{}", std::process::id()).map_err(failed("writing", &lock_path))?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keeper's control socket.
    pub fn keeper_socket(&self) -> PathBuf {
        keeper_socket(&self.path)
    }

    /// What an agent prints.
    pub fn agent_log(&self, name: &str) -> PathBuf {
        agent_log(&self.path, name)
    }
}

/// Makes what is not there of a path, for a user who may not do it.
fn make_for(path: &Path, account: Account) -> Result<(), StateDirectoryError> {
    let missing: Vec<_> = path
        .ancestors()
        .filter(|part| part.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound))
        .collect();
    for part in missing.into_iter().rev().filter(|part| !part.as_os_str().is_empty()) {
        let failed = |step: &'static str| {
            move |source| StateDirectoryError::System { step, path: part.to_owned(), source }
        };
        std::fs::DirBuilder::new().mode(0o700).create(part).map_err(failed("making"))?;
        lchown(part, Some(account.user), Some(account.group)).map_err(failed("giving away"))?;
    }
    Ok(())
}
