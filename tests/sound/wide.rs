//! No bit to spare.
