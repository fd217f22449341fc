//! As which user the gateway runs once it is up: `gateway.user`, and what this process was when it started.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use keeper::cgroup::enforcement::Enforcement;
use rustix::process::geteuid;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{ConfigError, limits};
use crate::options::RunOptions;
use crate::state_directory;

/// Where names of users are looked up.
const PASSWD_PATH: &str = "/etc/passwd";
/// The largest number of a user; the one above it means nobody at all to the kernel.
const USER_MAX: u32 = 4_294_967_294;
/// What the gateway makes in its state directory. The rest of it may belong to others.
const OWN_ENTRIES: [&str; 3] = ["gateway.lock", "journal", "logs"];

/// The value of the key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum FileUser {
    Number(i64),
    Name(String),
}

/// A user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub user: u32,
    /// The number of its primary group.
    pub group: u32,
}

/// What this process was when it started, before it gave up its privileges. A configuration that is read again is judged
/// by this: the next gateway starts like this one.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its user.
    pub(super) user: u32,
    /// What of the limits of agents holds.
    pub(super) limits: Vec<Enforcement>,
}

impl Standing {
    /// To be asked for when the process starts.
    pub fn find(options: &RunOptions) -> Result<Self, ConfigError> {
        let directory = state_directory::chosen(options.state_dir.as_deref()).ok_or(ConfigError::NoHome)?;
        Ok(Self::of(&directory))
    }

    /// The same for a state directory that is known.
    pub fn of(state_directory: &Path) -> Self {
        Self { user: geteuid().as_raw(), limits: limits::enforcement(state_directory) }
    }
}

/// The user that the key names, for a gateway that is started as user `own`; what it may not be is added to `broken`.
pub(super) fn check(
    broken: &mut Vec<String>,
    named: Option<&FileUser>,
    own: u32,
    state_directory: &Path,
) -> Option<Account> {
    let named = named?;
    match resolve(named).and_then(|account| allow(account, own, state_directory)) {
        Ok(account) => Some(account),
        Err(rule) => {
            broken.push(format!("gateway.user = {named}: {rule}"));
            None
        }
    }
}

fn resolve(named: &FileUser) -> Result<Account, String> {
    // A file that cannot be read knows nobody.
    let known = std::fs::read_to_string(PASSWD_PATH).unwrap_or_default();
    match named {
        FileUser::Number(number) => match u32::try_from(*number) {
            // In a container the user of a number often has no name. Its group then is that of the same number.
            Ok(user @ 0..=USER_MAX) => Ok(by_number(user, &known).unwrap_or(Account { user, group: user })),
            _ => Err(format!("must be between 0 and {USER_MAX}")),
        },
        FileUser::Name(name) => by_name(name, &known)
            .ok_or_else(|| format!("no such user in {PASSWD_PATH}; give one that is there, or a number")),
    }
}

fn allow(account: Account, own: u32, state_directory: &Path) -> Result<Account, String> {
    let user = account.user;
    if own != 0 && own != user {
        return Err(format!(
            "only root can become another user, and the gateway is started as user {own}; start it as root, or take the \
             key out"
        ));
    }
    match foreign(state_directory, user) {
        None => Ok(account),
        Some((path, owner)) => Err(format!(
            "{} must belong to user {user}, and belongs to user {owner}; run `chown -R {user} {}`, or give another \
             --state-dir",
            path.display(),
            state_directory.display()
        )),
    }
}

/// The first of the state directory and what the gateway makes there that another user owns, and who. What is not there
/// will be made.
fn foreign(state_directory: &Path, user: u32) -> Option<(PathBuf, u32)> {
    let own = OWN_ENTRIES.map(|name| state_directory.join(name));
    let paths = std::iter::once(state_directory.to_owned()).chain(own);
    let owned = paths.filter_map(|path| Some((std::fs::metadata(&path).ok()?.uid(), path)));
    owned.into_iter().find(|&(owner, _)| owner != user).map(|(owner, path)| (path, owner))
}

/// Users as `passwd(5)` has them: name, password, number, primary group, and more.
fn users(known: &str) -> impl Iterator<Item = (&str, Account)> {
    known.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let mut number = |skipped| fields.nth(skipped)?.parse().ok();
        Some((name, Account { user: number(1)?, group: number(0)? }))
    })
}

fn by_name(wanted: &str, known: &str) -> Option<Account> {
    users(known).find(|(name, _)| *name == wanted).map(|(_, account)| account)
}

fn by_number(wanted: u32, known: &str) -> Option<Account> {
    users(known).map(|(_, account)| account).find(|account| account.user == wanted)
}

impl fmt::Display for FileUser {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(formatter, "{number}"),
            Self::Name(name) => write!(formatter, "\"{name}\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &str = "root:x:0:0:root:/root:/bin/sh\nbroken:x\nclaw:x:990:991::/:/bin/false\n";

    /// A name, a number that has a name, one that has none; and lines that are no users.
    #[test]
    fn users_are_found_by_name_and_number() {
        let claw = Account { user: 990, group: 991 };
        assert_eq!((by_name("claw", KNOWN), by_number(990, KNOWN)), (Some(claw), Some(claw)));
        assert_eq!(
            (by_name("broken", KNOWN), by_name("x", KNOWN), by_number(991, KNOWN)),
            (None, None, None)
        );
        let nameless = USER_MAX - 1;
        let found = resolve(&FileUser::Number(nameless.into()));
        assert_eq!(found, Ok(Account { user: nameless, group: nameless }));
    }

    /// What is refused, with key, value and rule: a user that is not there, numbers beyond both limits, another user than
    /// one's own where that is not root, and a directory of somebody else.
    #[test]
    fn what_cannot_be_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let owner = std::fs::metadata(directory.path()).unwrap().uid();
        let refused = |named: FileUser, own: u32, directory: &Path| {
            let mut broken = Vec::new();
            let account = check(&mut broken, Some(&named), own, directory);
            (account.map(|account| account.user), broken)
        };
        let nowhere = Path::new("/no/such/directory");
        for (named, own, rule) in [
            (FileUser::Name("no one".into()), 0, "gateway.user = \"no one\": no such user in /etc/passwd"),
            (FileUser::Number(-1), 0, "gateway.user = -1: must be between 0 and 4294967294"),
            (FileUser::Number(4_294_967_295), 0, "gateway.user = 4294967295: must be between"),
            (FileUser::Number(7), 8, "gateway.user = 7: only root can become another user"),
        ] {
            let (account, broken) = refused(named, own, nowhere);
            assert!(
                account.is_none() && broken.len() == 1 && broken[0].starts_with(rule),
                "{rule}: {broken:?}"
            );
        }
        let (_, broken) = refused(FileUser::Number(i64::from(owner) + 1), 0, directory.path());
        let rule = format!(
            "{} must belong to user {}, and belongs to user {owner}",
            directory.path().display(),
            owner + 1
        );
        assert!(broken[0].contains(&rule), "{broken:?}");
        for own in [0, owner] {
            assert_eq!(refused(FileUser::Number(owner.into()), own, directory.path()), (Some(owner), vec![]));
        }
        assert_eq!(refused(FileUser::Number(4_294_967_294), 0, nowhere).0, Some(4_294_967_294));
    }
}
