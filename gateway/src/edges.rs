//! The edge threads: a tokio current-thread runtime each, on one listening socket.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use adapters::edge::{EdgeError, EdgeOptions, EdgeShared, Phase, serve};
use shm_transport::ports::ShardPorts;
use tokio::sync::watch;

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
    for (edge_index, ports) in ports.into_iter().enumerate() {
        let listener =
            listener.try_clone().map_err(|source| EdgeStartError::Listener { edge_index, source })?;
        let failed = |source| EdgeStartError::Thread { edge_index, source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let options = EdgeOptions { edge_index, run, ..EdgeOptions::default() };
        let (shared, phase) = (Arc::clone(shared), phase.clone());
        let thread = std::thread::Builder::new()
            .name(format!("edge-{edge_index}"))
            .spawn(move || runtime.block_on(serve(options, listener, ports, shared, phase)))
            .map_err(failed)?;
        threads.push(thread);
    }
    Ok(threads)
}
