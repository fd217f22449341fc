//! Measurements between two threads of this process, each on a CPU of its own if there are two.

use std::io;

use super::Subject;
#[cfg(feature = "peers")]
use super::array_queue::QueueEnd;
#[cfg(feature = "peers")]
use super::byte_queue::ByteEnd;
use super::endpoint::Endpoint;
use super::job::{Job, Outcome};
use super::linked::LinkEnd;
use crate::machine;

/// Runs one measurement: the calling thread is the first side, a new one on `cpu` the second.
pub fn run(job: Job, cpu: Option<usize>) -> io::Result<Outcome> {
    match job.subject {
        Subject::ShmInProcess => {
            between(LinkEnd::in_process(job.ring_bytes as u64, job.size_bytes)?, job, cpu)
        }
        #[cfg(feature = "peers")]
        Subject::Rtrb => between(ByteEnd::pair(job.ring_bytes, job.size_bytes), job, cpu),
        #[cfg(feature = "peers")]
        Subject::Crossbeam => match job.size_bytes {
            64 => between(QueueEnd::<64>::pair(job.ring_bytes), job, cpu),
            256 => between(QueueEnd::<256>::pair(job.ring_bytes), job, cpu),
            1024 => between(QueueEnd::<1024>::pair(job.ring_bytes), job, cpu),
            4096 => between(QueueEnd::<4096>::pair(job.ring_bytes), job, cpu),
            65_536 => between(QueueEnd::<65_536>::pair(job.ring_bytes), job, cpu),
            other => Err(io::Error::other(format!("messages of {other} bytes have no type"))),
        },
        other => Err(io::Error::other(format!("{other:?} is not between threads"))),
    }
}

fn between<E: Endpoint + Send>(ends: (E, E), job: Job, cpu: Option<usize>) -> io::Result<Outcome> {
    let (mut first, mut second) = ends;
    std::thread::scope(|scope| {
        let answering = scope.spawn(move || {
            if let Some(cpu) = cpu {
                machine::pin(cpu)?;
            }
            job.serve(&mut second)
        });
        let outcome = job.measure(&mut first);
        match answering.join() {
            Ok(answered) => answered.and(outcome),
            Err(_) => Err(io::Error::other("the second thread panicked")),
        }
    })
}
