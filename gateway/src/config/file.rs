//! The configuration file on disk: where it is, how it is replaced, and what it is at the first start.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use adapters::access::secret::Secret;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use super::auth::SECRET_VARIABLES;
use super::variable;

/// Its name in the state directory.
const NAME: &str = "openclaw.json";
/// It holds secrets.
const MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// Bytes of a new token before they are written as text.
const TOKEN_BYTES: usize = 32;
/// Where they come from.
const RANDOM: &str = "the system's random numbers";

/// Where the file is: the one that was named, or that of the state directory.
pub fn path(named: Option<&Path>, state_directory: &Path) -> PathBuf {
    named.map_or_else(|| state_directory.join(NAME), Path::to_owned)
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path} failed", path = path.display())]
pub struct FileError {
    /// Which step.
    step: &'static str,
    /// Which file or directory.
    path: PathBuf,
    /// The system's answer.
    #[source]
    source: io::Error,
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { step, path, source }
}

/// Keeps every other command from changing files of a directory, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

impl Lock {
    /// Waits until nobody else has it. A change takes milliseconds.
    pub fn of(file: &Path) -> Result<Self, FileError> {
        let parent = parent(file);
        let directory = File::open(parent).map_err(failed("opening", parent))?;
        flock(&directory, FlockOperation::LockExclusive)
            .map_err(|errno| failed("locking", parent)(errno.into()))?;
        Ok(Self { _directory: directory })
    }
}

fn parent(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file, as [`replace`] does where there is one.
pub fn write(file: &Path, text: &str) -> Result<(), FileError> {
    if !file.exists() && create(file, text)? {
        return Ok(());
    }
    replace(file, text)
}

/// Replaces a file as a whole or not at all, also when power is lost. Its mode stays, and a link to it does.
pub fn replace(file: &Path, text: &str) -> Result<(), FileError> {
    let target = file.canonicalize().map_err(failed("resolving", file))?;
    let mode = target.metadata().map_err(failed("reading", &target))?.permissions().mode() & 0o7777;
    let temporary = write_beside(&target, text, mode)?;
    let renamed = std::fs::rename(&temporary, &target).map_err(failed("replacing", &target));
    settle(renamed, &temporary, &target)
}

/// Writes a file where none is. `false`: there is one, and it stays.
fn create(file: &Path, text: &str) -> Result<bool, FileError> {
    let temporary = write_beside(file, text, MODE)?;
    match renameat_with(CWD, &temporary, CWD, file, RenameFlags::NOREPLACE) {
        Ok(()) => settle(Ok(()), &temporary, file).map(|()| true),
        Err(errno) => {
            let error = io::Error::from(errno);
            let there = error.kind() == ErrorKind::AlreadyExists;
            let ended = settle(Err(failed("making", file)(error)), &temporary, file);
            if there { Ok(false) } else { ended.map(|()| true) }
        }
    }
}

fn write_beside(target: &Path, text: &str, mode: u32) -> Result<PathBuf, FileError> {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = target.with_file_name(name);
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        // The mode of the open is narrowed by the umask, and does not count for a file that is there.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()
    };
    let written = write().map_err(failed("writing", &temporary));
    if written.is_err() {
        // What is left of it is no configuration; the error that counts is told.
        let _ = std::fs::remove_file(&temporary);
    }
    written.map(|()| temporary)
}

/// After a rename: makes it last, or takes away what was not renamed.
fn settle(renamed: Result<(), FileError>, temporary: &Path, target: &Path) -> Result<(), FileError> {
    if renamed.is_err() {
        // As above.
        let _ = std::fs::remove_file(temporary);
        return renamed;
    }
    let parent = parent(target);
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(failed("syncing", parent))
}

/// A new random token.
pub fn new_token() -> Result<Secret, FileError> {
    let bytes = random_bytes::<TOKEN_BYTES>()?;
    Secret::new(base64url(&bytes))
        .map_err(|error| failed("reading", Path::new(RANDOM))(io::Error::other(error)))
}

/// So many bytes that nobody can guess.
pub fn random_bytes<const COUNT: usize>() -> Result<[u8; COUNT], FileError> {
    let mut bytes = [0; COUNT];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| failed("reading", Path::new(RANDOM))(errno.into()))?;
    Ok(bytes)
}

