//! iceoryx2: publish-subscribe between two processes, one service for each direction.
//!
//! Copied: the message once, from private memory into the loaned sample; by `receive` once more, from the
//! sample into private memory; by `echo` from the received sample into the loaned one. That is what the link's
//! ends do. Each message is visible as soon as it is sent: there is nothing that batches. Nothing is overwritten:
//! a publisher that finds its subscriber's buffer full retries in the way of iceoryx2, which yields the CPU. A
//! sleeping end waits for an event of its service, which the other end raises for each message.

use std::io;
use std::time::{Duration, Instant};

use iceoryx2::node::Node;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::{BackpressureAction, BackpressureInfo};
use iceoryx2::prelude::{BackpressureStrategy, NodeBuilder, ServiceName, SignalHandlingMode, ipc};

use super::bare::Side;
use super::endpoint::{Endpoint, RECEIVE_MAX, Waiting, sequence_of};

/// Samples a subscriber holds before the publisher has to wait.
const BUFFER_MESSAGES: usize = 4096;
/// The most memory of the samples of one direction; larger messages have fewer.
const BUFFER_BYTES_MAX: usize = 16 << 20;
/// The longest sleep before a side looks again in any case.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// The longest wait for room.
const ROOM_MAX: Duration = Duration::from_secs(5);

/// How many messages of this size a direction holds.
pub fn buffer_messages(message_bytes: usize) -> usize {
    BUFFER_MESSAGES.min(BUFFER_BYTES_MAX / message_bytes)
}

/// One end.
#[derive(Debug)]
pub struct IceoryxEnd {
    publisher: Publisher<ipc::Service, [u8], ()>,
    subscriber: Subscriber<ipc::Service, [u8], ()>,
    notifier: Notifier<ipc::Service>,
    listener: Listener<ipc::Service>,
    waiting: Waiting,
    copy: Vec<u8>,
    /// Keeps the services open.
    _node: Node<ipc::Service>,
}

impl IceoryxEnd {
    /// Opens one side of the place that both sides name alike.
    pub fn open(place: &str, side: Side, message_bytes: usize, waiting: Waiting) -> io::Result<Self> {
        let (out, into) = match side {
            Side::First => ("there", "back"),
            Side::Second => ("back", "there"),
        };
        let builder = NodeBuilder::new().signal_handling_mode(SignalHandlingMode::Disabled);
        let node = builder.create::<ipc::Service>().map_err(failed("node"))?;
        let service = |direction: &str, kind: &str| {
            ServiceName::new(&format!("{place}/{direction}/{kind}")).map_err(failed("service name"))
        };
        let messages = |direction| {
            node.service_builder(&service(direction, "messages")?)
                .publish_subscribe::<[u8]>()
                .enable_safe_overflow(false)
                .history_size(0)
                .subscriber_max_buffer_size(buffer_messages(message_bytes))
                .subscriber_max_borrowed_samples(1)
                .max_publishers(1)
                .max_subscribers(1)
                .open_or_create()
                .map_err(failed("publish-subscribe service"))
        };
        let events = |direction| {
            let builder = node.service_builder(&service(direction, "events")?).event();
            builder.open_or_create().map_err(failed("event service"))
        };
        let publisher = messages(out)?
            .publisher_builder()
            .initial_max_slice_len(message_bytes)
            .max_loaned_samples(1)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .set_backpressure_handler(when_full)
            .create()
            .map_err(failed("publisher"))?;
        let subscriber = messages(into)?.subscriber_builder().create().map_err(failed("subscriber"))?;
        let notifier = events(out)?.notifier_builder().create().map_err(failed("notifier"))?;
        let listener = events(into)?.listener_builder().create().map_err(failed("listener"))?;
        let copy = vec![0; message_bytes];
        Ok(Self { publisher, subscriber, notifier, listener, waiting, copy, _node: node })
    }
}

/// Names the part of iceoryx2 that did not work.
fn failed<E: std::fmt::Debug>(part: &'static str) -> impl Fn(E) -> io::Error {
    move |error| io::Error::other(format!("iceoryx2 {part}: {error:?}"))
}

/// Loans, writes and sends; waits as iceoryx2 does while the other side's buffer is full.
#[inline]
fn publish(publisher: &Publisher<ipc::Service, [u8], ()>, message: &[u8]) -> io::Result<()> {
    if try_publish(publisher, message)? { Ok(()) } else { publish_once_connected(publisher, message) }
}

/// `false`: the message reached nobody.
#[inline]
fn try_publish(publisher: &Publisher<ipc::Service, [u8], ()>, message: &[u8]) -> io::Result<bool> {
    let loan = publisher.loan_slice_uninit(message.len()).map_err(failed("loan"))?;
    Ok(loan.write_from_slice(message).send().map_err(failed("send"))? > 0)
}

/// A subscriber connects when it first receives; a full buffer is not waited for before that.
#[cold]
fn publish_once_connected(publisher: &Publisher<ipc::Service, [u8], ()>, message: &[u8]) -> io::Result<()> {
    let end = Instant::now() + ROOM_MAX;
    while !try_publish(publisher, message)? {
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no subscriber has connected"));
        }
        std::hint::spin_loop();
    }
    Ok(())
}

/// Retries for as long as the other side may take, and no longer.
fn when_full(info: &BackpressureInfo) -> BackpressureAction {
    if info.elapsed_time < ROOM_MAX {
        BackpressureAction::Retry
    } else {
        BackpressureAction::DiscardDataAndFail
    }
}

impl Endpoint for IceoryxEnd {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        publish(&self.publisher, message)
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        if self.waiting == Waiting::Sleep {
            self.notifier.notify().map_err(failed("notify"))?;
        }
        Ok(())
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        for taken in 0..RECEIVE_MAX {
            let Some(sample) = self.subscriber.receive().map_err(failed("receive"))? else {
                return Ok(taken);
            };
            self.copy.copy_from_slice(sample.payload());
            each(sequence_of(std::hint::black_box(&self.copy)));
        }
        Ok(RECEIVE_MAX)
    }

    #[inline]
    fn echo(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        let mut taken = 0;
        while taken < RECEIVE_MAX {
            let Some(sample) = self.subscriber.receive().map_err(failed("receive"))? else { break };
            each(sequence_of(sample.payload()));
            publish(&self.publisher, sample.payload())?;
            taken += 1;
        }
        if taken > 0 {
            self.flush()?;
        }
        Ok(taken)
    }

    fn sleep(&mut self) -> io::Result<()> {
        self.listener.timed_wait(|_| (), SLEEP_MAX).map_err(failed("wait"))?;
        Ok(())
    }
}
