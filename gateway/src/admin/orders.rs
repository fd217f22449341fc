//! Orders to the control thread: they are passed on, and it waits until the answer has been written.

use tokio::sync::oneshot;

use super::Admin;
use super::request::{Complaint, ErrorCode};
use crate::control::orders::{Answer, Order, OrderKind};

/// To be dropped when the answer has been written.
pub(super) struct Said(#[expect(dead_code, reason = "its end is the news")] oneshot::Sender<()>);

/// Passes an order on, and gives the answer.
pub(super) async fn run(admin: &Admin, kind: OrderKind) -> (Result<Answer, Complaint>, Said) {
    let (answer, answered) = oneshot::channel();
    let (saying, said) = oneshot::channel();
    let refused = |reason: &str| Complaint::new(ErrorCode::Refused, reason);
    let result = match admin.orders.send(Order { kind, answer, said }).await {
        Ok(()) => match answered.await {
            Ok(answer) => answer.map_err(|reason| refused(&reason)),
            Err(_) => Err(refused("the gateway goes down already")),
        },
        Err(_) => Err(refused("the gateway goes down already")),
    };
    (result, Said(saying))
}