/// Bytes as letters, digits, `-` and `_` (RFC 4648, section 5), without padding.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word =
            group.iter().fold(0, |word, &byte| word << 8 | usize::from(byte)) << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            text.push(char::from(DIGITS[word >> (18 - 6 * place) & 63]));
        }
    }
    text
}

/// Writes the file of a gateway that has none, with a token of its own unless the environment has one. `false`: there is
/// one, which stays as it is.
pub fn begin(state_directory: &Path) -> Result<bool, FileError> {
    let file = path(None, state_directory);
    if file.exists() {
        return Ok(false);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(state_directory)
        .map_err(failed("making", state_directory))?;
    let text = match variable(SECRET_VARIABLES[0].0) {
        Some(_) => first_text("// It comes from OPENCLAW_GATEWAY_TOKEN."),
        None => first_text(&format!("token: \"{}\",", new_token()?.expose())),
    };
    create(&file, &text)
}

fn first_text(token: &str) -> String {
    format!(
        r#"// Settings of the OpenClaw gateway, as JSON5: comments and trailing commas are fine.
//
// `openclaw config schema` prints every key with its default and limits; `openclaw config set KEY VALUE` changes this
// file and leaves the rest of it as it is. `openclaw config validate` checks it, and `openclaw gateway reload` has a
// running gateway read it again.
{{
  gateway: {{
    // host: "127.0.0.1",
    // port: 18789,
    auth: {{
      // Whoever shows this token may do everything. `openclaw token show` prints it, `openclaw token rotate` makes
      // another one, which counts at once.
      mode: "token",
      {token}
    }},
  }},
  agents: {{
    entries: {{
      // Any command that reads and writes JSON lines is an agent; the agent `echo` is built in.
      // words: {{ command: ["python3", "streaming_agent.py"], workingDirectory: "/srv/agents" }},
    }},
  }},
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::super::document::Document;
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    /// The vectors of RFC 4648, section 10, and the two digits that differ from base64.
    #[test]
    fn base64url_is_that_of_the_rfc() {
        let rows = [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in rows {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
        let token = new_token().unwrap();
        assert_eq!((token.expose().len(), token.is_full_length()), (43, true));
        assert_ne!(token.expose(), new_token().unwrap().expose());
    }

    /// The first file can be read, has a token, is its owner's only, and is never written again.
    #[test]
    fn the_first_file_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a").join("state");
        assert!(begin(&state).unwrap());
        let file = path(None, &state);
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!((mode(&state), mode(&file)), (0o700, 0o600));
        let document = Document::parse(&text).unwrap().0;
        assert_eq!(document["gateway"]["auth"]["token"].as_str().unwrap().len(), 43);
        assert!(!begin(&state).unwrap() && !create(&file, "other").unwrap());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1, "nothing else is left");
    }

    /// A replaced file keeps its mode, and a link to it stays one.
    #[test]
    fn a_replaced_file_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("real.json"), folder.path().join("link.json"));
        std::fs::write(&file, "old").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let lock = Lock::of(&link).unwrap();
        replace(&link, "new").unwrap();
        drop(lock);
        assert_eq!((std::fs::read_to_string(&file).unwrap().as_str(), mode(&file)), ("new", 0o640));
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
        write(&link, "newer").unwrap();
        write(&folder.path().join("first"), "x").unwrap();
        let texts =
            ["real.json", "first"].map(|name| std::fs::read_to_string(folder.path().join(name)).unwrap());
        assert_eq!(texts, ["newer", "x"]);
        let gone = replace(&folder.path().join("gone"), "x").unwrap_err();
        assert!(gone.to_string().starts_with("resolving "), "{gone}");
    }

    /// What is no file, and what is too long to be a configuration, is not read.
    #[test]
    fn only_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let cause = |path: &Path| match super::super::read(path).unwrap_err() {
            super::super::ConfigError::Read { source, .. } => source.to_string(),
            other => panic!("{other}"),
        };
        assert_eq!(cause(folder.path()), "it is no file");
        assert_eq!(cause(Path::new("/dev/zero")), "it is no file");
        let file = folder.path().join("long");
        std::fs::File::create(&file).unwrap().set_len(super::super::FILE_BYTES_MAX + 1).unwrap();
        assert_eq!(cause(&file), "it has more than 8388608 bytes");
    }
}
