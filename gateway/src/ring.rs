//! The command `ring`: looks at the rings of a running gateway, and changes nothing.
//!
//! The keeper says which rings there are and gives out read-only descriptors; the rest is read from their
//! memory, so no thread of the gateway is asked and none is held up.

mod inspect;
mod list;
mod seen;
mod watch;

use std::path::Path;
use std::process::ExitCode;

use keeper::observer::{ObserveError, Observer};
use keeper::view::{Ring, RingId};
use shm_transport::observe::Observer as LinkObserver;
use shm_transport::segment::AttachError;

use crate::options::RingCommand;
use crate::state_directory::{self, Unreached};
pub use seen::SeenRing;

/// How many names an error lists.
const NAMES_LISTED_MAX: usize = 20;

/// Why a ring cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The gateway cannot be reached.
    #[error(transparent)]
    Unreached(#[from] Unreached),
    /// The keeper could not be asked.
    #[error(transparent)]
    Observe(ObserveError),
    /// No ring has this name.
    #[error("no ring is named {name}; there are {known}")]
    NoSuchRing {
        /// What was asked for.
        name: String,
        /// Names of those that are there.
        known: String,
    },
    /// It ended while it was looked up.
    #[error("ring {name} is gone")]
    Gone {
        /// What was asked for.
        name: String,
    },
    /// Its memory is not that of a ring.
    #[error("ring {name} cannot be looked at")]
    Attach {
        /// Which ring.
        name: String,
        /// What is wrong with it.
        #[source]
        source: AttachError,
    },
    /// Signals and time are not to be had.
    #[error("this command cannot start")]
    Start(#[source] std::io::Error),
    /// The answer could not be printed.
    #[error("what was seen cannot be printed")]
    Print(#[source] std::io::Error),
}

/// Does what one of the `ring` commands says.
pub fn run(command: &RingCommand) -> Result<ExitCode, RingError> {
    let done = match command {
        RingCommand::List(options) => list::run(&mut Sight::open(&options.place)?, options.json),
        RingCommand::Inspect(options) => {
            inspect::run(&mut Sight::open(&options.place)?, &options.name, options.json)
        }
        RingCommand::Watch(options) => watch::run(&mut Sight::open(&options.place)?, options),
    };
    match done {
        // Whoever read along has seen enough: `ring watch | head`.
        Err(RingError::Print(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }?;
    Ok(ExitCode::SUCCESS)
}

/// All rings of the gateway that uses this directory, as they are now. Blocks while the keeper is asked.
pub fn all(directory: &Path) -> Result<Vec<SeenRing>, RingError> {
    list::see(&mut Sight::of(directory)?)
}

/// A gateway that is looked at.
#[derive(Debug)]
struct Sight {
    observer: Observer,
}

/// A ring that is looked at.
#[derive(Debug)]
struct Viewed {
    ring: Ring,
    /// Who writes the first half, and who the second.
    sides: [String; 2],
    link: LinkObserver,
}

impl Sight {
    fn open(place: &crate::options::Place) -> Result<Self, RingError> {
        let given = place.state_dir.as_deref();
        Self::of(&state_directory::chosen(given).ok_or(Unreached::NoHome)?)
    }

    /// Of the gateway that uses this directory.
    fn of(directory: &Path) -> Result<Self, RingError> {
        let observer = Observer::connect(&state_directory::keeper_socket(directory));
        let observer = observer.map_err(|error| refused(error, directory))?;
        Ok(Self { observer })
    }

    /// All rings there are.
    fn rings(&mut self) -> Result<Vec<Ring>, RingError> {
        self.observer.rings().map_err(RingError::Observe)
    }

    /// Opens a ring; `None` if it is gone.
    fn view(&mut self, ring: Ring) -> Result<Option<Viewed>, RingError> {
        let Some([first, second]) = self.observer.ring(ring.id).map_err(RingError::Observe)? else {
            return Ok(None);
        };
        let labels = match ring.id {
            RingId::Internal(_) => ["first", "second"],
            RingId::Agent(_) => ["engine", "agent"],
        };
        match LinkObserver::attach([(labels[0], first), (labels[1], second)]) {
            Ok(link) => Ok(Some(Viewed { sides: sides(&ring), ring, link })),
            Err(source) => Err(RingError::Attach { name: ring.name, source }),
        }
    }

    /// Opens the ring of this name.
    fn find(&mut self, name: &str) -> Result<Viewed, RingError> {
        let mut rings = self.rings()?;
        // The last one: of an agent that has just been started again, the new incarnation.
        let Some(position) = rings.iter().rposition(|ring| ring.name == name) else {
            return Err(RingError::NoSuchRing { name: name.to_owned(), known: names(&rings) });
        };
        let ring = rings.swap_remove(position);
        self.view(ring)?.ok_or_else(|| RingError::Gone { name: name.to_owned() })
    }
}

fn refused(error: ObserveError, directory: &Path) -> RingError {
    let directory = directory.to_owned();
    match error {
        ObserveError::NoGateway { .. } => Unreached::NoGateway { directory }.into(),
        ObserveError::NotAllowed { .. } => Unreached::NotAllowed { what: "look at", directory }.into(),
        other => RingError::Observe(other),
    }
}

/// Who writes which half.
fn sides(ring: &Ring) -> [String; 2] {
    match (ring.id, ring.name.split_once('/')) {
        (RingId::Internal(_), Some((first, second))) => [first.to_owned(), second.to_owned()],
        (RingId::Internal(_), None) => ["first".to_owned(), "second".to_owned()],
        (RingId::Agent(_), _) => ["gateway".to_owned(), "agent".to_owned()],
    }
}

/// The names of rings, as many as can be read.
fn names(rings: &[Ring]) -> String {
    let listed: Vec<&str> = rings.iter().take(NAMES_LISTED_MAX).map(|ring| ring.name.as_str()).collect();
    match rings.len().saturating_sub(listed.len()) {
        _ if rings.is_empty() => "none".to_owned(),
        0 => listed.join(", "),
        more => format!("{} and {more} more", listed.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(id: RingId, name: &str) -> Ring {
        let name = name.to_owned();
        let (first_to_second_bytes, second_to_first_bytes) = (4096, 4096);
        Ring { id, name, generation: 0, process_id: 1, first_to_second_bytes, second_to_first_bytes }
    }

    /// The sides of a ring are told by its kind and name.
    #[test]
    fn sides_have_names() {
        let check = |id, name, expected| assert_eq!(sides(&ring(id, name)), expected);
        check(RingId::Agent(1), "echo", ["gateway", "agent"]);
        check(RingId::Internal(0), "edge-0/shard-1", ["edge-0", "shard-1"]);
        check(RingId::Internal(0), "something", ["first", "second"]);
    }

    /// A list of names has an end.
    #[test]
    fn names_are_listed_up_to_a_limit() {
        let rings: Vec<_> = (0..22).map(|n| ring(RingId::Agent(n), &format!("a{n}"))).collect();
        assert_eq!(names(&[]), "none");
        assert_eq!(names(&rings[..2]), "a0, a1");
        assert!(names(&rings[..20]).ends_with(", a19"));
        assert!(names(&rings).ends_with(", a19 and 2 more"));
    }
}
