//! What the delivery agent has noted in its folder: a line for each message it was given.

use std::collections::BTreeMap;
use std::path::Path;

/// Its whole lines: the attempt, and what the message said. None before the first message.
pub fn lines(folder: &Path) -> Vec<(u64, String)> {
    let text = std::fs::read_to_string(folder.join("seen")).unwrap_or_default();
    let line = |line: &str| {
        let (attempt, content) = line.split_once(' ').expect("two words at least");
        (attempt.parse().expect("a number"), content.to_owned())
    };
    text.split_inclusive('\n').filter_map(|text| text.strip_suffix('\n')).map(line).collect()
}

/// The attempts that it has seen, by content.
pub fn attempts(folder: &Path) -> BTreeMap<String, Vec<u64>> {
    let mut seen = BTreeMap::<_, Vec<_>>::new();
    for (attempt, content) in lines(folder) {
        seen.entry(content).or_default().push(attempt);
    }
    seen
}
