//! Which file of which version holds which limit, and what is written into it. Pure, except for [`Device::of`].

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layout::Controller;

/// The least memory that may be set: less does not hold a program.
pub const MEMORY_BYTES_MIN: u64 = 16 << 20;
/// The fewest processes and threads that may be set: the host of an agent has some itself.
pub const PROCESSES_MIN: u32 = 4;
/// The least CPU time that may be set, in thousandths of a core: the kernel takes no less than 1 ms of 100 ms.
pub const CPU_MILLICORES_MIN: u32 = 10;

/// The time over which a limit of CPU time is measured, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;

const _: () = assert!(
    CPU_MILLICORES_MIN as u64 * CPU_PERIOD_US / 1000 >= 1000,
    "the kernel refuses a quota below 1 ms"
);

/// What an agent with all its descendants may take. What is `None` is not limited.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct Limits {
    /// Memory and swap together, in bytes.
    pub memory_bytes: Option<u64>,
    /// CPU time, in thousandths of one core.
    pub cpu_millicores: Option<u32>,
    /// Processes and threads.
    pub processes: Option<u32>,
    /// Bytes a second written to the device of the state directory.
    pub io_write_bytes_per_s: Option<u64>,
    /// Whether an agent whose limits cannot be set is not started.
    pub require: bool,
}

impl Limits {
    /// The controllers that hold limits which are set.
    pub fn controllers(&self) -> Vec<Controller> {
        let set = [
            self.memory_bytes.map(|_| Controller::Memory),
            self.processes.map(|_| Controller::Processes),
            self.cpu_millicores.map(|_| Controller::Cpu),
            self.io_write_bytes_per_s.map(|_| Controller::Io),
        ];
        set.into_iter().flatten().collect()
    }

    /// A limit as a person reads it.
    pub fn describe(&self, controller: Controller) -> String {
        let mib = |bytes: u64| bytes >> 20;
        let text = match controller {
            Controller::Memory => self.memory_bytes.map(|bytes| format!("{} MiB of memory", mib(bytes))),
            Controller::Processes => self.processes.map(|count| format!("{count} processes")),
            Controller::Cpu => {
                self.cpu_millicores.map(|milli| format!("{} cores", f64::from(milli) / 1000.0))
            }
            Controller::Io => {
                self.io_write_bytes_per_s.map(|bytes| format!("{} MiB/s of writing", mib(bytes)))
            }
            Controller::CpuAccounting => None,
        };
        text.unwrap_or_default()
    }
}

/// A line to be written into a file of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Whose limit it is.
    pub controller: Controller,
    /// Name of the file.
    pub file: &'static str,
    /// What is written.
    pub value: String,
    /// Whether some kernels lack the file, and the limit holds without it.
    pub optional: bool,
}

/// What version 1 is told.
pub fn v1_settings(limits: &Limits, device: Option<Device>) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |controller, file, value: String, optional| {
        settings.push(Setting { controller, file, value, optional });
    };
    if let Some(bytes) = limits.memory_bytes {
        set(Controller::Memory, "memory.limit_in_bytes", bytes.to_string(), false);
        // After the other: it may not be below that.
        set(Controller::Memory, "memory.memsw.limit_in_bytes", bytes.to_string(), true);
    }
    if let Some(count) = limits.processes {
        set(Controller::Processes, "pids.max", count.to_string(), false);
    }
    if let Some(milli) = limits.cpu_millicores {
        set(Controller::Cpu, "cpu.cfs_period_us", CPU_PERIOD_US.to_string(), false);
        set(Controller::Cpu, "cpu.cfs_quota_us", quota_us(milli).to_string(), false);
    }
    if let (Some(bytes), Some(device)) = (limits.io_write_bytes_per_s, device) {
        let value = format!("{}:{} {bytes}", device.major, device.minor);
        set(Controller::Io, "blkio.throttle.write_bps_device", value, false);
    }
    settings
}

