//! `gateway install`, `reinstall` and `uninstall`: the gateway as a service of the user's systemd.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use serde_json::json;

use crate::options::{FilePlace, InstallOptions, UninstallOptions};
use crate::systemd::EXIT_NEXT;
use crate::table::print_json;

/// What systemd calls it.
const UNIT: &str = "openclaw-gateway.service";
/// The program that talks to systemd.
const SYSTEMCTL: &str = "systemctl";

/// Why the service is not there, or not gone.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// There is no place for units.
    #[error("there is no home directory, and XDG_CONFIG_HOME is not set, so there is no place for a unit")]
    NoHome,
    /// Something of a path cannot be written into a unit.
    #[error("a unit cannot name {}: it is no text, or has a line end", path.display())]
    Path {
        /// Which path.
        path: PathBuf,
    },
    /// The path of this program is unknown.
    #[error("the path of this program cannot be found out")]
    OwnPath(#[source] std::io::Error),
    /// There is no systemd.
    #[error(
        "there is no systemd here: {SYSTEMCTL} is not in PATH. `openclaw start` needs none; `openclaw gateway install --print` \
         shows the unit for a machine that has it"
    )]
    NoSystemctl(#[source] std::io::Error),
    /// systemd is there, and none runs for this user.
    #[error(
        "the systemd of this user cannot be reached: {said}. It needs a login session (XDG_RUNTIME_DIR and \
         DBUS_SESSION_BUS_ADDRESS), or `loginctl enable-linger`. `openclaw start` needs none"
    )]
    NoManager {
        /// What systemctl says.
        said: String,
    },
    /// systemd refuses.
    #[error("systemctl --user {command} failed: {said}")]
    Refused {
        /// Which command.
        command: String,
        /// What it says.
        said: String,
    },
    /// There is none.
    #[error("{} is not there: the gateway is no service", path.display())]
    NotInstalled {
        /// The unit.
        path: PathBuf,
    },
    /// The unit cannot be written or removed.
    #[error("{step} {} failed", path.display())]
    System {
        /// Which step.
        step: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The answer could not be printed.
    #[error("the answer cannot be printed")]
    Print(#[source] std::io::Error),
}

/// Writes the unit and has systemd read it.
pub fn install(options: &InstallOptions) -> Result<ExitCode, ServiceError> {
    write_unit(options, false)
}

/// The same again, and restarts the service if it runs.
pub fn reinstall(options: &InstallOptions) -> Result<ExitCode, ServiceError> {
    write_unit(options, true)
}

fn write_unit(options: &InstallOptions, restarts: bool) -> Result<ExitCode, ServiceError> {
    let program = std::env::current_exe().map_err(ServiceError::OwnPath)?;
    let text = unit(&program, &options.place)?;
    let path = path()?;
    if !options.print {
        manager()?;
        let failed = |step: &'static str| {
            let path = path.clone();
            move |source| ServiceError::System { step, path, source }
        };
        std::fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(failed("making the folder of"))?;
        std::fs::write(&path, &text).map_err(failed("writing"))?;
        systemctl(&["daemon-reload"])?;
        systemctl(&["enable", UNIT])?;
        if restarts {
            systemctl(&["try-restart", UNIT])?;
        }
    }
    let printed = if options.json {
        print_json(&json!({"unit": text, "path": path, "written": !options.print}))
    } else if options.print {
        write!(std::io::stdout(), "{text}")
    } else {
        let told = "it is started at your next login; `openclaw start` starts it now";
        writeln!(std::io::stdout(), "{} is written and enabled\n{told}", path.display())
    };
    printed.map_err(ServiceError::Print)?;
    Ok(ExitCode::SUCCESS)
}

/// Ends the service and removes its unit.
pub fn uninstall(options: UninstallOptions) -> Result<ExitCode, ServiceError> {
    let path = path()?;
    if !path.exists() {
        return Err(ServiceError::NotInstalled { path });
    }
    manager()?;
    systemctl(&["disable", "--now", UNIT])?;
    let removed = std::fs::remove_file(&path);
    removed.map_err(|source| ServiceError::System { step: "removing", path: path.clone(), source })?;
    systemctl(&["daemon-reload"])?;
    let printed = if options.json {
        print_json(&json!({"path": path, "removed": true}))
    } else {
        writeln!(std::io::stdout(), "{} is removed", path.display())
    };
    printed.map_err(ServiceError::Print)?;
    Ok(ExitCode::SUCCESS)
}

