//! Every interleaving of the ring's properties, with payload slots as checked cells.
