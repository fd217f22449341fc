//! What runs the shards.

use engine::driver::Choice;

use crate::options::RuntimeChoice;

/// A flag counts more than the file.
pub(super) fn check(broken: &mut Vec<String>, flag: Option<RuntimeChoice>, file: Option<&str>) -> Choice {
    match (flag, file) {
        (None, None) => Choice::default(),
        (Some(RuntimeChoice::Auto), _) | (None, Some("auto")) => Choice::Auto,
        (Some(RuntimeChoice::Uring), _) | (None, Some("uring")) => Choice::Uring,
        (Some(RuntimeChoice::Epoll), _) | (None, Some("epoll")) => Choice::Epoll,
        (None, Some(other)) => {
            broken.push(format!("engine.runtime = \"{other}\": must be \"epoll\", \"uring\" or \"auto\""));
            Choice::default()
        }
    }
}
