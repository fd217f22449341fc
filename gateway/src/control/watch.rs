//! Changes of the configuration file, as the kernel tells them.
//!
//! Editors and deployments replace a file by renaming another one, write it in several steps, or turn a link. So it is the
//! directory that is watched, that of the name and that of the file behind a link; and only once nothing has happened for a
//! while, the file is looked at. Whether it says something else is found out by reading it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

/// How many times the debounce a file that is written again and again is waited for.
const PATIENCE: u32 = 10;
/// What projected volumes turn instead of the file.
const TURNED: &[u8] = b"..";
const EVENTS_BYTES: usize = 4096;

/// Watches one file.
#[derive(Debug)]
pub(super) struct Watch {
    file: PathBuf,
    /// Names of the file, and of what a link to it leads to.
    names: BTreeSet<OsString>,
    /// Absent where the kernel does not tell.
    events: Option<AsyncFd<OwnedFd>>,
    debounce: Duration,
    /// When the first and the last change was that nobody has looked at.
    changed: Option<(Instant, Instant)>,
}

impl Watch {
    /// On a runtime. Without a watch a gateway works all the same: it reads the file when it is told to.
    pub(super) fn of(file: &Path, debounce: Duration) -> Self {
        let mut watch =
            Self { file: file.to_owned(), names: BTreeSet::new(), events: None, debounce, changed: None };
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(Into::into);
        match events.and_then(in_the_runtime) {
            Ok(events) => watch.events = Some(events),
            Err(error) => tracing::warn!(%error, "changes of the configuration file are not seen"),
        }
        watch.follow();
        watch
    }

    /// From the next change on.
    pub(super) fn set_debounce(&mut self, debounce: Duration) {
        self.debounce = debounce;
    }

    /// Returns when the file has been left alone after a change. May be dropped and called again: nothing is forgotten.
    pub(super) async fn settled(&mut self) {
        loop {
            let Some((first, last)) = self.changed else {
                self.heard().await;
                continue;
            };
            let end = (last + self.debounce).min(first + self.debounce * PATIENCE);
            if timeout_at(end, self.heard()).await.is_err() {
                self.changed = None;
                // A link may lead elsewhere by now.
                self.follow();
                return;
            }
        }
    }

    /// Waits for the next events, and notes whether one is about the file.
    async fn heard(&mut self) {
        let Some(events) = &self.events else { return std::future::pending().await };
        let Ok(mut ready) = events.readable().await else { return std::future::pending().await };
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
        let mut reader = inotify::Reader::new(events, &mut buffer);
        let mut concerned = false;
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            let is_ours = |name: &OsStr| self.names.contains(name) || name.as_bytes().starts_with(TURNED);
            // What the kernel could not keep may have been about it.
            concerned |= name.is_some_and(is_ours) || event.events().contains(ReadFlags::QUEUE_OVERFLOW);
        }
        ready.clear_ready();
        if concerned {
            let now = Instant::now();
            let first = self.changed.map_or(now, |(first, _)| first);
            self.changed = Some((first, now));
        }
    }

    /// Watches the directories of the file as it is now. Those that are watched already stay so.
    fn follow(&mut self) {
        let Some(events) = &self.events else { return };
        let places = [Some(self.file.clone()), self.file.canonicalize().ok()];
        self.names.clear();
        for place in places.into_iter().flatten() {
            self.names.extend(place.file_name().map(OsStr::to_owned));
            let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            let flags = WatchFlags::CLOSE_WRITE
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVED_FROM
                | WatchFlags::DELETE
                | WatchFlags::ONLYDIR;
            if let Err(error) = inotify::add_watch(events, parent, flags) {
                tracing::warn!(%error, directory = %parent.display(), "changes of the configuration file are not seen");
            }
        }
    }
}

/// Of an OwnedFd the descriptor never changes.
#[expect(deprecated, reason = "unsound only for types whose descriptor changes; an OwnedFd's never does")]
fn in_the_runtime(events: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(file: &Path) -> Watch {
        Watch::of(file, Duration::from_millis(1))
    }

    /// Whether what the kernel has to say by now is about the file. It has said it when a file has been written.
    async fn is_told(watch: &mut Watch) -> bool {
        watch.heard().await;
        watch.changed.is_some()
    }

    /// Each way in which a file is replaced is seen, once; other files of the directory are not.
    #[tokio::test]
    async fn each_way_to_write_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("openclaw.json"), folder.path().join("other"));
        std::fs::write(&file, "{}").unwrap();
        let mut watch = watch(&file);
        std::fs::write(&other, "{a: 1}").unwrap();
        assert!(!is_told(&mut watch).await, "another file");
        std::fs::write(&file, "{a: 1}").unwrap();
        watch.settled().await;
        assert_eq!(watch.changed, None, "written in place");
        std::fs::rename(&other, &file).unwrap();
        watch.settled().await;
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, "{}").unwrap();
        assert!(is_told(&mut watch).await, "made anew");
        watch.settled().await;
        std::fs::write(&other, "{}").unwrap();
        assert!(!is_told(&mut watch).await, "several steps are one change");
    }

    /// A link is followed: to a file that is written elsewhere, and when it is turned.
    #[tokio::test]
    async fn links_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["conf", "one", "two"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("one/settings"), "{}").unwrap();
        std::fs::write(at("two/settings"), "{}").unwrap();
        std::os::unix::fs::symlink(at("one"), at("conf/..data")).unwrap();
        std::os::unix::fs::symlink("..data/settings", at("conf/openclaw.json")).unwrap();
        let mut watch = watch(&at("conf/openclaw.json"));
        std::fs::write(at("one/settings"), "{a: 1}").unwrap();
        watch.settled().await;
        std::os::unix::fs::symlink(at("two"), at("conf/..new")).unwrap();
        std::fs::rename(at("conf/..new"), at("conf/..data")).unwrap();
        watch.settled().await;
        std::fs::write(at("two/settings"), "{a: 2}").unwrap();
        watch.settled().await;
    }

    /// Whoever waits may be interrupted, and a file that is written without end is looked at all the same.
    #[tokio::test]
    async fn nothing_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("openclaw.json");
        std::fs::write(&file, "{}").unwrap();
        let mut watch = watch(&file);
        std::fs::write(&file, "{a: 1}").unwrap();
        assert!(is_told(&mut watch).await);
        tokio::select! {
            biased;
            () = watch.settled() => panic!("it is too early"),
            () = std::future::ready(()) => {}
        }
        watch.settled().await;
        // A minute after each write, and ten at most.
        watch.set_debounce(Duration::from_secs(60));
        let long_ago = Instant::now().checked_sub(Duration::from_secs(600)).unwrap();
        watch.changed = Some((long_ago, Instant::now()));
        watch.settled().await;
    }
}
