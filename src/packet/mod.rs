//! Bytes as flower sees them.

pub mod apply;
