//! The counters of a shard, for readers on other threads.

use std::sync::atomic::{AtomicU64, Ordering};

/// Declares the counters of the core and their shared copies, once.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Plain counters, owned by the core.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        /// The same counters, published by the shard once per loop turn.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct SharedCounters { $($name: AtomicU64,)* }

        impl SharedCounters {
            /// Publishes. Called by the shard only.
            pub fn publish(&self, counters: &Counters) {
                // Relaxed: each is a number on its own; readers want no order between them.
                $(self.$name.store(counters.$name, Ordering::Relaxed);)*
            }

            /// What was published last.
            pub fn read(&self) -> Counters {
                // Relaxed: as in `publish`.
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl Counters {
            /// Each with its name, for people and pages.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        impl std::ops::AddAssign for Counters {
            fn add_assign(&mut self, other: Self) { $(self.$name += other.$name;)* }
        }
    };
}

counters! {
    /// Sessions in the table now.
    sessions,
    /// Turns between acceptance and their end now.
    turns_open,
    /// Messages that wait for their session or their agent now.
    messages_queued,
    /// Messages that edges have sent, ever.
    messages_received,
    /// Messages that were refused before they were accepted, ever.
    messages_refused,
    /// Messages that had been accepted before, ever.
    messages_repeated,
    /// Messages accepted, ever.
    messages_accepted,
    /// Replies completed, ever.
    replies_completed,
    /// Accepted messages that ended in a failure, ever.
    messages_failed,
    /// Accepted messages that were cancelled or ran out of time, ever.
    cancelled,
    /// Cancellations of messages that were not open, ever.
    cancels_late,
    /// Attempts that failed, ever.
    attempts_failed,
    /// Turns given out again, ever.
    redeliveries,
    /// Turns found in the hands of agents that had outlived the last gateway, ever.
    turns_held,
    /// Words of agents that the journal had already, ever.
    words_repeated,
    /// Waits before another attempt, ever.
    back_offs,
    /// Dead letters now.
    dead_letters,
    /// Turns that became dead letters, ever.
    died,
    /// Dead letters tried again, ever.
    replayed,
    /// Turns that wait because the dead letter queue is full, ever.
    dead_letters_full,
    /// Sessions made, ever.
    sessions_created,
    /// Sessions forgotten, ever.
    sessions_expired,
    /// Ids remembered now.
    ids_remembered,
    /// Bytes of replies kept now.
    reply_bytes,
    /// Entries of the log, ever.
    journal_entries,
    /// Turns written again so that old parts of the log could be given up, ever.
    written_again,
    /// Records read at the start.
    recovered,
    /// Words of agents that named no turn in their hands, ever.
    agent_strays,
    /// Archives from inside the gateway that did not validate: always zero unless there is a bug.
    invalid_internal,
    /// Agents that can take messages now.
    agents_up,
}
