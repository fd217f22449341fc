//! What the gateway may do beside what its user may: nothing, as soon as its port is bound and its keeper runs.
//!
//! Capabilities are given up in any case. Where `gateway.user` names a user, the process becomes it, for good, and closes the
//! way to more by running another program. Without the key that way stays open: a keeper that this process starts later
//! needs what the first one had, and root could write the programs that others run anyway. The keeper keeps what it
//! has: it starts agents and the next gateway, which does the same.

use std::path::PathBuf;

use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use crate::config::Account;
use crate::state_directory::StateDirectory;

/// Why privileges were not given up. The gateway does not go on with them.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The kernel counts privileges by thread, so that only a process of one thread gives up those of all.
    #[error("privileges are given up by a process of one thread, and this one has {count}")]
    Threads {
        /// How many it has.
        count: usize,
    },
    /// The threads of this process cannot be counted.
    #[error("the threads of this process cannot be counted")]
    Uncounted(#[source] std::io::Error),
    /// It cannot become the user.
    #[error("gateway.user: {step} user {user} failed")]
    User {
        /// Which step.
        step: &'static str,
        /// Which user.
        user: u32,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// It cannot give up what it has.
    #[error("{step} failed")]
    Kept {
        /// Which step.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// Only capabilities gave access to the state directory.
    #[error(
        "state directory {path} belongs to user {owner}, and the gateway goes on as user {user} without capabilities, which \
         may not write there: set gateway.user to {owner}, or change the owner",
        path = path.display()
    )]
    StateDirectory {
        /// Which directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who wants to write there.
        user: u32,
    },
}

/// Gives up everything but what `account`, or the user of this process, may do anyway. For good, and for all threads that
/// are started from now on: there must be no other one yet.
pub fn give_up(account: Option<Account>, state: &StateDirectory) -> Result<(), PrivilegeError> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(PrivilegeError::Uncounted)?;
    match threads.count() {
        1 => {}
        count => return Err(PrivilegeError::Threads { count }),
    }
    if let Some(account) = account.filter(|account| account.user != geteuid().as_raw()) {
        become_user(account)?;
    }
    let kept = |step: &'static str| move |errno: Errno| PrivilegeError::Kept { step, source: errno.into() };
    clear_ambient_capability_set().map_err(kept("giving up ambient capabilities"))?;
    let none = CapabilitySet::empty();
    let nothing = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, nothing).map_err(kept("giving up capabilities"))?;
    let user = geteuid().as_raw();
    tracing::info!(user, group = getegid().as_raw(), "goes on without capabilities");
    let path = state.path();
    match rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Ok(()),
        Err(_refused) => {
            // Who may not look at it either is told of root, whose it then most likely is.
            let owner = rustix::fs::stat(path).map_or(0, |found| found.st_uid);
            Err(PrivilegeError::StateDirectory { path: path.to_owned(), owner, user })
        }
    }
}

fn become_user(account: Account) -> Result<(), PrivilegeError> {
    let (user, group) = (Uid::from_raw(account.user), Gid::from_raw(account.group));
    let failed = |step: &'static str| {
        move |errno: Errno| PrivilegeError::User { step, user: account.user, source: errno.into() }
    };
    for capability in CapabilitySet::all().iter() {
        // It takes a capability to give up these. Where that is missing, what is done last closes the way as well.
        let _ = remove_capability_from_bounding_set(capability); // As above.
    }
    // Groups first: they take what the change of the user takes away.
    set_thread_groups(&[]).map_err(failed("leaving other groups for"))?;
    set_thread_res_gid(group, group, group).map_err(failed("taking the group of"))?;
    set_thread_res_uid(user, user, user).map_err(failed("becoming"))?;
    set_no_new_privs(true).map_err(failed("giving up new privileges of"))
}

/// Does something as a user, so that what it makes belongs to that user, and what that user may not do fails.
pub fn acting_as<T>(account: Option<Account>, act: impl FnOnce() -> T) -> Result<T, PrivilegeError> {
    let (own, own_group) = (geteuid(), getegid());
    let Some(account) = account.filter(|account| account.user != own.as_raw()) else { return Ok(act()) };
    let failed = |step: &'static str| {
        move |errno: Errno| PrivilegeError::User { step, user: account.user, source: errno.into() }
    };
    set_thread_res_gid(own_group, Gid::from_raw(account.group), own_group)
        .map_err(failed("taking the group of"))?;
    // The effective user only, so that there is a way back.
    set_thread_res_uid(own, Uid::from_raw(account.user), own).map_err(failed("acting as"))?;
    let done = act();
    set_thread_res_uid(own, own, own).map_err(failed("coming back from"))?;
    set_thread_res_gid(own_group, own_group, own_group).map_err(failed("coming back from the group of"))?;
    Ok(done)
}

/// Whether this process can become another user; `None` where nobody expects it to, since it is not root.
pub fn can_become_another() -> Option<bool> {
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
    // What is not known is not had.
    let held = || capabilities(None).is_ok_and(|sets| sets.effective.contains(needed));
    geteuid().is_root().then(held)
}
