//! A message on its way, with a body of its own.

use shm_transport::envelope::{Body, Content, Encoder, Kind, Message, Route, StoredBody};

/// One message in a queue of the simulation.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) route: Route,
    body: StoredBody,
}

impl Packet {
    pub(super) fn new(route: Route, body: Body<'_>) -> Self {
        Self { route, body: body.to_stored() }
    }

    pub(super) fn of<T: Content>(encoder: &mut Encoder, route: Route, value: &T) -> Self {
        Self::new(route, encoder.encode(value))
    }

    pub(super) fn kind(&self) -> Kind {
        self.body.as_body().kind()
    }

    pub(super) fn message(&self) -> Message<'_> {
        self.body.as_message(self.route)
    }

    pub(super) fn body(&self) -> Body<'_> {
        self.body.as_body()
    }
}
