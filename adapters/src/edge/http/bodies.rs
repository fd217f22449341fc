//! Bodies of requests: read whole, within a time, a size, and what all of an edge may hold together.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::refusal::api::ApiRefusal;

/// The largest body.
pub const BODY_BYTES_MAX: usize = 20 * 1024 * 1024;
/// The bodies that an edge reads at once, in bytes.
const BODIES_BYTES_MAX: usize = 64 * 1024 * 1024;

const _: () = assert!(BODY_BYTES_MAX < BODIES_BYTES_MAX, "a body of the largest size can be read");

/// What is held of bodies.
#[derive(Debug, Default)]
pub struct Bodies(Cell<usize>);

/// A body, held until it is dropped.
#[derive(Debug)]
pub struct Held {
    bodies: Rc<Bodies>,
    bytes: Vec<u8>,
    counted: usize,
}

impl Bodies {
    /// Reads a body.
    pub async fn read(self: &Rc<Self>, body: Incoming, patience: Duration) -> Result<Held, ApiRefusal> {
        let told = body.size_hint().lower();
        if told > BODY_BYTES_MAX as u64 {
            return Err(too_large());
        }
        let reading = self.read_all(body);
        tokio::time::timeout(patience, reading).await.unwrap_or_else(|_| {
            Err(ApiRefusal::new(
                408,
                "timeout",
                format!("the body did not come within {} ms", patience.as_millis()),
            ))
        })
    }

    async fn read_all(self: &Rc<Self>, mut body: Incoming) -> Result<Held, ApiRefusal> {
        let mut held = Held { bodies: Rc::clone(self), bytes: Vec::new(), counted: 0 };
        while let Some(frame) = body.frame().await {
            let broken =
                |error| ApiRefusal::new(400, "bad_body", format!("the body cannot be read: {error}"));
            let Ok(piece) = frame.map_err(broken)?.into_data() else { continue };
            if held.bytes.len() + piece.len() > BODY_BYTES_MAX {
                return Err(too_large());
            }
            let all = self.0.get() + piece.len();
            if all > BODIES_BYTES_MAX {
                return Err(ApiRefusal::busy());
            }
            self.0.set(all);
            held.counted += piece.len();
            held.bytes.extend_from_slice(&piece);
        }
        Ok(held)
    }
}

fn too_large() -> ApiRefusal {
    ApiRefusal::new(413, "too_large", format!("the body has more than {BODY_BYTES_MAX} bytes"))
}

impl Held {
    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.bodies.0.set(self.bodies.0.get() - self.counted);
    }
}
