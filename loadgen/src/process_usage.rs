//! Processor time and memory of a server and its children, read from `/proc`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::Deserialize;

const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
const HEALTH_BYTES_MAX: u64 = 64 << 10;
const BYTES_PER_KIB: u64 = 1024;

/// What one process has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessSample {
    cpu_ticks: u64,
    /// The processor time of children that ended and were waited for; without it a restarted agent costs nothing.
    reaped_ticks: u64,
    resident_bytes: u64,
    /// Resident memory with each shared page divided by its users; absent where the kernel does not tell.
    proportional_bytes: Option<u64>,
}

/// What the processes of a server have used up to one moment.
#[derive(Clone, Debug, Default)]
pub struct UsageSample {
    processes: HashMap<u32, ProcessSample>,
}

/// The difference of two samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Processor time between the samples, user and system.
    pub cpu_s: f64,
    /// Sum of resident sizes at the later sample. Memory shared by several processes counts in each.
    pub resident_bytes: u64,
    /// The same with shared memory counted once, where the kernel tells.
    pub proportional_bytes: Option<u64>,
    /// How many processes there were at the later sample.
    pub process_count: usize,
}

impl UsageSample {
    /// Reads `roots` and all their descendants. Processes that are gone are left out.
    pub fn take(roots: &[u32]) -> Self {
        let parents = parents();
        let processes = family(roots, &parents)
            .into_iter()
            .filter_map(|process_id| Some((process_id, read_process(process_id)?)))
            .collect();
        Self { processes }
    }

    /// What was used since `earlier`, or `None` if no process is left to tell.
    pub fn since(&self, earlier: &Self, ticks_per_s: u64) -> Option<Usage> {
        if self.processes.is_empty() {
            return None;
        }
        let mut ticks = 0_u64;
        for (process_id, sample) in &self.processes {
            let before = earlier.processes.get(process_id);
            let reaped_before = before.map_or(0, |before| before.reaped_ticks);
            ticks += sample.cpu_ticks.saturating_sub(before.map_or(0, |before| before.cpu_ticks));
            ticks += sample.reaped_ticks.saturating_sub(reaped_before);
        }
        // A child that was seen before and has ended is in `reaped_ticks` with its whole life.
        let gone =
            earlier.processes.iter().filter(|(process_id, _)| !self.processes.contains_key(process_id));
        ticks = ticks.saturating_sub(gone.map(|(_, before)| before.cpu_ticks).sum());
        #[expect(clippy::cast_precision_loss, reason = "a tick count stays far below 2^53")]
        let cpu_s = ticks as f64 / ticks_per_s as f64;
        Some(Usage {
            cpu_s,
            resident_bytes: self.processes.values().map(|sample| sample.resident_bytes).sum(),
            proportional_bytes: self.processes.values().map(|sample| sample.proportional_bytes).sum(),
            process_count: self.processes.len(),
        })
    }
}

/// Parent of every process that can be read.
fn parents() -> HashMap<u32, u32> {
    // Without /proc there is no figure, which the caller reports as such.
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    entries
        .filter_map(|entry| {
            let process_id = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{process_id}/stat")).ok()?;
            Some((process_id, parse_stat(&stat)?.parent_id))
        })
        .collect()
}

/// `roots` and everything below them.
fn family(roots: &[u32], parents: &HashMap<u32, u32>) -> HashSet<u32> {
    let mut members: HashSet<u32> = roots.iter().copied().collect();
    // Each round adds one generation; there are at most as many as processes.
    for _ in 0..parents.len() {
        let before = members.len();
        for (child, parent) in parents {
            if members.contains(parent) {
                members.insert(*child);
            }
        }
        if members.len() == before {
            break;
        }
    }
    members
}

struct Stat {
    parent_id: u32,
    cpu_ticks: u64,
    reaped_ticks: u64,
}

/// Reads `/proc/PID/stat`. The name in parentheses may contain spaces and parentheses, so fields count from the last.
fn parse_stat(stat: &str) -> Option<Stat> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // Numbers in proc_pid_stat(5) are one-based and the first two fields are cut off.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent_id: u32::try_from(number(4)?).ok()?,
        cpu_ticks: number(14)? + number(15)?,
        reaped_ticks: number(16)? + number(17)?,
    })
}

