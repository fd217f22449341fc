//! Segments: the memfds under a link, created and sealed by the keeper, checked by whoever attaches.
//!
//! Each agent has two: the *engine half* (written by the engine) and the *agent half* (written by the
//! agent). Both are sealed against shrinking, growing and further sealing, so no peer can take pages away
//! under a reader, and are pre-allocated, so the pages are on the bill of the keeper and a full memory
//! shows at creation. Each side gets its own half writable and the other's read-only.
//!
//! The halves between threads of one process are the same files, so that they can be looked at from outside,
//! but are not pre-allocated.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};

use crate::doorbell::Bell;
use crate::layout::{CONFIG_BYTES, ConfigError, ConfigPage, Geometry};
use crate::link::{Limits, Link, ReadMode, Side};
use crate::mapping::Half;
use crate::passage;
use crate::record::Poison;
use crate::stop_point::stop_point;

/// The seals every segment carries. No write seal: the next gateway must be able to map for writing.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Why a segment could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A system call failed.
    #[error("{step} of ring segment {name} failed")]
    System {
        /// Which step.
        step: &'static str,
        /// Which segment.
        name: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Why a segment was not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A system call failed.
    #[error("{step} of the {half} half failed")]
    System {
        /// Which step.
        step: &'static str,
        /// Which half.
        half: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file is not sealed as it must be.
    #[error("the {half} half has seals {found:#x}, expected at least {expected:#x}")]
    Seals {
        /// Which half.
        half: &'static str,
        /// What it has.
        found: u32,
        /// What it needs.
        expected: u32,
    },
    /// The file has another size than its config page says.
    #[error("the {half} half has {found} bytes, its config page says {expected}")]
    Size {
        /// Which half.
        half: &'static str,
        /// What it has.
        found: u64,
        /// What its page says.
        expected: u64,
    },
    /// The config page was refused.
    #[error("the config page of the {half} half is refused")]
    Config {
        /// Which half.
        half: &'static str,
        /// What differs.
        #[source]
        source: ConfigError,
    },
    /// The halves were made for different incarnations.
    #[error("the halves differ in {field}: engine {engine}, agent {agent}")]
    Mismatch {
        /// Which field.
        field: &'static str,
        /// The engine half's.
        engine: u64,
        /// The agent half's.
        agent: u64,
    },
    /// The positions in the segment are impossible.
    #[error("the positions in the segment are impossible")]
    Poisoned(#[from] Poison),
}

/// The descriptors of one new segment.
#[derive(Debug)]
pub struct Segment {
    /// For its owner.
    pub writable: OwnedFd,
    /// For the other side: a separate, read-only description.
    pub read_only: OwnedFd,
}

/// Makes one half: sized, allocated, described, sealed.
pub fn create(name: &str, page: &ConfigPage) -> Result<Segment, CreateError> {
    make(name, page, Pages::Now)
}

impl ConfigPage {
    /// The page of a half that this build makes: it knows the kinds of this build and asks for no feature.
    pub fn new(geometry: Geometry, instance: u64, generation: u64) -> Self {
        let schema_hash = crate::envelope::schema_hash();
        Self { geometry, generation, instance, schema_hash, features_required: 0, features_optional: 0 }
    }
}

/// When a half gets its pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pages {
    /// When it is made.
    Now,
    /// When they are first used.
    OnUse,
}

fn make(name: &str, page: &ConfigPage, pages: Pages) -> Result<Segment, CreateError> {
    let failed = |step: &'static str| {
        move |source: rustix::io::Errno| CreateError::System {
            step,
            name: name.to_owned(),
            source: source.into(),
        }
    };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let writable = rustix::fs::memfd_create(name, flags).map_err(failed("memfd_create"))?;
    stop_point("create.made");
    let bytes = page.geometry.half_bytes();
    rustix::fs::ftruncate(&writable, bytes).map_err(failed("ftruncate"))?;
    stop_point("create.sized");
    if pages == Pages::Now {
        // A sparse segment would meet a full memory as SIGBUS in the middle of a message.
        rustix::fs::fallocate(&writable, FallocateFlags::empty(), 0, bytes).map_err(failed("fallocate"))?;
    }
    stop_point("create.allocated");
    rustix::io::pwrite(&writable, &page.encode(), 0).map_err(failed("write"))?;
    stop_point("create.described");
    rustix::fs::fchmod(&writable, Mode::RUSR).map_err(failed("fchmod"))?;
    stop_point("create.mode");
    rustix::fs::fcntl_add_seals(&writable, SEALS).map_err(failed("seal"))?;
    stop_point("create.sealed");
    let segment = Segment::reopened(writable).map_err(failed("reopen read-only"))?;
    stop_point("create.reopened");
    Ok(segment)
}

impl Segment {
    /// The descriptors of a segment of which only that of its owner is at hand.
    pub fn reopened(writable: OwnedFd) -> rustix::io::Result<Self> {
        let path = rustix::path::DecInt::from_fd(&writable);
        let path = format!("/proc/self/fd/{}", path.as_c_str().to_string_lossy());
        let read_only = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { writable, read_only })
    }
}

