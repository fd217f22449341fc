//! Where a session stands in its life; the matrix is in the documentation of [`super`].

/// Where a session stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// Made, without a message yet.
    Init = 0,
    /// In use.
    Active = 1,
    /// Quiet for long.
    Dormant = 2,
    /// Forgotten but for its record.
    Expired = 3,
}

/// What happened to a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LifeEvent {
    /// A message, the first one or another.
    Message,
    /// Nothing happened for long.
    Quiet,
    /// Nothing happened for too long.
    TimedOut,
    /// A message after the long silence.
    Reactivated,
}

/// An event that the state has no answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("session in state {state:?} cannot take event {event:?}")]
pub struct InvalidTransition {
    /// The state.
    pub state: State,
    /// The event.
    pub event: LifeEvent,
}

impl State {
    /// All of them, in the order of their numbers.
    pub const ALL: &'static [Self] = &[Self::Init, Self::Active, Self::Dormant, Self::Expired];

    /// Its name, for people and pages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Active => "active",
            Self::Dormant => "dormant",
            Self::Expired => "expired",
        }
    }

    /// The state after an event.
    pub fn on(self, event: LifeEvent) -> Result<Self, InvalidTransition> {
        match (self, event) {
            (Self::Init | Self::Active, LifeEvent::Message) => Ok(Self::Active),
            (Self::Active, LifeEvent::Quiet) => Ok(Self::Dormant),
            (Self::Init | Self::Dormant, LifeEvent::TimedOut) => Ok(Self::Expired),
            (Self::Dormant | Self::Expired, LifeEvent::Reactivated) => Ok(Self::Active),
            (state, event) => Err(InvalidTransition { state, event }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The function does what the matrix in the module's documentation says: every cell of it.
    #[test]
    fn the_matrix_is_the_function() {
        const EVENTS: [LifeEvent; 4] =
            [LifeEvent::Message, LifeEvent::Quiet, LifeEvent::TimedOut, LifeEvent::Reactivated];
        let cells = |line: &str| -> Vec<String> {
            let cells = line.trim_start_matches("//!").trim().trim_matches('|').split('|');
            cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
        };
        let mut lines = include_str!("../session.rs").lines();
        let head = lines.find(|line| line.contains("state \\ event")).expect("there is a matrix");
        assert_eq!(cells(head)[1..].join(" "), EVENTS.map(|event| format!("{event:?}")).join(" "));
        for (number, (&state, line)) in State::ALL.iter().zip(lines.skip(1)).enumerate() {
            let row = cells(line);
            assert_eq!((row[0].as_str(), number), (format!("{state:?}").as_str(), state as usize));
            for (cell, event) in row[1..].iter().zip(EVENTS) {
                let expected = match State::ALL.iter().find(|state| format!("{state:?}") == *cell) {
                    Some(&next) => Ok(next),
                    None => Err(InvalidTransition { state, event }),
                };
                assert_eq!(state.on(event), expected, "{state:?} on {event:?}");
            }
        }
    }
}
