//! The sans-IO core, supervision policy and shard drivers.
