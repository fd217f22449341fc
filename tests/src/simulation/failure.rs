//! Panics as values: what was wrong, and where.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// From now on panics print nothing; [`caught`] gives what they say.
pub fn quiet() {
    set_hook(Box::new(|info| {
        let place =
            info.location().map_or_else(String::new, |place| format!("{}:{}: ", place.file(), place.line()));
        let payload = info.payload();
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("panicked");
        LAST.with_borrow_mut(|last| *last = format!("{place}{text}"));
    }));
}

/// The result, or what the panic said that came instead; see [`quiet`].
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    // What was half done is dropped with the run.
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| LAST.take())
}
