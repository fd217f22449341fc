//! Whether this program uses colours: on a terminal, unless `NO_COLOR` or `--no-color` says otherwise.

use std::sync::atomic::{AtomicBool, Ordering};

/// The flag that switches them off.
pub const FLAG: &str = "--no-color";

static OFF: AtomicBool = AtomicBool::new(false);

/// Switches them off.
pub fn off() {
    // Relaxed: set once, before anything is printed and any thread is started.
    OFF.store(true, Ordering::Relaxed);
}

/// Whether they are wanted where a terminal is, or is not.
pub fn wanted(is_terminal: bool) -> bool {
    // As above. A variable that is set to nothing says nothing.
    let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    is_terminal && !is_refused && !OFF.load(Ordering::Relaxed)
}
