//! Spawns agents, reaps them, and holds the descriptors that outlive the gateway.
