//! What a service manager that speaks the protocol of systemd is told (`Type=notify`).

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What a gateway ends with that leaves everything to the next one, so that the service manager starts that. The unit that
/// `openclaw gateway install` writes says so (`RestartForceExitStatus=`).
pub const EXIT_NEXT: u8 = 75;

const NOTIFY_VARIABLE: &str = "NOTIFY_SOCKET";
const INVOCATION_VARIABLE: &str = "INVOCATION_ID";

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

/// Says that the gateway is up, if there is anybody to be told.
pub fn ready() {
    tell(b"READY=1");
}

/// Says that the gateway goes down, so that nobody takes that for a crash.
pub fn stopping() {
    tell(b"STOPPING=1");
}

fn tell(word: &[u8]) {
    let Some(path) = socket() else { return };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(word, &address));
    if let Err(error) = sent {
        let word = String::from_utf8_lossy(word);
        tracing::warn!(%error, %word, socket = %path.display(), "the service manager is not told");
    }
}
