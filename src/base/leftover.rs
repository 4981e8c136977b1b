//! Left-overs of dead processes.
