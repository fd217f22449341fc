//! The edge threads: a tokio current-thread runtime each, on one listening socket.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use adapters::edge::{EdgeError, EdgeOptions, EdgeShared, Phase, serve};
use shm_transport::ports::ShardPorts;
use tokio::sync::watch;

use crate::config;

/// `1` opens `/echo` to suites that test the WebSocket layer. No key of the configuration: nobody needs it who runs a
/// gateway.
const ECHO_VARIABLE: &str = "OPENCLAW_TEST_ECHO";

/// Why an edge thread could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EdgeStartError {
    /// No descriptor for its copy of the listening socket.
    #[error("edge {edge_index} gets no copy of the listening socket")]
    Listener {
        /// Which edge.
        edge_index: usize,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// No thread or no runtime.
    #[error("the thread of edge {edge_index} could not be started")]
    Thread {
        /// Which edge.
        edge_index: usize,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The echo is for this machine only.
    #[error(
        "{ECHO_VARIABLE} = {given}: may be 1, and only where the address is one of this machine, not {address}"
    )]
    Echo {
        /// What the variable says.
        given: String,
        /// Where clients are heard.
        address: SocketAddr,
    },
}

/// What an edge thread ends with.
pub type EdgeThread = JoinHandle<Result<(), EdgeError>>;

/// Starts one thread for each of `ports`.
pub fn start(
    listener: &TcpListener,
    ports: Vec<ShardPorts>,
    shared: &Arc<EdgeShared>,
    phase: &watch::Receiver<Phase>,
    run: u64,
) -> Result<Vec<EdgeThread>, EdgeStartError> {
    let mut threads = Vec::with_capacity(ports.len());
    let heard_at =
        listener.local_addr().map_err(|source| EdgeStartError::Listener { edge_index: 0, source })?;
    let echoes = echoes(config::variable(ECHO_VARIABLE), heard_at)?;
    for (edge_index, ports) in ports.into_iter().enumerate() {
        let listener =
            listener.try_clone().map_err(|source| EdgeStartError::Listener { edge_index, source })?;
        let failed = |source| EdgeStartError::Thread { edge_index, source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let options = EdgeOptions { edge_index, run, echoes, ..EdgeOptions::default() };
        let (shared, phase) = (Arc::clone(shared), phase.clone());
        let thread = std::thread::Builder::new()
            .name(format!("edge-{edge_index}"))
            .spawn(move || runtime.block_on(serve(options, listener, ports, shared, phase)))
            .map_err(failed)?;
        threads.push(thread);
    }
    Ok(threads)
}

/// Whether what the variable says opens the echo.
fn echoes(variable: Option<String>, address: SocketAddr) -> Result<bool, EdgeStartError> {
    match variable {
        None => Ok(false),
        Some(given) if given.is_empty() => Ok(false),
        Some(given) if given == "1" && address.ip().is_loopback() => Ok(true),
        Some(given) => Err(EdgeStartError::Echo { given, address }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The echo is there where it is asked for on an address of this machine, and no other wish is passed over. By all
    /// kinds of wishes and addresses.
    #[test]
    fn the_echo_is_for_this_machine() {
        for (variable, address, expected) in [
            (None, "127.0.0.1:1", Some(false)),
            (Some(""), "127.0.0.1:1", Some(false)),
            (Some("1"), "127.0.0.1:1", Some(true)),
            (Some("1"), "[::1]:1", Some(true)),
            (Some("1"), "0.0.0.0:1", None),
            (Some("1"), "192.0.2.1:1", None),
            (Some("yes"), "127.0.0.1:1", None),
            (None, "0.0.0.0:1", Some(false)),
        ] {
            let found = echoes(variable.map(str::to_owned), address.parse().unwrap());
            assert_eq!(found.ok(), expected, "{variable:?} at {address}");
        }
    }
}
