//! The end of the log, for those who follow it: `logs.tail` of the OpenClaw protocol.
//!
//! | the cursor is | the answer begins | and says |
//! |---|---|---|
//! | absent | as far before the end as may be told | `truncated` if something is before that |
//! | within the log | there | |
//! | further back than may be told, or in a file that is gone | as for absent | `reset`, `truncated`, `skippedBytes` |
//! | beyond the end: from another run | as for absent | `reset` |
//!
//! Only whole lines are told. The next cursor is behind the last of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::Serialize;

use super::file::{LogPlace, Opened};

/// Lines told unless asked otherwise.
const LINES_DEFAULT: usize = 500;
/// The most lines told.
pub const LINES_MAX: usize = 5_000;
/// Bytes told unless asked otherwise.
const BYTES_DEFAULT: u64 = 250_000;
/// The most bytes told.
pub const BYTES_MAX: u64 = 1_000_000;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// The `cursor` of the answer before.
    pub cursor: Option<u64>,
    /// How many lines at most.
    pub lines: Option<u64>,
    /// Of how many bytes at most.
    pub bytes: Option<u64>,
}

/// The end of the log.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tail {
    /// Where the log lies.
    pub file: String,
    /// From where to ask next.
    pub cursor: u64,
    /// Where the log ends.
    pub size: u64,
    /// As they were written.
    pub lines: Vec<String>,
    /// Whether lines before these are left out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Whether these do not follow those of the answer before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
    /// How much is between that one and this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped_bytes: Option<u64>,
}

/// Where an answer begins.
#[derive(Debug, PartialEq, Eq)]
struct Window {
    start: u64,
    truncated: bool,
    reset: bool,
    skipped_bytes: Option<u64>,
}

/// Reads the end of the log.
pub fn read(place: &LogPlace, wanted: Wanted) -> io::Result<Tail> {
    let files = place.open()?;
    let (file, base) = &files.present;
    let size = base + file.metadata()?.len();
    let oldest = files.previous.as_ref().map_or(*base, |(_, begin)| *begin);
    let bytes_max = wanted.bytes.unwrap_or(BYTES_DEFAULT).clamp(1, BYTES_MAX);
    let window = window(oldest, size, wanted.cursor, bytes_max);
    let Window { start, mut truncated, reset, skipped_bytes } = window;
    // One byte more: whether the window begins with a line.
    let begin = start.saturating_sub(1).max(oldest);
    let bytes = read_range(&files, begin, size)?;
    let before = usize::from(begin < start);
    let (before, told) = bytes.split_at(before.min(bytes.len()));
    let begins_line = before.is_empty() || before == b"\n";
    let end = told.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    let mut lines: Vec<&[u8]> = told[..end].split_inclusive(|&byte| byte == b'\n').collect();
    if !begins_line && !lines.is_empty() {
        lines.remove(0);
    }
    let lines_max = wanted.lines.and_then(|lines| usize::try_from(lines).ok()).unwrap_or(LINES_DEFAULT);
    let left_out = lines.len().saturating_sub(lines_max.clamp(1, LINES_MAX));
    truncated |= left_out > 0;
    let lines = lines[left_out..].iter().map(|line| String::from_utf8_lossy(line).trim_end().to_owned());
    Ok(Tail {
        file: place.path().display().to_string(),
        cursor: start + end as u64,
        size,
        lines: lines.collect(),
        truncated,
        reset,
        skipped_bytes,
    })
}

fn window(oldest: u64, size: u64, cursor: Option<u64>, bytes_max: u64) -> Window {
    let furthest = size.saturating_sub(bytes_max).max(oldest);
    let from_furthest =
        Window { start: furthest, truncated: furthest > 0, reset: false, skipped_bytes: None };
    match cursor {
        None => from_furthest,
        Some(cursor) if cursor > size => Window { reset: true, ..from_furthest },
        Some(cursor) if cursor < furthest => {
            Window { start: furthest, truncated: true, reset: true, skipped_bytes: Some(furthest - cursor) }
        }
        Some(cursor) => Window { start: cursor, truncated: false, reset: false, skipped_bytes: None },
    }
}