/// Whether the gateway of this place is the service.
pub fn is_for(place: &FilePlace) -> bool {
    let Ok(program) = std::env::current_exe() else { return false };
    let installed = path().ok().and_then(|path| std::fs::read_to_string(path).ok());
    let wanted = unit(&program, place).ok();
    let command = |text: &str| text.lines().find(|line| line.starts_with("ExecStart=")).map(str::to_owned);
    installed
        .and_then(|text| command(&text))
        .is_some_and(|found| wanted.and_then(|text| command(&text)) == Some(found))
}

/// Has systemd start it.
pub fn start() -> Result<(), ServiceError> {
    manager()?;
    systemctl(&["start", UNIT])
}

/// The flags with which `gateway run` finds a state directory and a configuration from anywhere.
pub fn place_flags(place: &FilePlace) -> Vec<std::ffi::OsString> {
    let flags = [("--state-dir", &place.state_dir), ("--config", &place.config)];
    let given = flags.into_iter().filter_map(|(flag, path)| {
        let path = path.as_deref()?;
        // Where that is not known any more, the path as it was given is the best guess.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Some([flag.into(), path.into_os_string()])
    });
    given.flatten().collect()
}

/// The unit. systemd ends the gateway alone, which ends its agents; after a crash they go on and wait for the next one.
fn unit(program: &Path, place: &FilePlace) -> Result<String, ServiceError> {
    let words = [program.as_os_str().to_owned(), "gateway".into(), "run".into()];
    let words: Result<Vec<_>, _> =
        words.into_iter().chain(place_flags(place)).map(|word| quoted(&word)).collect();
    Ok(format!(
        "# Written by `openclaw gateway install`.\n\
         [Unit]\n\
         Description=OpenClaw gateway\n\
         After=network.target\n\
         \n\
         [Service]\n\
         Type=notify\n\
         ExecStart={}\n\
         Restart=on-failure\n\
         # What the gateway ends with at `openclaw gateway restart`.\n\
         RestartForceExitStatus={EXIT_NEXT}\n\
         RestartSec=1\n\
         # Agents outlive a gateway that crashes; the next one takes them over.\n\
         KillMode=process\n\
         # For the limits of agents.\n\
         Delegate=yes\n\
         \n\
         [Install]\n\
         WantedBy=default.target\n",
        words?.join(" ")
    ))
}

/// A word of a command line, as units have it: in quotes, without what systemd would replace.
fn quoted(word: &std::ffi::OsStr) -> Result<String, ServiceError> {
    let text = word.to_str().filter(|text| !text.chars().any(char::is_control));
    let text = text.ok_or_else(|| ServiceError::Path { path: word.into() })?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./+=:,@".contains(c);
    if text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    Ok(format!("\"{escaped}\""))
}

/// Where the unit lies.
fn path() -> Result<PathBuf, ServiceError> {
    let set = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = set.or_else(|| Some(std::env::home_dir()?.join(".config"))).ok_or(ServiceError::NoHome)?;
    Ok(folder.join("systemd").join("user").join(UNIT))
}

/// Whether there is a systemd to talk to; if not, what is missing.
fn manager() -> Result<(), ServiceError> {
    let asked = asked(&["show-environment"])?;
    if asked.status.success() { Ok(()) } else { Err(ServiceError::NoManager { said: said(&asked) }) }
}

fn systemctl(arguments: &[&str]) -> Result<(), ServiceError> {
    let done = asked(arguments)?;
    if done.status.success() {
        return Ok(());
    }
    Err(ServiceError::Refused { command: arguments.join(" "), said: said(&done) })
}

fn asked(arguments: &[&str]) -> Result<Output, ServiceError> {
    let output = Command::new(SYSTEMCTL).arg("--user").args(arguments).output();
    output.map_err(ServiceError::NoSystemctl)
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { output.status.to_string() } else { lines.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths are words of the command, whatever is in them; what no unit can say is refused.
    #[test]
    fn a_unit_names_the_program_and_the_place() {
        let place = FilePlace { state_dir: Some("/home/a b/50%".into()), config: None };
        let text = unit(Path::new("/usr/bin/openclaw"), &place).unwrap();
        let command = "ExecStart=/usr/bin/openclaw gateway run --state-dir \"/home/a b/50%%\"\n";
        assert!(text.contains(command), "{text}");
        assert!(text.contains("Type=notify\n") && text.contains("Restart=on-failure\n"), "{text}");
        let plain = unit(Path::new("/usr/bin/openclaw"), &FilePlace::default()).unwrap();
        assert!(plain.contains("ExecStart=/usr/bin/openclaw gateway run\n"), "{plain}");
        assert_eq!(quoted("a\"$b\\".as_ref()).unwrap(), "\"a\\\"$$b\\\\\"");
        assert!(quoted("a\nb".as_ref()).is_err());
    }
}
