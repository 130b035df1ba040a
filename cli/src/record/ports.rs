//! Which device each port is. A port is a name; the device that bears it at the start is followed by its index, also under another
//! name, until it goes or another device takes the port's name. Pure: link messages in, what they changed out.
//!
//! Replay follows the link messages of the trace in the same way, so the recorder keeps two of these: by the one, which is ahead, it
//! listens; by the other, which is moved on by each message as that is written, it says whose a frame is.

use flowmerge::netlink::{Link, Message};
use std::{collections::BTreeSet, fmt};

/// `ARPHRD_ETHER` and `ARPHRD_LOOPBACK` (linux/if_arp.h): the packets of these begin with an Ethernet header.
const WITH_ETHERNET_HEADER: [u16; 2] = [1, 772];

/// Whether a device's packets are Ethernet frames.
pub fn is_ethernet(link: &Link) -> bool {
    WITH_ETHERNET_HEADER.contains(&link.link_layer)
}

/// The recorded ports, in the order in which they were named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    ports: Vec<Port>,
    /// All that a port was at some time.
    ever: BTreeSet<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: String,
    /// What the device is called, if it was renamed.
    called: String,
    index: Option<u32>,
}

/// What became of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its device is gone, or in another network namespace.
    Gone(String),
    /// A device took its name.
    Taken {
        /// The port.
        port: String,
        /// The device's index.
        index: u32,
    },
    /// A device without Ethernet frames took its name.
    NotEthernet(String),
    /// Its device, that is still the port, was renamed.
    Renamed {
        /// The port.
        port: String,
        /// What its device is called now.
        name: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Change::Gone(port) => write!(f, "port {port} is gone; it will be recorded again when it is back"),
            Change::Taken { port, index } => write!(f, "port {port} is now the device with index {index}"),
            Change::NotEthernet(port) => {
                write!(f, "port {port} is now a device whose packets are not Ethernet frames; it is not recorded")
            }
            Change::Renamed { port, name } => {
                write!(f, "port {port} was renamed {name}; it is still recorded, as {port}")
            }
        }
    }
}

impl Ports {
    /// Ports that are these devices.
    pub fn new(devices: &[Link]) -> Ports {
        let port = |link: &Link| Port { name: link.name.clone(), called: link.name.clone(), index: Some(link.index) };
        Ports { ports: devices.iter().map(port).collect(), ever: devices.iter().map(|link| link.index).collect() }
    }

    /// Takes over what was told of devices.
    pub fn follow(&mut self, message: &Message) -> Vec<Change> {
        match message {
            Message::Link(link) => self.see(link),
            Message::LinkGone(link) => self.lose(|index| index == link.index),
            _ => vec![],
        }
    }

    /// These devices are all that there are.
    pub fn keep(&mut self, indices: &BTreeSet<u32>) -> Vec<Change> {
        self.lose(|index| !indices.contains(&index))
    }

    fn see(&mut self, link: &Link) -> Vec<Change> {
        let mut changes = Vec::new();
        let mine = self.ports.iter().any(|port| port.name == link.name);
        for port in &mut self.ports {
            let was = port.index == Some(link.index);
            if port.name == link.name {
                port.called.clone_from(&link.name);
                if !was && is_ethernet(link) {
                    port.index = Some(link.index);
                    self.ever.insert(link.index);
                    changes.push(Change::Taken { port: port.name.clone(), index: link.index });
                } else if !was && port.index.take().is_some() {
                    changes.push(Change::NotEthernet(port.name.clone()));
                }
            } else if was && mine {
                // It bears the name of another port now, which it is from here on.
                port.index = None;
                changes.push(Change::Gone(port.name.clone()));
            } else if was && port.called != link.name {
                port.called.clone_from(&link.name);
                changes.push(Change::Renamed { port: port.name.clone(), name: link.name.clone() });
            }
        }
        changes
    }

    fn lose(&mut self, is_gone: impl Fn(u32) -> bool) -> Vec<Change> {
        let gone = self.ports.iter_mut().filter(|port| port.index.is_some_and(&is_gone));
        gone.map(|port| {
            port.index = None;
            Change::Gone(port.name.clone())
        })
        .collect()
    }

