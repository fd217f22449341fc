//! Named places at which a test can have this process killed.
//!
//! Kills at random moments hardly ever fall between two neighbouring steps, and those are the places that
//! matter. With the cargo feature `testing`, `OPENCLAW_STOP_AT=NAME:N` kills the process when it passes the
//! point NAME for the Nth time: by SIGKILL, so that no destructor, buffer or exit handler runs. Without the
//! feature a stop point is nothing.

/// The variable that says where to stop.
#[cfg(feature = "testing")]
pub const STOP_VARIABLE: &str = "OPENCLAW_STOP_AT";

/// Every stop point there is. A test walks them all and fails if one is never passed.
///
/// `apply.*`, `sleep.waiting` and `space.waiting` lie in the program that uses the ring.
#[cfg(feature = "testing")]
pub const STOP_POINTS: [&str; 43] = [
    "create.allocated",
    "create.described",
    "create.made",
    "create.mode",
    "create.reopened",
    "create.sealed",
    "create.sized",
    "attach.mapped",
    "attach.producer",
    "attach.produced",
    "attach.reopened",
    "attach.consumer",
    "attach.consumed",
    "resume.moved",
    "adopt.before",
    "adopt.after",
    "send.reserved",
    "send.padded",
    "send.payload",
    "send.header",
    "send.committed",
    "publish.before_tail",
    "publish.after_tail",
    "publish.after_fence",
    "wake.before",
    "wake.after",
    "receive.peeked",
    "receive.skipped",
    "receive.copied",
    "receive.advanced",
    "apply.before",
    "apply.half",
    "apply.after",
    "release.before_head",
    "release.after_head",
    "release.after_fence",
    "sleep.announced",
    "sleep.waiting",
    "space.announced",
    "space.waiting",
    "awake.announced",
    "close.before_tail",
    "close.after_tail",
];

/// A place where this process may be killed.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub(crate) fn stop_point(_name: &'static str) {}

/// A place where this process may be killed.
///
/// # Panics
/// If the variable names no stop point, or this one is not in the list.
#[cfg(feature = "testing")]
pub fn stop_point(name: &'static str) {
    debug_assert!(STOP_POINTS.contains(&name), "{name} is not in the list of stop points");
    if let Some(target) = TARGET.get_or_init(Target::from_environment)
        && target.name == name
    {
        target.pass();
    }
}

#[cfg(feature = "testing")]
static TARGET: std::sync::OnceLock<Option<Target>> = std::sync::OnceLock::new();

/// Where to stop, read once.
#[cfg(feature = "testing")]
struct Target {
    name: &'static str,
    /// How often the point is still to be passed.
    left: crate::sync::AtomicU64,
}

#[cfg(feature = "testing")]
impl Target {
    /// What the variable says, if it is set.
    fn from_environment() -> Option<Self> {
        let value = std::env::var(STOP_VARIABLE).ok()?;
        let parsed = Self::parse(&value);
        assert!(parsed.is_some(), "{STOP_VARIABLE}={value} is not NAME:N with a known name and N from 1");
        parsed
    }

    fn parse(value: &str) -> Option<Self> {
        let (name, count) = value.split_once(':')?;
        let name = STOP_POINTS.into_iter().find(|known| *known == name)?;
        let count: u64 = count.parse().ok()?;
        (count > 0).then_some(Self { name, left: crate::sync::AtomicU64::new(count) })
    }

    fn pass(&self) {
        // Relaxed: a count, which orders nothing.
        if self.left.fetch_sub(1, crate::sync::Ordering::Relaxed) == 1 {
            // It can only fail for want of the process, which is us.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

#[cfg(all(test, feature = "testing", not(loom)))]
mod tests {
    use super::*;

    /// A name and a count are read, everything else is refused.
    #[test]
    fn targets_are_read_or_refused() {
        let parse = |value| Target::parse(value).map(|target| (target.name, target.left.into_inner()));
        assert_eq!(parse("send.header:3"), Some(("send.header", 3)));
        for refused in ["send.header", "send.header:0", "send.header:-1", "send.headers:1", ":1", ""] {
            assert_eq!(parse(refused), None, "{refused}");
        }
    }

    /// No name stands twice.
    #[test]
    fn names_are_distinct() {
        let mut names = STOP_POINTS.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STOP_POINTS.len());
    }
}