/// What version 2 is told.
pub fn v2_settings(limits: &Limits, device: Option<Device>) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |controller, file, value: String, optional| {
        settings.push(Setting { controller, file, value, optional });
    };
    if let Some(bytes) = limits.memory_bytes {
        set(Controller::Memory, "memory.max", bytes.to_string(), false);
        set(Controller::Memory, "memory.swap.max", "0".to_owned(), true);
        // An agent that has lost one of its processes is of no use.
        set(Controller::Memory, "memory.oom.group", "1".to_owned(), true);
    }
    if let Some(count) = limits.processes {
        set(Controller::Processes, "pids.max", count.to_string(), false);
    }
    if let Some(milli) = limits.cpu_millicores {
        set(Controller::Cpu, "cpu.max", format!("{} {CPU_PERIOD_US}", quota_us(milli)), false);
    }
    if let (Some(bytes), Some(device)) = (limits.io_write_bytes_per_s, device) {
        set(Controller::Io, "io.max", format!("{}:{} wbps={bytes}", device.major, device.minor), false);
    }
    settings
}

fn quota_us(millicores: u32) -> u64 {
    u64::from(millicores) * CPU_PERIOD_US / 1000
}

/// A whole block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
}

/// Why writing to the device of a directory cannot be limited.
#[derive(Debug, thiserror::Error)]
#[error("{} lies on no block device that the kernel can limit", path.display())]
pub struct NoDevice {
    /// The directory.
    pub path: PathBuf,
}

impl Device {
    /// The device that a directory lies on, or the place where it will be made.
    pub fn of(path: &Path) -> Result<Self, NoDevice> {
        let no_device = || NoDevice { path: path.to_owned() };
        let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
        let number = rustix::fs::stat(existing).map_err(|_| no_device())?.st_dev; // Whatever the reason.
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let entry =
            std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).map_err(|_| no_device())?;
        if !entry.join("partition").exists() {
            return Ok(Self { major, minor });
        }
        // Limits are of whole devices; a partition's entry lies in that of its device.
        let whole = entry.parent().and_then(|parent| std::fs::read_to_string(parent.join("dev")).ok());
        whole.as_deref().and_then(Self::parse).ok_or_else(no_device)
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(settings: &[Setting]) -> Vec<String> {
        settings.iter().map(|setting| format!("{} {}", setting.file, setting.value)).collect()
    }

    /// Every limit has its file in both versions; a limit that is not set writes nothing.
    #[test]
    fn limits_are_written_so() {
        let limits = Limits {
            memory_bytes: Some(64 << 20),
            cpu_millicores: Some(1500),
            processes: Some(20),
            io_write_bytes_per_s: Some(1 << 20),
            require: true,
        };
        let device = Some(Device { major: 8, minor: 16 });
        let v1 = [
            "memory.limit_in_bytes 67108864",
            "memory.memsw.limit_in_bytes 67108864",
            "pids.max 20",
            "cpu.cfs_period_us 100000",
            "cpu.cfs_quota_us 150000",
            "blkio.throttle.write_bps_device 8:16 1048576",
        ];
        let v2 = [
            "memory.max 67108864",
            "memory.swap.max 0",
            "memory.oom.group 1",
            "pids.max 20",
            "cpu.max 150000 100000",
            "io.max 8:16 wbps=1048576",
        ];
        assert_eq!(lines(&v1_settings(&limits, device)), v1);
        assert_eq!(lines(&v2_settings(&limits, device)), v2);
        assert_eq!(lines(&v2_settings(&limits, None)), v2[..5]);
        assert_eq!(v1_settings(&Limits::default(), device), []);
        assert_eq!(v2_settings(&Limits::default(), device), []);
        let texts = limits.controllers().into_iter().map(|controller| limits.describe(controller));
        let expected = ["64 MiB of memory", "20 processes", "1.5 cores", "1 MiB/s of writing"];
        assert_eq!(texts.collect::<Vec<_>>(), expected);
    }

    /// Kernel file systems lie on no device; a directory that is not there yet lies where it will be made.
    #[test]
    fn devices_are_found() {
        let error = Device::of(Path::new("/proc/self")).unwrap_err().to_string();
        assert_eq!(error, "/proc/self lies on no block device that the kernel can limit");
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let found = [here.to_owned(), here.join("not/yet/there")].map(|path| Device::of(&path).ok());
        assert_eq!(found[0], found[1]);
        assert_eq!(Device::parse("8:0\n"), Some(Device { major: 8, minor: 0 }));
        assert_eq!(Device::parse("8"), None);
    }
}
