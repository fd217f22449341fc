//! An agent that is a command: messages to its standard input, replies from its standard output.
//!
//! # Threads
//!
//! One thread moves messages from the inbox to the command, one moves lines from the command to the
//! outbox, and the caller waits for whichever ends first. What both use lies behind one lock ([`Desk`]).
//!
//! # What is deliberately absent
//!
//! A command that does not read its input blocks the first thread, so it does not see a stop either; the
//! keeper's SIGTERM goes to the whole process group and ends both. A command that dies fails nothing here:
//! the host dies with it, and the gateway knows best what to do with the turns.

use std::io::{BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use agent_sdk::{Agent, FailureCode, Inbox, Received, ReplyError, Turn, inherited};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions};

use super::desk::{Desk, lock};
use super::host::{HostError, SMALL_PAGES};
use super::input;
use super::output::{LineError, Splitter};

/// The most turns a command may have open.
const OPEN_TURNS_MAX: usize = 4096;
/// How long a command may take to end once it has no input or no output.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// How long the last lines of a dead command may take to be passed on.
const LAST_LINES_PATIENCE: Duration = Duration::from_secs(1);
/// How long to sleep before looking again: a net under a lost ring, rare enough for hundreds of idle agents.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes read from the command at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// What a shell says of a command that cannot be run.
const EXIT_NOT_RUN: u8 = 127;
/// A shell adds this to the signal that ended a command.
const EXIT_SIGNAL_BASE: i32 = 128;

/// What ended a thread.
enum Happened {
    /// The gateway wants the agent to finish.
    Stopped,
    /// The command takes no more input.
    InputClosed,
    /// The command is dead, or has closed its output.
    OutputEnded,
    /// A ring or a pipe is of no use any more.
    Failed(HostError),
}

/// Runs a command as an agent. `attach` is called once the command runs.
pub(super) fn run(
    argv: &[String],
    attach: impl FnOnce() -> Result<Agent, HostError>,
) -> Result<u8, HostError> {
    let Some((program, arguments)) = argv.split_first() else {
        eprintln!("agent-host: stdio needs a command; write it behind `--`");
        return Ok(EXIT_NOT_RUN);
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    for variable in inherited::VARIABLES.into_iter().chain([SMALL_PAGES.0]) {
        command.env_remove(variable);
    }
    let mut child = match with_huge_pages(|| command.spawn()) {
        Ok(child) => child,
        Err(error) => {
            eprintln!(
                "agent-host: command {program} cannot be run: {error}; install it or correct the agent's argv"
            );
            return Ok(EXIT_NOT_RUN);
        }
    };
    let result = serve(program, &mut child, attach);
    if result.is_err() {
        let _ = child.kill(); // It may be dead already; the error to report is the other one.
        let _ = child.wait(); // As above.
    }
    result
}

/// Does something while the host may have huge pages, which what it starts inherits for good.
fn with_huge_pages<T>(start: impl FnOnce() -> T) -> T {
    // Where the kernel has no say in this, there is nothing to inherit.
    let disabled = rustix::thread::transparent_huge_pages_are_disabled().unwrap_or(false);
    if !disabled {
        return start();
    }
    let _ = rustix::thread::disable_transparent_huge_pages(false); // As above.
    let started = start();
    let _ = rustix::thread::disable_transparent_huge_pages(true); // As above.
    started
}

fn serve(
    program: &str,
    child: &mut Child,
    attach: impl FnOnce() -> Result<Agent, HostError>,
) -> Result<u8, HostError> {
    let failed = |step: &'static str| {
        move |source: std::io::Error| HostError::Command { step, program: program.to_owned(), source }
    };
    if rustix::process::getpid().is_init() {
        let command = Pid::from_child(child);
        let work = move || reap_orphans(command);
        thread::Builder::new().name("orphans".to_owned()).spawn(work).map_err(failed("starting a thread"))?;
    }
    let open_pidfd = || rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty());
    let watched = open_pidfd().map_err(|errno| failed("watching")(errno.into()))?;
    let pidfd = watched.try_clone().map_err(failed("watching"))?;
    let pipes = child.stdin.take().zip(child.stdout.take());
    let (stdin, stdout) = pipes.ok_or_else(|| failed("taking the pipes")(Errno::BADF.into()))?;

    let (inbox, outbox) = attach()?.split();
    // Arc: the two threads.
    let desk = Arc::new(Mutex::new(Desk::new(outbox)));
    let (ended, happened) = mpsc::channel();
    let start = |name: &str, work: Box<dyn FnOnce() -> Happened + Send>| {
        let ended = ended.clone();
        let work = move || {
            let _ = ended.send(work()); // Nobody listens once the host is ending.
        };
        thread::Builder::new().name(name.to_owned()).spawn(work).map_err(failed("starting a thread"))
    };
    let (desk_of_input, name) = (Arc::clone(&desk), program.to_owned());
    start("input", Box::new(move || pass_in(inbox, stdin, &desk_of_input)))?;
    start("output", Box::new(move || pass_out(&name, stdout, &watched, &desk)))?;

    // Both threads hold a sender, so there is always something to come.
    match happened.recv().unwrap_or(Happened::OutputEnded) {
        Happened::Failed(error) => Err(error),
        Happened::Stopped => {
            // Its input is closed by now.
            end(child, &pidfd).map_err(failed("waiting"))?;
            let _ = happened.recv_timeout(LAST_LINES_PATIENCE); // Later lines are lost, as in a crash.
            Ok(0)
        }
        Happened::InputClosed => {
            let status = end(child, &pidfd).map_err(failed("waiting"))?;
            let _ = happened.recv_timeout(LAST_LINES_PATIENCE); // As above.
            Ok(report(program, status))
        }
        Happened::OutputEnded => Ok(report(program, end(child, &pidfd).map_err(failed("waiting"))?)),
    }
}