    /// Which port the device with this index is, by place.
    pub fn of(&self, index: u32) -> Option<usize> {
        self.ports.iter().position(|port| port.index == Some(index))
    }

    /// Whether this device is or was a port.
    pub fn ever(&self, index: u32) -> bool {
        self.ever.contains(&index)
    }

    /// The devices that are ports now.
    pub fn indices(&self) -> impl Iterator<Item = u32> {
        self.ports.iter().filter_map(|port| port.index)
    }

    /// The ports' names.
    pub fn names(&self) -> Vec<String> {
        self.ports.iter().map(|port| port.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: None,
            master: None,
            tunnel: None,
            up: true,
            carrier: true,
            link_layer: 1,
            address: vec![],
            mtu: 1500,
        }
    }

    fn ports() -> Ports {
        Ports::new(&[link(5, "p1"), link(6, "p2")])
    }

    fn taken(port: &str, index: u32) -> Change {
        Change::Taken { port: port.to_owned(), index }
    }

    #[test]
    fn a_renamed_device_is_still_the_port() {
        let mut ports = ports();
        let renamed = Change::Renamed { port: "p1".to_owned(), name: "x".to_owned() };
        assert_eq!(ports.follow(&Message::Link(link(5, "x"))), [renamed]);
        assert_eq!(ports.follow(&Message::Link(link(5, "x"))), [], "told once");
        assert_eq!(ports.of(5), Some(0));
        assert_eq!(ports.follow(&Message::Link(link(5, "p1"))), []);
        assert_eq!(ports, self::ports());
    }

    #[test]
    fn whoever_takes_the_name_is_the_port() {
        let mut ports = ports();
        assert_eq!(ports.follow(&Message::LinkGone(link(6, "p2"))), [Change::Gone("p2".to_owned())]);
        assert_eq!((ports.of(6), ports.indices().collect::<Vec<_>>()), (None, vec![5]));
        assert_eq!(ports.follow(&Message::Link(link(9, "x"))), []);
        assert_eq!(ports.follow(&Message::Link(link(9, "p2"))), [taken("p2", 9)]);
        assert_eq!(ports.of(9), Some(1));
        // Though the device that was it is there, too.
        assert_eq!(ports.follow(&Message::Link(link(8, "p1"))), [taken("p1", 8)]);
        assert_eq!((ports.of(5), ports.of(8)), (None, Some(0)));
        assert!(ports.ever(5) && !ports.ever(7));
    }

    #[test]
    fn ports_swap_their_names() {
        let mut ports = ports();
        ports.follow(&Message::Link(link(5, "x")));
        assert_eq!(ports.follow(&Message::Link(link(6, "p1"))), [taken("p1", 6), Change::Gone("p2".to_owned())]);
        assert_eq!(ports.follow(&Message::Link(link(5, "p2"))), [taken("p2", 5)]);
        assert_eq!((ports.of(6), ports.of(5)), (Some(0), Some(1)));
    }

    #[test]
    fn a_device_without_ethernet_frames_is_no_port() {
        let mut ports = ports();
        let tunnel = Link { link_layer: 65534, ..link(9, "p1") };
        assert_eq!(ports.follow(&Message::Link(tunnel.clone())), [Change::NotEthernet("p1".to_owned())]);
        assert_eq!(ports.follow(&Message::Link(tunnel)), []);
        assert_eq!((ports.of(5), ports.of(9)), (None, None));
        assert!(is_ethernet(&Link { link_layer: 772, ..link(1, "lo") }));
    }

    #[test]
    fn what_is_in_no_dump_is_gone() {
        let mut ports = ports();
        assert_eq!(ports.keep(&BTreeSet::from([1, 5])), [Change::Gone("p2".to_owned())]);
        assert_eq!(ports.keep(&BTreeSet::from([1, 5])), []);
        assert_eq!(ports.names(), ["p1", "p2"]);
    }
}
