//! The file of paired devices: JSON, readable by its owner only, replaced as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{DevicesError, PAIRED_MAX, Paired};

/// The format of the file.
const VERSION: u32 = 1;
/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    devices: Vec<Paired>,
}

/// What the file holds; nothing if there is none. A damaged file is an error: it is never taken for an empty one.
pub(super) fn read(path: &Path) -> Result<Vec<Paired>, DevicesError> {
    let refuse = |source| DevicesError::File { path: path.to_path_buf(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(refuse(error)),
    };
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(refuse)?;
    let damaged = |reason: String| DevicesError::Damaged { path: path.to_path_buf(), reason };
    if read as u64 > FILE_BYTES_MAX {
        return Err(damaged(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    let content: Content = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if content.version != VERSION {
        return Err(damaged(format!("its version is {}, expected {VERSION}", content.version)));
    }
    if content.devices.len() > PAIRED_MAX {
        return Err(damaged(format!("it names more than {PAIRED_MAX} devices")));
    }
    Ok(content.devices)
}

/// Replaces the file. Whatever happens, it holds either all of the old or all of the new.
pub(super) fn write(path: &Path, devices: &[Paired]) -> Result<(), DevicesError> {
    let content = Content { version: VERSION, devices: devices.to_vec() };
    let write = || -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&content)?;
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        // One that was left behind might be readable by others.
        match fs::remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&name)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&name, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|source| DevicesError::File { path: path.to_path_buf(), source })
}
