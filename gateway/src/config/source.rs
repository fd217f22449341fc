//! The configuration file of a running gateway: where it is, what it is checked with, and which text of it counts.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::hmac;

use super::document::Document;
use super::file::{self, FileError, random_bytes};
use super::{Around, Config, ConfigError, Examined, Standing, checked, examine, read};
use crate::options::RunOptions;
use crate::state_directory;

/// Bytes of the key of hashes.
const KEY_BYTES: usize = 32;

/// The file, for the control thread and for calls of clients.
#[derive(Debug)]
pub struct Source {
    options: RunOptions,
    standing: Standing,
    state_directory: PathBuf,
    path: PathBuf,
    /// A hash with a key that nobody else has tells nothing of a short password.
    key: hmac::Key,
    /// The hash of the text that counts.
    applied: Mutex<String>,
}

/// What a file says at some moment.
#[derive(Clone, Debug)]
pub struct Text {
    /// As it is; absent where there is no file.
    pub text: Option<String>,
    /// What it says.
    pub document: Document,
    /// Names this text, for this run of the gateway.
    pub hash: String,
}

impl Source {
    /// That of a gateway with these flags, of a process that has started with this standing.
    pub fn new(options: &RunOptions, standing: &Standing) -> Result<Self, SourceError> {
        let state_directory =
            state_directory::chosen(options.state_dir.as_deref()).ok_or(ConfigError::NoHome)?;
        let path = file::path(options.config.as_deref(), &state_directory);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random_bytes::<KEY_BYTES>()?);
        let (options, standing) = (options.clone(), standing.clone());
        Ok(Self { options, standing, state_directory, path, key, applied: Mutex::default() })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it. One that was not named need not be there.
    pub fn read(&self) -> Result<Text, ConfigError> {
        if self.options.config.is_none() && !self.path.exists() {
            return Ok(Text { text: None, document: Document::empty(), hash: self.hash("") });
        }
        self.read_at(&self.path)
    }

    /// Reads another file as if it were this one.
    pub fn read_at(&self, path: &Path) -> Result<Text, ConfigError> {
        let (text, document) = read(path)?;
        let hash = self.hash(&text);
        Ok(Text { text: Some(text), document, hash })
    }

    /// The settings that a file comes to.
    pub fn check(&self, document: Document) -> Result<Config, ConfigError> {
        checked(document, &self.around())
    }

    /// What is wrong with a file, if anything is.
    pub fn examine(&self, document: Document) -> Examined {
        examine(document, &self.around())
    }

    fn around(&self) -> Around<'_> {
        Around::of_this_machine(&self.options, &self.state_directory, &self.standing)
    }

    /// Names a text.
    pub fn hash(&self, text: &str) -> String {
        let tag = hmac::sign(&self.key, text.as_bytes());
        tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The hash of the text that counts, as far as it can count without a restart.
    pub fn applied(&self) -> String {
        self.lock().clone()
    }

    /// From now on the text of this hash counts. Whether it is another one.
    pub fn set_applied(&self, hash: &str) -> bool {
        let mut applied = self.lock();
        let is_new = *applied != hash;
        hash.clone_into(&mut applied);
        is_new
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        // A text is replaced as a whole.
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It has no place.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There are no random numbers.
    #[error(transparent)]
    Random(#[from] FileError),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash names a text within a run, and tells nothing to whoever does not have the key.
    #[test]
    fn hashes_have_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let options = RunOptions { state_dir: Some(folder.path().to_owned()), ..RunOptions::default() };
        let source = || Source::new(&options, &Standing::of(folder.path())).unwrap();
        let (one, other) = (source(), source());
        assert_eq!((one.hash("x"), one.hash("x").len()), (one.hash("x"), 64));
        assert_ne!(one.hash("x"), one.hash("y"));
        assert_ne!(one.hash("x"), other.hash("x"));
        assert!(one.set_applied(&one.hash("x")) && !one.set_applied(&one.hash("x")));
        assert_eq!(one.applied(), one.hash("x"));
    }

    /// A file that was not named need not be there; one that was must be.
    #[test]
    fn a_named_file_has_to_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = Some(folder.path().to_owned());
        let standing = Standing::of(folder.path());
        let options = RunOptions { state_dir: state_dir.clone(), ..RunOptions::default() };
        let found = Source::new(&options, &standing).unwrap().read().unwrap();
        assert_eq!((found.text, found.document), (None, Document::empty()));
        let options =
            RunOptions { config: Some(folder.path().join("x")), state_dir, ..RunOptions::default() };
        let missing = Source::new(&options, &standing).unwrap().read().unwrap_err();
        assert!(matches!(missing, ConfigError::Read { .. }), "{missing}");
    }
}
