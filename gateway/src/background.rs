//! A gateway that nobody watches: it leaves the terminal, and prints to a file of its own.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use rustix::process::setsid;
use rustix::stdio::dup2_stderr;

use crate::config::Account;
use crate::privileges;
use crate::state_directory::{StateDirectory, StateDirectoryError, gateway_errors};

/// A file that has more begins anew. Only errors and panics get there, of this gateway, its keeper, and the gateways that
/// follow.
const BYTES_MAX: u64 = 1024 * 1024;

/// From now on standard error is a file in the state directory, and the end of the terminal is not that of the gateway.
pub fn leave_terminal(state: &StateDirectory, account: Option<Account>) -> Result<(), StateDirectoryError> {
    let path = gateway_errors(state.path());
    let opened = privileges::acting_as(account, || -> std::io::Result<File> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        if file.metadata()?.len() > BYTES_MAX {
            file.set_len(0)?;
        }
        Ok(file)
    })?;
    let failed = |source| StateDirectoryError::System { step: "opening", path: path.clone(), source };
    let file = opened.map_err(failed)?;
    dup2_stderr(&file).map_err(|errno| failed(errno.into()))?;
    // One that the keeper has started leads a session already.
    let _ = setsid();
    Ok(())
}
