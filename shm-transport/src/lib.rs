//! Rings, segments, envelope and doorbells: all that two processes must agree on.
