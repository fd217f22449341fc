//! The counters of a shard, for readers on other threads.

use std::sync::atomic::{AtomicU64, Ordering};

/// How a number behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It goes up and down.
    Gauge,
    /// It only grows, until the gateway starts anew.
    Counter,
}

/// A number with what is to be said of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// What it counts, as a sentence.
    pub help: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What it is now.
    pub value: u64,
}

/// Declares the counters of the core and their shared copies, once: those that go up and down, and those that only grow.
macro_rules! counters {
    (
        now { $(#[doc = $now_doc:literal] $now:ident,)* }
        ever { $(#[doc = $ever_doc:literal] $ever:ident,)* }
    ) => {
        /// Plain counters, owned by the core.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $(#[doc = $now_doc] pub $now: u64,)*
            $(#[doc = $ever_doc] pub $ever: u64,)*
        }

        /// The same counters, published by the shard once per loop turn.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct SharedCounters { $($now: AtomicU64,)* $($ever: AtomicU64,)* }

        impl SharedCounters {
            /// Publishes. Called by the shard only.
            pub fn publish(&self, counters: &Counters) {
                // Relaxed: each is a number on its own; readers want no order between them.
                $(self.$now.store(counters.$now, Ordering::Relaxed);)*
                // Relaxed: as above.
                $(self.$ever.store(counters.$ever, Ordering::Relaxed);)*
            }

            /// What was published last.
            pub fn read(&self) -> Counters {
                Counters {
                    // Relaxed: as in `publish`.
                    $($now: self.$now.load(Ordering::Relaxed),)*
                    // Relaxed: as in `publish`.
                    $($ever: self.$ever.load(Ordering::Relaxed),)*
                }
            }
        }

        impl Counters {
            /// Each with what is to be said of it, for people and pages.
            pub fn described(&self) -> impl Iterator<Item = Described> {
                let now = [$((stringify!($now), $now_doc, self.$now),)*].map(|row| (row, Kind::Gauge));
                let ever = [$((stringify!($ever), $ever_doc, self.$ever),)*].map(|row| (row, Kind::Counter));
                now.into_iter().chain(ever).map(|((name, help, value), kind)| {
                    Described { name, help: help.trim(), kind, value }
                })
            }
        }

        impl std::ops::AddAssign for Counters {
            fn add_assign(&mut self, other: Self) {
                $(self.$now += other.$now;)*
                $(self.$ever += other.$ever;)*
            }
        }
    };
}

counters! {
    now {
        /// Sessions in the table.
        sessions,
        /// Turns between acceptance and their end.
        turns_open,
        /// Messages that wait for their session or their agent.
        messages_queued,
        /// Dead letters.
        dead_letters,
        /// Ids remembered.
        ids_remembered,
        /// Bytes of replies kept.
        reply_bytes,
        /// Agents that can take messages.
        agents_up,
    }
    ever {
        /// Messages that edges have sent.
        messages_received,
        /// Messages that were refused before they were accepted.
        messages_refused,
        /// Messages that had been accepted before.
        messages_repeated,
        /// Messages accepted.
        messages_accepted,
        /// Replies completed.
        replies_completed,
        /// Accepted messages that ended in a failure.
        messages_failed,
        /// Accepted messages that were cancelled or ran out of time.
        cancelled,
        /// Cancellations of messages that were not open.
        cancels_late,
        /// Attempts that failed.
        attempts_failed,
        /// Turns given out again.
        redeliveries,
        /// Turns found in the hands of agents that had outlived the last gateway.
        turns_held,
        /// Words of agents that the journal had already.
        words_repeated,
        /// Waits before another attempt.
        back_offs,
        /// Turns that became dead letters.
        died,
        /// Dead letters tried again.
        replayed,
        /// Turns that wait because the dead letter queue is full.
        dead_letters_full,
        /// Sessions made.
        sessions_created,
        /// Sessions forgotten.
        sessions_expired,
        /// Entries of the log.
        journal_entries,
        /// Turns written again so that old parts of the log could be given up.
        written_again,
        /// Records read at the start.
        recovered,
        /// Words of agents that named no turn in their hands.
        agent_strays,
        /// Archives from inside the gateway that did not validate: always zero unless there is a bug.
        invalid_internal,
    }
}
