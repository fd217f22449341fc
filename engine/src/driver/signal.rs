//! What wakes the loop of a shard: tasks on the same thread raise it, the loop waits for it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::event::InstanceId;

/// Shared by the loop and the doorbell tasks of one shard thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Signal {
    // Rc: the loop and its tasks live on one thread.
    inner: Rc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    raised: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    rung: RefCell<Vec<InstanceId>>,
}

impl Signal {
    /// Wakes the loop.
    pub(super) fn raise(&self) {
        self.inner.raised.set(true);
        if let Some(waker) = self.inner.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Wakes the loop on behalf of an agent.
    pub(super) fn ring(&self, instance: InstanceId) {
        self.inner.rung.borrow_mut().push(instance);
        self.raise();
    }

    /// The agents that rang since the last call.
    pub(super) fn take_rung(&self) -> Vec<InstanceId> {
        self.inner.rung.take()
    }

    /// Waits until raised, and lowers it.
    pub(super) async fn wait(&self) {
        poll_fn(|context| {
            if self.inner.raised.replace(false) {
                return Poll::Ready(());
            }
            *self.inner.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
