//! Talk to CRIU and read what it writes.
