//! What stands in front of the software: nothing, or merged filters.

use super::engine::Received;
use flowmerge::{
    flower::{Cookie, Counters, Filter, Hook, Port, Tunnel},
    hardware::Sent,
    walk::Walk,
};
use merge_model::conntrack::observed::Change;

/// A frame that arrives.
#[derive(Clone, Copy)]
pub struct Arrival<'a> {
    /// The port.
    pub port: Port,
    /// The frame.
    pub frame: &'a [u8],
    /// What is known of the outer packet that it came in, at a tunnel device.
    pub tunnel: Option<&'a Tunnel>,
    /// Nanoseconds.
    pub now: u64,
    /// What an earlier run without hardware made of it.
    pub software: Option<&'a Received>,
}

/// A frame that hardware handled alone.
pub struct Handled {
    /// The merged filter that matched.
    pub merged: u64,
    /// The frames sent out of ports, and into them (`ingress`), in order.
    pub sent: Vec<Sent>,
    /// Whether the packet itself goes to the stack.
    pub passes: bool,
}

/// The hardware and whoever fills it. Times are nanoseconds.
pub trait Offload {
    /// A filter was added; `dumped` if it was there before the run, so that its turn among others of its priority is not known.
    fn add(&mut self, cookie: Cookie, filter: &Filter, dumped: bool);
    /// A filter takes another's place. What merged filters counted for the other's actions comes back.
    fn replace(&mut self, old: Cookie, cookie: Cookie, filter: &Filter) -> Vec<Counters>;
    /// A filter is gone. What merged filters counted for its actions comes back.
    fn destroy(&mut self, cookie: Cookie) -> Vec<Counters>;
    /// A shared block's filters stand at a side of a port.
    fn bind(&mut self, side: Hook, block: u32);
    /// They no longer do.
    fn unbind(&mut self, side: Hook, block: u32);
    /// A port is up, with carrier, or not.
    fn port(&mut self, port: Port, up: bool);
    /// A connection came, changed or went.
    fn connection(&mut self, change: &Change);
    /// A packet went through software.
    fn walk(&mut self, walk: Walk);
    /// A frame arrives. `None` if it goes to software.
    fn receive(&mut self, arrival: Arrival) -> Option<Handled>;
    /// What merged filters counted for each action of a filter.
    fn stats(&mut self, cookie: Cookie) -> Vec<Counters>;
}

/// No hardware.
pub struct Nothing;

impl Offload for Nothing {
    fn add(&mut self, _: Cookie, _: &Filter, _: bool) {}
    fn replace(&mut self, _: Cookie, _: Cookie, _: &Filter) -> Vec<Counters> {
        Vec::new()
    }
    fn destroy(&mut self, _: Cookie) -> Vec<Counters> {
        Vec::new()
    }
    fn bind(&mut self, _: Hook, _: u32) {}
    fn unbind(&mut self, _: Hook, _: u32) {}
    fn port(&mut self, _: Port, _: bool) {}
    fn connection(&mut self, _: &Change) {}
    fn walk(&mut self, _: Walk) {}
    fn receive(&mut self, _: Arrival) -> Option<Handled> {
        None
    }
    fn stats(&mut self, _: Cookie) -> Vec<Counters> {
        Vec::new()
    }
}
