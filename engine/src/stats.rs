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
    /// Messages accepted, ever.
    messages_accepted,
    /// Replies completed, ever.
    replies_completed,
    /// Messages that ended in a failure, ever.
    messages_failed,
    /// Words of agents that named no turn in their hands, ever.
    agent_strays,
    /// Archives from inside the gateway that did not validate: always zero unless there is a bug.
    invalid_internal,
    /// Agents that can take messages now.
    agents_up,
}
