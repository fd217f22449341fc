//! What this process uses, as `/proc/self` tells it.

use std::fs;

/// Clock ticks a second in `/proc/PID/stat`: fixed for user space on all Linux systems.
const TICKS_PER_SECOND: f64 = 100.0;

/// What this process uses. Zero where /proc does not tell.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ProcessUsage {
    /// Resident memory.
    pub memory_bytes: u64,
    /// Time of all threads, in user and kernel mode.
    pub cpu_seconds: f64,
    /// Open descriptors.
    pub open_files: u64,
}

impl ProcessUsage {
    /// As of now. Reads three files of /proc.
    pub fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self {
            memory_bytes: resident_bytes(),
            cpu_seconds: ticks(&stat) as f64 / TICKS_PER_SECOND,
            // One of them is that of the directory that is read.
            open_files: fs::read_dir("/proc/self/fd")
                .map_or(0, |entries| entries.count().saturating_sub(1) as u64),
        }
    }
}

/// Resident memory of this process: for who wants no more than that, as often as it likes.
pub fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    resident_pages(&statm) * rustix::param::page_size() as u64
}

fn resident_pages(statm: &str) -> u64 {
    statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0)
}

/// Of user and kernel mode. The name of the program may hold anything, so it is skipped by its last bracket.
fn ticks(stat: &str) -> u64 {
    let Some((_, after_name)) = stat.rsplit_once(") ") else { return 0 };
    after_name.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields are found by their place, whatever the program is called; nonsense is nothing.
    #[test]
    fn fields_are_found() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 1 0 5 1 1";
        assert_eq!(ticks(stat), 42);
        assert_eq!((ticks(""), ticks("7 (a"), resident_pages("")), (0, 0, 0));
        assert_eq!(resident_pages("100 25 3 4 0 6 0\n"), 25);
        assert!(ProcessUsage::read().memory_bytes > 0);
    }
}
