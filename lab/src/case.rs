//! A case: what is put into the kernel, and what is sent. A port is one end of a cable whose other end, the *host*, is where
//! frames are put in and where those that come out arrive.

use flowmerge::{
    flower::{Action, ActionKind, Control, Filter, FilterId, Port},
    netlink::Names,
};

/// How many ports a random case has.
pub const PORTS: u32 = 4;

/// The port of that number, from 1. The index is chosen here, and far from those that the kernel gives by itself.
pub const fn port(number: u32) -> Port {
    Port(10 + number)
}

/// The other end of a port's cable.
pub const fn host(port: Port) -> Port {
    Port(port.0 + 1000)
}

/// The ports of a random case.
pub fn ports() -> impl Iterator<Item = Port> + Clone {
    (1..=PORTS).map(port)
}

/// The ports' names, from port 1 on.
#[derive(Clone, Debug)]
pub struct Devices(Vec<String>);

impl Devices {
    /// Ports of these names.
    pub fn named(names: Vec<String>) -> Devices {
        Devices(names)
    }

    /// The ports of a random case: `p1` and so on.
    pub fn random() -> Devices {
        Devices((1..=PORTS).map(|n| format!("p{n}")).collect())
    }

    /// All ports.
    pub fn ports(&self) -> impl Iterator<Item = Port> + Clone + use<> {
        (1..=self.0.len() as u32).map(port)
    }

    /// All names.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// A port's name.
    pub fn name_of(&self, port: Port) -> String {
        let at = (port.0 as usize).checked_sub(11);
        at.and_then(|at| self.0.get(at)).cloned().unwrap_or_else(|| port.to_string())
    }

    /// The name of the host at a port.
    pub fn host_name(port: Port) -> String {
        format!("host{}", port.0 - 10)
    }
}

impl Names for Devices {
    fn index(&self, name: &str) -> Option<u32> {
        self.ports().find(|&port| self.name_of(port) == name).map(|port| port.0)
    }

    fn name(&self, index: u32) -> Option<String> {
        self.ports().any(|port| port.0 == index).then(|| self.name_of(Port(index)))
    }
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A frame comes in at a port.
    Frame(Port, Vec<u8>),
    /// A filter is added.
    Add(Filter),
    /// One takes the place of another of the same identity.
    Replace(Filter),
    /// One is removed.
    Remove(FilterId),
    /// A port is set down, or up.
    Link(Port, bool),
}

/// A pipeline and what is sent through it.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// The ports that share a block of filters, and the block's index.
    pub shared: Vec<(Port, u32)>,
    /// The filters, in the order in which they are added.
    pub filters: Vec<Filter>,
    /// What happens then.
    pub steps: Vec<Step>,
}

impl Case {
    /// Whether packets may be tried in fragments. The record shares their bytes with what goes on, and reassembly and what
    /// follows change them there (see `mend`): what became of them could not be told from what a mirror sent, nor from what was
    /// redirected to a port's ingress.
    pub fn may_be_cut(&self) -> bool {
        self.filters.iter().all(only_sends_on)
    }
}

/// What actions do, whatever the kernel calls them.
pub fn does(actions: &[Action]) -> Vec<(&ActionKind, Control)> {
    actions.iter().map(|action| (&action.kind, action.control)).collect()
}

/// Whether all that a filter sends is the packet itself, out of a port.
pub fn only_sends_on(filter: &Filter) -> bool {
    filter.actions.iter().all(|action| match action.kind {
        ActionKind::Mirred(mirred) => action.control == Control::Stolen && !mirred.ingress && !mirred.mirror,
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names_and_indices() {
        let devices = Devices::random();
        assert_eq!(devices.names(), ["p1", "p2", "p3", "p4"]);
        for port in devices.ports() {
            let name = devices.name(port.0).unwrap();
            assert_eq!(devices.index(&name), Some(port.0), "{name}");
        }
        assert_eq!(devices.index("p5"), None);
        assert_eq!(devices.name(15), None);
        assert_eq!(devices.name(0), None);
    }
}
