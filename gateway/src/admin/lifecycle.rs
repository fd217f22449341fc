//! The life of the gateway itself: what is asked is passed on to the control thread, which waits until its answer has been
//! written.

use tokio::sync::oneshot;

use super::Admin;
use super::order::{LifecycleAnswer, LifecycleKind, LifecycleOrder, Order};
use super::request::{Complaint, ErrorCode};

/// To be dropped when the answer has been written.
pub(super) struct Said(#[expect(dead_code, reason = "its end is the news")] oneshot::Sender<()>);

/// Passes an order on, and gives the answer.
pub(super) async fn run(admin: &Admin, kind: LifecycleKind) -> (Result<LifecycleAnswer, Complaint>, Said) {
    let (reply, answer) = oneshot::channel();
    let (saying, said) = oneshot::channel();
    let ending = || Complaint::new(ErrorCode::Refused, "the gateway goes down already");
    let order = Order::Lifecycle(LifecycleOrder { kind, reply, said });
    let result = match admin.orders.send(order) {
        Ok(()) => answer.await.unwrap_or_else(|_| Err(ending())),
        Err(_) => Err(ending()),
    };
    (result, Said(saying))
}