fn read_process(process_id: u32) -> Option<ProcessSample> {
    let stat = parse_stat(&fs::read_to_string(format!("/proc/{process_id}/stat")).ok()?)?;
    let status = fs::read_to_string(format!("/proc/{process_id}/status")).ok()?;
    let rollup = fs::read_to_string(format!("/proc/{process_id}/smaps_rollup")).ok(); // Root's only, or absent.
    Some(ProcessSample {
        cpu_ticks: stat.cpu_ticks,
        reaped_ticks: stat.reaped_ticks,
        resident_bytes: kib_field(&status, "VmRSS:").unwrap_or(0), // A zombie has none.
        proportional_bytes: rollup.and_then(|rollup| kib_field(&rollup, "Pss:")),
    })
}

fn kib_field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(BYTES_PER_KIB)
}

#[derive(Deserialize)]
struct Health {
    pid: Option<u32>,
}

/// Asks `GET /health` for the server's process id. A server without that page or field gives `None`.
pub fn server_process_id(address: SocketAddr) -> Option<u32> {
    let mut stream = TcpStream::connect_timeout(&address, HEALTH_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(HEALTH_TIMEOUT)).ok()?;
    stream.set_write_timeout(Some(HEALTH_TIMEOUT)).ok()?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    // A server that keeps the connection open ends in a timeout, and what came until then is the answer.
    let _ = stream.take(HEALTH_BYTES_MAX).read_to_end(&mut answer);
    health_process_id(&String::from_utf8_lossy(&answer))
}

/// Finds the JSON object in an HTTP answer, whatever its transfer coding.
fn health_process_id(answer: &str) -> Option<u32> {
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let object = body.get(body.find('{')?..=body.rfind('}')?)?;
    serde_json::from_str::<Health>(object).ok()?.pid
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process name with spaces and parentheses does not shift the fields.
    #[test]
    fn stat_is_read_behind_the_name() {
        let stat = "42 (a) b (c)) S 7 42 42 0 -1 4194304 1 2 3 4 100 20 3 1 20 0 9 0 12345 1 2";
        let stat = parse_stat(stat).unwrap();
        assert_eq!((stat.parent_id, stat.cpu_ticks, stat.reaped_ticks), (7, 120, 4));
        assert!(parse_stat("42 (short) S 7").is_none());
    }

    /// Descendants at any depth belong to the family; siblings and unrelated processes do not.
    #[test]
    fn family_holds_all_descendants() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (6, 5), (1, 0)]);
        assert_eq!(family(&[2], &parents), HashSet::from([2, 3, 4]));
        assert_eq!(family(&[3, 5], &parents), HashSet::from([3, 4, 5, 6]));
    }

    /// Processor time is a difference, including a child that started between the samples and one that ended.
    #[test]
    fn usage_is_the_difference_of_two_samples() {
        let process = |cpu_ticks, reaped_ticks| ProcessSample {
            cpu_ticks,
            reaped_ticks,
            resident_bytes: 1000,
            proportional_bytes: Some(600),
        };
        let earlier = UsageSample { processes: HashMap::from([(1, process(100, 10)), (2, process(30, 0))]) };
        let later = UsageSample { processes: HashMap::from([(1, process(250, 60)), (3, process(5, 0))]) };
        // 150 of process 1; 50 reaped less the 30 that process 2 had used before; 5 of the new process 3.
        let usage = later.since(&earlier, 100).unwrap();
        let expected =
            Usage { cpu_s: 1.75, resident_bytes: 2000, proportional_bytes: Some(1200), process_count: 2 };
        assert_eq!(usage, expected);
        assert_eq!(UsageSample::default().since(&earlier, 100), None);
    }

    /// This test process itself is found and has memory.
    #[test]
    fn own_process_is_readable() {
        let sample = UsageSample::take(&[std::process::id()]);
        let usage = sample.since(&UsageSample::default(), 100).unwrap();
        assert!(usage.resident_bytes > 0);
        assert!(usage.process_count >= 1);
    }

    /// Only a JSON body with a numeric `pid` names the server, chunked or not.
    #[test]
    fn health_answer_names_the_process() {
        let rows = [
            ("HTTP/1.1 200 OK\r\n\r\n{\"status\":\"ok\",\"pid\":17}", Some(17)),
            ("HTTP/1.1 200 OK\r\n\r\n10\r\n{\"pid\":17}\r\n0\r\n\r\n", Some(17)),
            ("HTTP/1.1 200 OK\r\n\r\n{\"status\":\"ok\"}", None),
            ("HTTP/1.1 404 Not Found\r\n\r\nno", None),
            ("", None),
        ];
        for (answer, expected) in rows {
            assert_eq!(health_process_id(answer), expected, "{answer}");
        }
    }
}