/// What lies between two places, which are at most [`BYTES_MAX`] and one byte apart.
fn read_range(files: &Opened, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let (present, base) = &files.present;
    let mut bytes = Vec::with_capacity(usize::try_from(to.saturating_sub(from)).unwrap_or(0));
    if let Some((previous, begin)) = &files.previous
        && from < *base
    {
        read_part(previous, from - begin, (*base).min(to) - begin, &mut bytes)?;
    }
    read_part(present, from.max(*base) - base, to.saturating_sub(*base), &mut bytes)?;
    Ok(bytes)
}

fn read_part(file: &File, from: u64, to: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let begin = bytes.len();
    bytes.resize(begin + usize::try_from(to.saturating_sub(from)).unwrap_or(0), 0);
    file.read_exact_at(&mut bytes[begin..], from)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use crate::log::file::LogFile;

    fn log(bytes_max: u64) -> (tempfile::TempDir, LogFile, Arc<LogPlace>) {
        let directory = tempfile::tempdir().unwrap();
        let (file, place) = LogFile::open(&directory.path().join("gateway.log"), bytes_max).unwrap();
        (directory, file, place)
    }

    fn after(cursor: u64) -> Wanted {
        Wanted { cursor: Some(cursor), ..Wanted::default() }
    }

    /// Rows of the table of this module, at both sides of each limit.
    #[test]
    fn an_answer_begins_where_it_should() {
        let window = |cursor, bytes_max| {
            let Window { start, truncated, reset, skipped_bytes } = window(100, 1_000, cursor, bytes_max);
            (start, truncated, reset, skipped_bytes)
        };
        assert_eq!(window(None, 400), (600, true, false, None));
        assert_eq!(window(None, 5_000), (100, true, false, None));
        assert_eq!(window(Some(600), 400), (600, false, false, None));
        assert_eq!(window(Some(599), 400), (600, true, true, Some(1)));
        assert_eq!(window(Some(99), 5_000), (100, true, true, Some(1)));
        assert_eq!(window(Some(1_000), 400), (1_000, false, false, None));
        assert_eq!(window(Some(1_001), 400), (600, true, true, None));
    }

    /// Whoever follows the log gets every line once, whenever files are put away. By a reader that asks after each line,
    /// and one that asks after some, over files of a few lines.
    #[test]
    fn a_follower_misses_nothing() {
        let (_directory, mut file, place) = log(64);
        let (mut each, mut some) = ((0, Vec::new()), (0, Vec::new()));
        let mut all = Vec::new();
        let follow = |(cursor, seen): &mut (u64, Vec<String>)| {
            let tail = read(&place, after(*cursor)).unwrap();
            assert!(!tail.reset && !tail.truncated, "{tail:?}");
            *cursor = tail.cursor;
            seen.extend(tail.lines);
        };
        for index in 0..40 {
            let line = format!("line number {index:03}");
            writeln!(file, "{line}").unwrap();
            all.push(line);
            follow(&mut each);
            if index % 4 == 0 {
                follow(&mut some);
            }
        }
        follow(&mut some);
        assert_eq!((each.1, some.1), (all.clone(), all));
    }

    /// A line that is not finished is told when it is; the first one that is cut is left out; of many the last are told.
    #[test]
    fn only_whole_lines_are_told() {
        let (_directory, mut file, place) = log(1_000);
        file.write_all(b"one\ntwo\nthr").unwrap();
        let tail = read(&place, Wanted { bytes: Some(9), ..Wanted::default() }).unwrap();
        assert_eq!((&tail.lines[..], tail.cursor, tail.size), (&["two".to_owned()][..], 8, 11));
        assert!(tail.truncated && !tail.reset);
        file.write_all(b"ee\n").unwrap();
        let next = read(&place, after(tail.cursor)).unwrap();
        assert_eq!((&next.lines[..], next.cursor), (&["three".to_owned()][..], 14));
        assert_eq!(read(&place, after(14)).unwrap().lines, [""; 0]);
        let last = read(&place, Wanted { lines: Some(2), ..Wanted::default() }).unwrap();
        assert_eq!((&last.lines[..], last.truncated), (&["two".to_owned(), "three".to_owned()][..], true));
    }
}
