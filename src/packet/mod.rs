//! Bytes as flower sees them, what a tunnel device takes off them, and a merged filter's actions on them.

pub mod apply;
pub mod dissect;
pub mod outer;

pub use dissect::{Dissected, Tag, View, arrived, dissect};
