//! `start`: a gateway in the background, by systemd where it is a service, else by this program.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::admin::answer::Status;
use crate::ask::{self, AskError};
use crate::config::ConfigError;
use crate::options::{Place, StartOptions};
use crate::service::{self, ServiceError};
use crate::state_directory::{self, Unreached};
use crate::table::print_json;

/// How often it is looked whether the gateway is ready.
const LOOK: Duration = Duration::from_millis(10);
/// How much of what a gateway has printed that did not start is shown.
const SHOWN_BYTES_MAX: u64 = 16 * 1024;

/// Why no gateway was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The default state directory is unknown.
    #[error(transparent)]
    Directory(#[from] ConfigError),
    /// A gateway may run, and cannot be asked.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// This program cannot be started.
    #[error("the gateway cannot be started")]
    Spawn(#[source] std::io::Error),
    /// systemd does not start it.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// It has ended instead.
    #[error("the gateway did not start ({status}){}", said.lines().map(|line| format!("\n  {line}")).collect::<String>())]
    Ended {
        /// How.
        status: String,
        /// What it has printed.
        said: String,
    },
    /// It does not become ready.
    #[error("the gateway is not ready after {} ms; {} says what it waits for", waited.as_millis(), log.display())]
    Late {
        /// How long it was waited for.
        waited: Duration,
        /// Its log.
        log: PathBuf,
    },
    /// It could not be told.
    #[error("the answer cannot be printed")]
    Print(#[source] std::io::Error),
}

/// Starts a gateway, unless one runs, and waits until it answers.
pub fn start(options: &StartOptions) -> Result<ExitCode, StartError> {
    let directory = options.place.state_dir.as_deref();
    let directory = state_directory::chosen(directory).ok_or(ConfigError::NoHome)?;
    let place = Place { state_dir: Some(directory.clone()) };
    match ask::gateway_status(&place) {
        Ok(status) => return told(options, &directory, &status, None),
        Err(AskError::Unreached(Unreached::NoGateway { .. })) => {}
        Err(error) => return Err(error.into()),
    }
    let is_service = options.run.is_empty() && service::is_for(&options.place);
    if is_service {
        service::start()?;
    }
    let errors = state_directory::gateway_errors(&directory);
    let before = errors.metadata().map_or(0, |metadata| metadata.len());
    let mut child = if is_service { None } else { Some(spawn(options)?) };
    let begin = Instant::now();
    let waited = Duration::from_millis(options.timeout_ms);
    loop {
        if let Ok(status) = ask::gateway_status(&place) {
            let by = if is_service { "systemd" } else { "this command" };
            return told(options, &directory, &status, Some(by));
        }
        if let Some(child) = &mut child
            && let Some(status) = child.try_wait().map_err(StartError::Spawn)?
        {
            return Err(StartError::Ended { status: status.to_string(), said: said(child, &errors, before) });
        }
        if begin.elapsed() >= waited {
            return Err(StartError::Late { waited, log: state_directory::gateway_log(&directory) });
        }
        std::thread::sleep(LOOK);
    }
}

/// A gateway that goes on when this command and its terminal have ended.
fn spawn(options: &StartOptions) -> Result<Child, StartError> {
    let program = std::env::current_exe().map_err(StartError::Spawn)?;
    let mut command = Command::new(program);
    command.args(["gateway", "run", "--background"]);
    command.args(service::place_flags(&options.place)).args(&options.run);
    // Its standard error is read only if it does not start; afterwards it has a file of its own.
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    spawned.map_err(StartError::Spawn)
}

/// What a gateway has printed that has ended: before it had a file, and to its file.
fn said(child: &mut Child, errors: &Path, before: u64) -> String {
    let mut said = String::new();
    if let Some(pipe) = child.stderr.take() {
        // What cannot be read is not shown.
        let _ = pipe.take(SHOWN_BYTES_MAX).read_to_string(&mut said);
    }
    if let Ok(mut file) = std::fs::File::open(errors) {
        let _ = file.seek(SeekFrom::Start(before));
        let _ = file.take(SHOWN_BYTES_MAX).read_to_string(&mut said);
    }
    said
}

fn told(
    options: &StartOptions,
    directory: &Path,
    status: &Status,
    by: Option<&str>,
) -> Result<ExitCode, StartError> {
    let url = format!("ws://{}", status.listener);
    let log = state_directory::gateway_log(directory);
    let printed = if options.json {
        print_json(&json!({"started": by.is_some(), "processId": status.process_id, "url": url, "log": log,
            "by": by}))
    } else {
        let how = by.map_or("runs already".to_owned(), |by| format!("is started by {by}"));
        let process_id = status.process_id;
        writeln!(
            std::io::stdout(),
            "gateway {process_id} {how}; it listens on {url}\nlog     {}\nend it  openclaw gateway stop{}",
            log.display(),
            stop_flags(options)
        )
    };
    printed.map_err(StartError::Print)?;
    Ok(ExitCode::SUCCESS)
}

/// With which flags the command that ends it finds it.
fn stop_flags(options: &StartOptions) -> String {
    let given = options.place.state_dir.as_deref();
    given.map_or_else(String::new, |directory| format!(" --state-dir {}", directory.display()))
}
