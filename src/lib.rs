//! flowmerge makes connection-tracked, recirculating TC flower pipelines offloadable to hardware that has one table and no
//! connection tracker.
//!
//! Begin with `ARCHITECTURE.md`; the rooms below stand in the order in which data flows, and each imports only rooms above it.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod conntrack;
pub mod datapath;
pub mod flower;
pub mod glance;
pub mod hardware;
pub mod merge;
pub mod merger;
pub mod netlink;
pub mod packet;
pub mod sync;
pub mod table;
pub mod trace;
pub mod walk;
