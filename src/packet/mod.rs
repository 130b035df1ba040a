//! Bytes as flower sees them, and a merged filter's actions on them.

pub mod apply;
pub mod dissect;

pub use dissect::{Dissected, Tag, View, arrived, dissect};