/// Reaps what the command's descendants leave behind, where this process is the first of its namespace, until the
/// command itself has ended: its status is for whoever waits for it, and the host ends then.
fn reap_orphans(command: Pid) {
    let dead = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    loop {
        match rustix::process::waitid(WaitId::All, dead) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            // No child is left.
            Err(_) => return,
        }
        // The main thread adopts orphans, and has started the command. Without this file they stay zombies.
        let children = std::fs::read_to_string("/proc/self/task/1/children").unwrap_or_default();
        let children = children.split_ascii_whitespace().filter_map(|text| Pid::from_raw(text.parse().ok()?));
        let orphans = children.filter(|child| *child != command);
        let reaped = orphans.filter(|orphan| {
            rustix::process::waitpid(Some(*orphan), WaitOptions::NOHANG).is_ok_and(|status| status.is_some())
        });
        if reaped.count() == 0 {
            // The command is the one that is dead.
            return;
        }
    }
}

/// Waits for the command to end, and kills it if it takes too long.
fn end(child: &mut Child, pidfd: &OwnedFd) -> std::io::Result<ExitStatus> {
    let deadline = Instant::now() + END_PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(0), tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            Ok(0) => {
                child.kill()?;
                return child.wait();
            }
            Ok(_) => return child.wait(),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Says how the command ended, and gives the code to end with.
fn report(program: &str, status: ExitStatus) -> u8 {
    eprintln!("agent-host: command {program} ended: {status}");
    let code = status.code().or_else(|| status.signal().map(|signal| EXIT_SIGNAL_BASE + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1) // Any failure, should the code not fit.
}

/// Passes messages from the gateway to the command.
fn pass_in(mut inbox: Inbox, stdin: ChildStdin, desk: &Mutex<Desk>) -> Happened {
    let mut stdin = BufWriter::with_capacity(CHUNK_BYTES, stdin);
    loop {
        let mut written = Ok(());
        let mut refused = Ok(());
        let received = inbox.receive(IDLE, |turn| {
            if written.is_err() || refused.is_err() {
                return;
            }
            match admit(desk, &turn) {
                Ok(true) => written = input::write(&mut stdin, &turn),
                Ok(false) => {}
                Err(error) => refused = Err(error),
            }
        });
        match (received, refused) {
            (Err(error), _) => return Happened::Failed(error.into()),
            (_, Err(error)) => return Happened::Failed(error.into()),
            (Ok(Received::Stopped), _) => return Happened::Stopped,
            (Ok(Received::Messages(_) | Received::Idle), Ok(())) => {}
        }
        for &turn in inbox.cancelled() {
            // What the command has ended already it need not hear of.
            if written.is_ok() && lock(desk).turns.contains_key(&turn) {
                written = input::write_cancel(&mut stdin, turn);
            }
        }
        for result in inbox.skill_results() {
            let id = lock(desk).skills.remove(&result.call);
            if let Some(id) = id.filter(|_| written.is_ok()) {
                written = input::write_skill_result(&mut stdin, &id, result);
            }
        }
        if written.and_then(|()| stdin.flush()).is_err() {
            // A broken pipe is the only way in which a pipe fails.
            return Happened::InputClosed;
        }
    }
}

/// Opens a turn. `false`: there are too many, it has been answered.
fn admit(desk: &Mutex<Desk>, turn: &Turn<'_>) -> Result<bool, ReplyError> {
    let mut desk = lock(desk);
    let id = turn.id();
    if desk.turns.len() >= OPEN_TURNS_MAX && !desk.turns.contains_key(&id.turn()) {
        let text = format!("the agent has {OPEN_TURNS_MAX} turns open");
        desk.outbox.fail(&id, FailureCode::Overloaded, &text)?;
        desk.outbox.flush()?;
        return Ok(false);
    }
    desk.turns.insert(id.turn(), id);
    Ok(true)
}

/// Passes lines from the command to the gateway.
fn pass_out(program: &str, mut stdout: ChildStdout, pidfd: &OwnedFd, desk: &Mutex<Desk>) -> Happened {
    let mut splitter = Splitter::default();
    let mut chunk = vec![0; CHUNK_BYTES];
    let failed = |source| {
        Happened::Failed(HostError::Command { step: "reading", program: program.to_owned(), source })
    };
    loop {
        // A descendant of a dead command may hold its output open: so both are watched.
        let ready = &mut [PollFd::new(&stdout, PollFlags::IN), PollFd::new(pidfd, PollFlags::IN)];
        match rustix::event::poll(ready, None) {
            Err(Errno::INTR) => continue,
            Err(errno) => return failed(errno.into()),
            Ok(_) => {}
        }
        let bytes = if ready[0].revents().is_empty() {
            0 // The command is dead and all it wrote is read.
        } else {
            match stdout.read(&mut chunk) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return failed(error),
            }
        };
        let mut desk = lock(desk);
        let mut passed = Ok(());
        let mut pass = |line: Result<&[u8], LineError>| {
            if passed.is_ok() {
                passed = desk.take(line);
            }
        };
        if bytes == 0 {
            pass(Ok(splitter.rest()));
        } else {
            splitter.feed(&chunk[..bytes], pass);
        }
        if let Err(error) = passed.and_then(|()| desk.outbox.flush()) {
            return Happened::Failed(error.into());
        }
        if bytes == 0 {
            return Happened::OutputEnded;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Engine, Reply, WAIT, pair};
    use super::*;
    use agent_sdk::BlockType;

    /// A host that runs a command, and the engine's end of its link.
    struct Host {
        engine: Engine,
        ended: mpsc::Receiver<Result<u8, HostError>>,
    }

    impl Host {
        fn start(argv: &[&str]) -> Self {
            let (engine, inherited) = pair(65_536);
            let argv: Vec<String> = argv.iter().map(|&argument| argument.to_owned()).collect();
            let (sender, ended) = mpsc::channel();
            thread::spawn(move || sender.send(run(&argv, || Ok(Agent::attach_to(inherited)?))));
            Self { engine, ended }
        }

        fn end(&self) -> u8 {
            self.ended.recv_timeout(WAIT).expect("the host ends").expect("without an error")
        }
    }

    fn block(turn: u64, text: &str) -> Reply {
        Reply::Block(turn, BlockType::Text, text.to_owned())
    }

    /// The Python example streams replies; a stop closes its input and it ends by itself.
    #[test]
    fn a_python_agent_streams() {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/streaming_agent.py");
        let mut host = Host::start(&["python3", script]);
        host.engine.say(1, "hello big\nworld 🦞");
        host.engine.say(u64::MAX, "");
        let expected =
            [block(1, "HELLO "), block(1, "BIG "), block(1, "WORLD "), Reply::End(1, "🦞".to_owned())];
        let mut replies = host.engine.await_end(u64::MAX);
        assert_eq!(replies.pop(), Some(Reply::End(u64::MAX, String::new())));
        assert_eq!(replies, expected);
        // Far more than a pipe, a ring or a chunk holds, in one word.
        let long = "x".repeat(500_000);
        host.engine.say(2, &long);
        assert_eq!(host.engine.await_end(2), [Reply::End(2, long.to_uppercase())]);
        host.engine.stop();
        assert_eq!(host.end(), 0);
    }

    /// A command is told once that a turn it has open is cancelled, not of one that it has ended; its answer is passed
    /// on all the same. The Python example goes on behind such a line.
    #[test]
    fn a_cancel_is_a_line() {
        let script = r#"
            read -r line; echo '{"type":"end","id":"1"}'
            read -r line; read -r cancel
            printf '{"type":"end","id":"2","content":"%s"}\n' "$(printf %s "$cancel" | tr '"' "'")"
            cat >/dev/null"#;
        let mut host = Host::start(&["sh", "-c", script]);
        host.engine.say(1, "x");
        host.engine.await_end(1);
        host.engine.cancel(1);
        host.engine.say(2, "x");
        host.engine.cancel(2);
        let line = "{'type':'cancel','id':'2'}";
        assert_eq!(host.engine.await_end(2), [Reply::End(2, line.to_owned())]);
        host.engine.stop();
        assert_eq!(host.end(), 0);

        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/streaming_agent.py");
        let mut host = Host::start(&["python3", example]);
        host.engine.say(1, "");
        host.engine.cancel(1);
        host.engine.say(2, "on");
        let mut replies = host.engine.await_end(2);
        assert_eq!(replies.pop(), Some(Reply::End(2, "ON".to_owned())));
        host.engine.stop();
        assert_eq!(host.end(), 0);
    }

    /// Unusable lines are skipped, or fail the turn they name; the stream goes on; the last line needs no
    /// line end; the exit code of the command is the host's.
    #[test]
    fn a_sloppy_agent_goes_on() {
        let script = r#"
            read -r line; echo starting; echo; echo '{"type":"end","id":"99"}'
            echo '{"type":"block","id":"1","content":"a"}'
            echo '{"type":"block","id":"1","content":"b","blockType":"song"}'
            echo '{"type":"end","id":"1","content":"too late"}'
            read -r line; echo '{"type":"error","id":"2","message":"no key"}'
            read -r line; printf '{"type":"end","id":"3","content":"bye"}'
            exit 7"#;
        let mut host = Host::start(&["sh", "-c", script]);
        let failure = |turn, text: &str| Reply::Failure(turn, FailureCode::AgentError, text.to_owned());
        host.engine.say(1, "x");
        let unknown = "blockType \"song\" in a line of the agent is not known";
        assert_eq!(host.engine.await_end(1), [block(1, "a"), failure(1, unknown)]);
        host.engine.say(2, "x");
        assert_eq!(host.engine.await_end(2), [failure(2, "no key")]);
        host.engine.say(3, "x");
        assert_eq!(host.engine.await_end(3), [Reply::End(3, "bye".to_owned())]);
        assert_eq!(host.end(), 7);
    }

    /// The code of a command that dies of a signal, of one whose descendant holds its output open, of one
    /// that cannot be run (and so is never attached), and of one that does not end at a stop.
    #[test]
    fn exit_codes() {
        assert_eq!(Host::start(&["sh", "-c", "kill -9 $$"]).end(), 137);
        assert_eq!(Host::start(&["sh", "-c", "sleep 30 & exit 3"]).end(), 3);
        let never = || -> Result<Agent, HostError> { panic!("attached without a command") };
        assert_eq!(run(&["/missing/command".to_owned()], never).unwrap(), 127);
        assert_eq!(run(&[], never).unwrap(), 127);
        let mut deaf = Host::start(&["sleep", "1000"]);
        deaf.engine.stop();
        assert_eq!(deaf.end(), 0);
    }
}
