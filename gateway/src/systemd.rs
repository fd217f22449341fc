//! What a service manager that speaks the protocol of systemd is told (`Type=notify`, `Type=notify-reload`).
//!
//! | told | when |
//! |---|---|
//! | `READY=1` | the gateway is up; and after each `RELOADING=1` |
//! | `RELOADING=1`, `MONOTONIC_USEC=…` | the configuration is read again |
//! | `STATUS=…` | with each of these, and when a shard hangs |
//! | `WATCHDOG=1` | four times within `WATCHDOG_USEC`, as long as every shard answers |
//! | `STOPPING=1` | the gateway goes down |

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::admin::shards::Shards;

/// What a gateway ends with that leaves everything to the next one, so that the service manager starts that. The unit that
/// `openclaw gateway install` writes says so (`RestartForceExitStatus=`).
pub const EXIT_NEXT: u8 = 75;

const NOTIFY_VARIABLE: &str = "NOTIFY_SOCKET";
const INVOCATION_VARIABLE: &str = "INVOCATION_ID";
const WATCHDOG_VARIABLE: &str = "WATCHDOG_USEC";
const WATCHDOG_PROCESS_VARIABLE: &str = "WATCHDOG_PID";
/// How often a gateway says that it is well within the time after which it is taken for dead.
const SIGNS_PER_WATCHDOG: u32 = 4;
/// The longest status.
const STATUS_BYTES_MAX: usize = 512;

/// Where the service manager that has started this process waits for its word. The second variable alone is also seen in
/// terminals.
fn socket() -> Option<OsString> {
    std::env::var_os(INVOCATION_VARIABLE)?;
    std::env::var_os(NOTIFY_VARIABLE)
}

/// Whether a service manager has started this process and waits for its word.
pub fn is_there() -> bool {
    socket().is_some()
}

/// Says that the gateway is up, if there is anybody to be told, and how it is.
pub fn ready(status: &str) {
    tell(&format!("READY=1\n{}", status_line(status)));
}

/// Says that the configuration is read again. [`ready`] has to follow.
pub fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let us = now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000;
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={us}\nSTATUS=reading the configuration again"));
}

/// Says that the gateway goes down, so that nobody takes that for a crash.
pub fn stopping() {
    tell("STOPPING=1\nSTATUS=going down: open messages are answered");
}

/// Says how the gateway is.
fn status(text: &str) {
    tell(&status_line(text));
}

/// One line of bounded length, whatever the text.
fn status_line(text: &str) -> String {
    let line = text.lines().map(str::trim).collect::<Vec<_>>().join("; ");
    format!("STATUS={}", &line[..line.floor_char_boundary(STATUS_BYTES_MAX)])
}

fn tell(word: &str) {
    let Some(path) = socket() else { return };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(word.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, %word, socket = %path.display(), "the service manager is not told");
    }
}

/// After how long without a sign of life the service manager takes this process for dead, if it does at all.
pub fn watchdog() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    socket()?;
    patience(variable(WATCHDOG_VARIABLE).as_deref(), variable(WATCHDOG_PROCESS_VARIABLE).as_deref())
}

/// What the variables come to. They may be meant for another process, which has started this one.
fn patience(us: Option<&str>, process_id: Option<&str>) -> Option<Duration> {
    let is_ours = process_id.is_none_or(|id| id.parse() == Ok(std::process::id()));
    let us: u64 = us?.parse().ok().filter(|us| *us > 0 && is_ours)?;
    Some(Duration::from_micros(us))
}

/// Gives signs of life for as long as the runtime goes on: on its thread, so that they stop when it hangs, and only while
/// every shard answers, so that they stop when one hangs.
pub async fn give_signs(patience: Duration, shards: Shards) {
    let mut looks = tokio::time::interval(patience / SIGNS_PER_WATCHDOG);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_well = true;
    loop {
        looks.tick().await;
        match shards.ask_all(|_| (), Vec::new).await {
            Ok(_) => {
                tell("WATCHDOG=1");
                if !is_well {
                    tracing::info!("every shard answers again");
                    status("every shard answers again");
                }
                is_well = true;
            }
            Err(hangs) => {
                if is_well {
                    tracing::error!("no sign of life for the service manager: {}", hangs.message);
                }
                status(&hangs.message);
                is_well = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time is that of the variable, unless it is none, or meant for another process.
    #[test]
    fn the_watchdog_is_found() {
        let own = std::process::id().to_string();
        let second = Some(Duration::from_secs(1));
        let rows = [
            (Some("1000000"), None, second),
            (Some("1000000"), Some(own.as_str()), second),
            (Some("1000000"), Some("1"), None),
            (Some("1000000"), Some("x"), None),
            (Some("0"), None, None),
            (Some("-1"), None, None),
            (Some(""), None, None),
            (None, Some(own.as_str()), None),
        ];
        for (us, process_id, expected) in rows {
            assert_eq!(patience(us, process_id), expected, "{us:?} {process_id:?}");
        }
    }

    /// A status is one line, and short, also where a character would be cut in two.
    #[test]
    fn a_status_is_one_line() {
        assert_eq!(status_line("a\n  b\nc"), "STATUS=a; b; c");
        let long = status_line(&"ä".repeat(STATUS_BYTES_MAX));
        assert_eq!(long.len(), "STATUS=".len() + STATUS_BYTES_MAX);
        let odd = status_line(&format!("x{}", "ä".repeat(STATUS_BYTES_MAX)));
        assert_eq!(odd.len(), "STATUS=".len() + STATUS_BYTES_MAX - 1);
    }
}
