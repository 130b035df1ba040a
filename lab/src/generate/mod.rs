//! Random cases. From a seed: the values that a case plays with ([`universe`]), its filters ([`pipeline`], `matches`,
//! [`actions`], `rarer`), and the traffic: packets aimed at the filters and just beside them ([`packets`]), and hosts that answer what
//! comes out, so that connections come about ([`hosts`]).

pub mod actions;
pub mod dice;
pub mod hosts;
pub mod matches;
pub mod packets;
pub mod pipeline;
mod rarer;
mod relay;
pub mod spec;
pub mod universe;
