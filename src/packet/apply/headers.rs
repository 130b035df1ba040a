//! Where the headers of a frame lie that actions write to.

use crate::flower::ethertype::{IPV4, IPV6, is_vlan};

/// Length of the Ethernet header.
pub(super) const ETHERNET: usize = 14;

/// IPv6 next-header values of the extension headers that Linux walks (`ipv6_ext_hdr`).
mod extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const NONE: u8 = 59;
    pub const DESTINATION: u8 = 60;
}

/// The version of the network header, by ethertype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V6,
    /// Not IP.
    Other,
}

/// The network header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    /// Bytes from the start of the frame.
    pub at: usize,
    /// Its ethertype. A rewrite of the one that stands in the bytes does not change it.
    pub ethertype: u16,
}

/// The transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transport {
    /// Bytes from the start of the frame.
    pub at: usize,
    /// IP protocol.
    pub proto: u8,
    /// Not the first fragment: what lies at `at` is no header.
    pub later_fragment: bool,
}

/// Two bytes in network order.
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The network header of a frame, behind all its VLAN tags; `None` for a frame that ends before.
pub(super) fn network(frame: &[u8]) -> Option<Network> {
    let mut at = ETHERNET;
    loop {
        match be16(frame, at - 2)? {
            tag if is_vlan(tag) => at += 4,
            ethertype => return Some(Network { at, ethertype }),
        }
    }
}

impl Network {
    /// Its version.
    pub fn version(self) -> Version {
        match self.ethertype {
            IPV4 => Version::V4,
            IPV6 => Version::V6,
            _ => Version::Other,
        }
    }

    /// The length of the IP datagram by its own header; `None` for what is not IP or is cut off.
    pub fn datagram_length(self, frame: &[u8]) -> Option<usize> {
        match self.version() {
            Version::V4 => Some(be16(frame, self.at + 2)?.into()),
            Version::V6 => Some(40 + usize::from(be16(frame, self.at + 4)?)),
            Version::Other => None,
        }
    }

    /// Length of the IPv4 header with its options.
    pub fn ipv4_header_length(self, frame: &[u8]) -> Option<usize> {
        Some(usize::from(frame.get(self.at)? & 0x0f) * 4)
    }

    /// The transport header: behind the options of IPv4, behind the extension headers of IPv6.
    pub fn transport(self, frame: &[u8]) -> Option<Transport> {
        match self.version() {
            Version::V4 => {
                frame.get(self.at..self.at + 20)?;
                Some(Transport {
                    at: self.at + self.ipv4_header_length(frame)?,
                    proto: frame[self.at + 9],
                    later_fragment: be16(frame, self.at + 6)? & 0x1fff != 0,
                })
            }
            Version::V6 => {
                frame.get(self.at..self.at + 40)?;
                let (mut proto, mut at) = (frame[self.at + 6], self.at + 40);
                loop {
                    let length = match proto {
                        extension::HOP_BY_HOP | extension::ROUTING | extension::DESTINATION => {
                            (usize::from(*frame.get(at + 1)?) + 1) * 8
                        }
                        extension::AUTHENTICATION => (usize::from(*frame.get(at + 1)?) + 2) * 4,
                        extension::FRAGMENT if be16(frame, at + 2)? & 0xfff8 != 0 => {
                            return Some(Transport { at, proto, later_fragment: true });
                        }
                        extension::FRAGMENT => 8,
                        extension::NONE => return None,
                        _ => {
                            return Some(Transport { at, proto, later_fragment: false });
                        }
                    };
                    proto = *frame.get(at)?;
                    at += length;
                    if at > frame.len() {
                        return None;
                    }
                }
            }
            Version::Other => None,
        }
    }
}
