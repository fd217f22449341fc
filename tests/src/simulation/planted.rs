//! Mistakes that are planted into the engine, to see that they are found.

#[cfg(feature = "testing")]
pub use engine::planted::Bug as Planted;

/// Without the feature `testing` there are none.
#[cfg(not(feature = "testing"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {}

/// Plants a mistake, or none, for all runs on this thread.
#[cfg(feature = "testing")]
pub fn planted(bug: Option<Planted>) {
    engine::planted::plant(bug);
}

/// Plants a mistake, or none, for all runs on this thread.
#[cfg(not(feature = "testing"))]
pub fn planted(_none: Option<Planted>) {}
