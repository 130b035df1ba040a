//! Fragments: `ct` puts them together, and what was put together is cut again when it is sent.

mod reassemble;
mod split;

pub(crate) use reassemble::{Gathered, Reassembly};
pub(crate) use split::split;
