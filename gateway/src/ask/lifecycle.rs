//! `gateway status`, `gateway stop` and `gateway restart`.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;
use serde_json::json;

use super::deep::{self, Probe};
use super::{AskError, Gateway};
use crate::admin::answer::{Going, Status};
use crate::admin::request::Op;
use crate::options::{Place, RestartOptions, StatusOptions, StopOptions};
use crate::table::print_json;

/// How long a gateway may take to end beyond the time for replies.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// How long the next gateway may take to answer.
const RESTART_PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// What `gateway restart --json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Restarted {
    from: u32,
    to: u32,
    took_ms: f64,
    agents_adopted: usize,
}

/// What `gateway status --json` prints.
#[derive(Serialize)]
struct Seen {
    #[serde(flatten)]
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    probes: Option<Vec<Probe>>,
}

/// Whether all is well, as far as was asked.
pub(super) fn status(options: &StatusOptions) -> Result<bool, AskError> {
    let place = Place { state_dir: options.place.state_dir.clone() };
    let mut gateway = Gateway::connect(&place)?;
    let status: Status = gateway.ask(Op::GatewayStatus, json!({}))?;
    let probes = options.deep.then(|| deep::probes(&mut gateway, &status, &options.place));
    let is_well = probes.iter().flatten().all(|probe| probe.ok);
    if options.json {
        print_json(&Seen { status, probes }).map_err(AskError::Print)?;
        return Ok(is_well);
    }
    let uptime = Duration::from_millis(status.uptime_ms);
    let came = if status.listener_taken_over { ", taken over" } else { "" };
    let crash =
        if status.restarts_after_crash { "its keeper starts the next one" } else { "nobody starts it again" };
    let agents = status.agents;
    let probes: String = probes.iter().flatten().map(|probe| format!("\n{}", deep::line(probe))).collect();
    writeln!(
        std::io::stdout(),
        "gateway   process {}, version {}, for {:.1} s\nkeeper    process {}\nlistener  {}{came}\n\
         agents    {} of {} run; {} were taken over, {} were started\ncrash     {crash}{probes}",
        status.process_id,
        status.version,
        uptime.as_secs_f64(),
        status.keeper_process_id,
        status.listener,
        agents.alive,
        agents.configured,
        agents.adopted,
        agents.started,
    )
    .map_err(AskError::Print)?;
    Ok(is_well)
}

pub(super) fn stop(options: &StopOptions) -> Result<(), AskError> {
    let begin = Instant::now();
    let mut gateway = Gateway::connect(&options.place)?;
    let status: Status = gateway.ask(Op::GatewayStatus, json!({}))?;
    // Before it is told to end: afterwards its number might be somebody else's.
    let process = watch(status.process_id);
    let drain_ms = options.timeout_ms.unwrap_or(status.drain_timeout_ms);
    let _: Going = gateway.ask(Op::GatewayStop, json!({"timeoutMs": options.timeout_ms}))?;
    let patience = Duration::from_millis(drain_ms) + STOP_PATIENCE;
    if !process.is_none_or(|process| ends(&process, patience)) {
        return Err(AskError::Stays { process_id: status.process_id, waited: patience });
    }
    let took = begin.elapsed().as_secs_f64();
    if options.json {
        let ended = json!({"processId": status.process_id, "tookMs": took * 1000.0});
        return print_json(&ended).map_err(AskError::Print);
    }
    writeln!(std::io::stdout(), "gateway {} ended in {took:.2} s, and so did its agents", status.process_id)
        .map_err(AskError::Print)
}

pub(super) fn restart(options: &RestartOptions) -> Result<(), AskError> {
    let begin = Instant::now();
    let Going { process_id } = Gateway::connect(&options.place)?.ask(Op::GatewayRestart, json!({}))?;
    let status = loop {
        match next(&options.place, process_id) {
            Some(status) => break status,
            None if begin.elapsed() >= RESTART_PATIENCE => {
                return Err(AskError::NoSuccessor { process_id, waited: RESTART_PATIENCE });
            }
            None => std::thread::sleep(LOOK),
        }
    };
    let took = begin.elapsed();
    let restarted = Restarted {
        from: process_id,
        to: status.process_id,
        took_ms: took.as_secs_f64() * 1e3,
        agents_adopted: status.agents.adopted,
    };
    if options.json {
        return print_json(&restarted).map_err(AskError::Print);
    }
    let Restarted { from, to, took_ms, agents_adopted } = restarted;
    writeln!(
        std::io::stdout(),
        "gateway {to} took over from {from} within {took_ms:.0} ms; {agents_adopted} of {} agents went on",
        status.agents.configured
    )
    .map_err(AskError::Print)
}

/// The gateway that has come after the one with this process id, once it answers.
fn next(place: &Place, before: u32) -> Option<Status> {
    // Whatever goes wrong here is that there is none yet, or none any more.
    let status: Status = Gateway::connect(place).ok()?.ask(Op::GatewayStatus, json!({})).ok()?;
    (status.process_id != before).then_some(status)
}

/// `None`: it is gone already.
fn watch(process_id: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(process_id).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

fn ends(process: &OwnedFd, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let ready = rustix::event::poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout));
        match ready {
            Ok(count) if count > 0 => return true,
            _ if left.is_zero() => return false,
            // A wait that was interrupted goes on.
            Ok(_) | Err(_) => {}
        }
    }
}
