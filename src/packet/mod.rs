//! Bytes as flower sees them.

pub mod apply;
pub mod dissect;

pub use dissect::{Dissected, Tag, View, arrived, dissect};
