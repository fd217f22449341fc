//! Whatever needs a file, a socket or a process; simulation; rules on the source.
