//! Bytes as flower sees them.

pub mod dissect;

pub use dissect::{Dissected, Tag, View, arrived, dissect};