/// Checks seals, size and config page of a half before anything is mapped.
pub fn inspect(half: &'static str, file: impl AsFd) -> Result<ConfigPage, AttachError> {
    let failed = |step: &'static str| {
        move |source: rustix::io::Errno| AttachError::System { step, half, source: source.into() }
    };
    let seals = rustix::fs::fcntl_get_seals(&file).map_err(failed("reading the seals"))?;
    if !seals.contains(SEALS) {
        return Err(AttachError::Seals { half, found: seals.bits(), expected: SEALS.bits() });
    }
    let mut page = [0u8; CONFIG_BYTES];
    let read = rustix::io::pread(&file, &mut page, 0).map_err(failed("reading the config page"))?;
    if read < CONFIG_BYTES {
        return Err(AttachError::Size { half, found: read as u64, expected: CONFIG_BYTES as u64 });
    }
    let page = ConfigPage::decode(&page).map_err(|source| AttachError::Config { half, source })?;
    let found = rustix::fs::fstat(&file).map_err(failed("stat"))?.st_size;
    let (found, expected) = (u64::try_from(found).unwrap_or(0), page.geometry.half_bytes());
    if found != expected {
        return Err(AttachError::Size { half, found, expected });
    }
    Ok(page)
}

/// What a side needs to know of the link it attached to.
#[derive(Debug)]
pub struct Attached {
    /// The two rings.
    pub link: Link,
    /// Which agent instance the pair was made for.
    pub instance: u64,
    /// Which incarnation of it.
    pub generation: u64,
}

/// Attaches the engine: writes the engine half, distrusts the agent half. Also a successor of the engine that has
/// attached before and is gone: it goes on at the positions it finds, and wakes the agent.
///
/// `passage` is the engine's end of the side channel for large messages, if there is one.
pub fn attach_engine(
    engine_half: impl AsFd,
    agent_half: impl AsFd,
    passage: Option<OwnedFd>,
    limits: Limits,
) -> Result<Attached, AttachError> {
    // The agent sleeps on a futex in our half.
    let side = Side { bell: Bell::Futex, passage: passage.map(Arc::new), mode: ReadMode::CopyAndCheck };
    attach(engine_half, agent_half, Role::Engine, &side, limits)
}

/// Attaches an agent: writes the agent half, reads the engine half in place.
///
/// `passage` is the agent's end of the side channel for large messages, if there is one.
pub fn attach_agent(
    engine_half: impl AsFd,
    agent_half: impl AsFd,
    doorbell: OwnedFd,
    passage: Option<OwnedFd>,
    limits: Limits,
) -> Result<Attached, AttachError> {
    let bell = Bell::Event(Arc::new(doorbell));
    let side = Side { bell, passage: passage.map(Arc::new), mode: ReadMode::CheckInPlace };
    attach(engine_half, agent_half, Role::Agent, &side, limits)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Engine,
    Agent,
}

fn attach(
    engine_half: impl AsFd,
    agent_half: impl AsFd,
    role: Role,
    side: &Side,
    limits: Limits,
) -> Result<Attached, AttachError> {
    let engine = inspect("engine", &engine_half)?;
    let agent = inspect("agent", &agent_half)?;
    for (field, engine, agent) in
        [("instance", engine.instance, agent.instance), ("generation", engine.generation, agent.generation)]
    {
        if engine != agent {
            return Err(AttachError::Mismatch { field, engine, agent });
        }
    }
    let failed = |half: &'static str| move |source| AttachError::System { step: "mapping", half, source };
    let (own, peer) = match role {
        Role::Engine => (
            Half::map_own(engine_half, engine.geometry).map_err(failed("engine"))?,
            Half::map_peer(agent_half, agent.geometry).map_err(failed("agent"))?,
        ),
        Role::Agent => (
            Half::map_own(agent_half, agent.geometry).map_err(failed("agent"))?,
            Half::map_peer(engine_half, engine.geometry).map_err(failed("engine"))?,
        ),
    };
    stop_point("attach.mapped");
    let link = Link::new(&Arc::new(own), &Arc::new(peer), side, limits)?;
    Ok(Attached { link, instance: engine.instance, generation: engine.generation })
}

/// Two connected ends of a link between threads of this process.
///
/// `a_bell` wakes the thread of the first end, `b_bell` that of the second.
pub fn in_process(
    geometry: Geometry,
    a_bell: &Arc<OwnedFd>,
    b_bell: &Arc<OwnedFd>,
    limits: Limits,
) -> std::io::Result<(Link, Link)> {
    let made = in_process_shown("in-process", 0, geometry, [a_bell, b_bell], limits)?;
    Ok((made.first, made.second))
}

/// A link between threads of this process, and what shows it to others.
#[derive(Debug)]
pub struct InProcess {
    /// One end.
    pub first: Link,
    /// The other end.
    pub second: Link,
    /// The halves that the first and the second end write, read-only: for [`crate::observe::Observer`].
    pub shown: [OwnedFd; 2],
}

/// As [`in_process`], under a name and a number, and with descriptors to look at it through.
///
/// The halves are files like those of agents, but get their pages when they are used: an idle one costs two.
pub fn in_process_shown(
    name: &str,
    number: u64,
    geometry: Geometry,
    [a_bell, b_bell]: [&Arc<OwnedFd>; 2],
    limits: Limits,
) -> std::io::Result<InProcess> {
    let page = ConfigPage::new(geometry, number, 0);
    let half = || {
        let Segment { writable, read_only } =
            make(name, &page, Pages::OnUse).map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>((Arc::new(Half::map_own(writable, geometry)?), read_only))
    };
    let ((a, a_shown), (b, b_shown)) = (half()?, half()?);
    let (a_passage, b_passage) = passage::pair()?;
    let side = |bell: &Arc<OwnedFd>, passage: OwnedFd| Side {
        bell: Bell::Event(Arc::clone(bell)),
        passage: Some(Arc::new(passage)),
        mode: ReadMode::Trust,
    };
    let first = Link::new(&a, &b, &side(b_bell, a_passage), limits).map_err(std::io::Error::other)?;
    let second = Link::new(&b, &a, &side(a_bell, b_passage), limits).map_err(std::io::Error::other)?;
    Ok(InProcess { first, second, shown: [a_shown, b_shown] })
}

#[cfg(test)]
mod tests;
