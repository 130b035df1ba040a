//! What a recorder asks: dumps, and the `nlmon` device through which the kernel shows what it says, with its time.
//!
//! Every request comes with sequence and port 0, for the caller to fill in ([`number`]).

use super::{
    attributes::{Attribute, emit},
    request::{at, message},
};
use crate::flower::Hook;
use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterProtoFamily};
use netlink_packet_route::{
    link::{LinkFlags, LinkHeader},
    tc::TcHeader,
};

const NLMSG_NOOP: u16 = 1;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_GETQDISC: u16 = 38;
const RTM_GETTFILTER: u16 = 46;
const RTM_GETCHAIN: u16 = 102;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`.
const CT_GET: u16 = 0x101;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;

/// Something to be dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dump {
    /// All devices of the network namespace.
    Links,
    /// All queueing disciplines.
    Qdiscs,
    /// The chains of a hook.
    Chains(Hook),
    /// The filters of a hook, of all chains, with their counters.
    Filters(Hook),
    /// All connections, of every address family.
    Connections,
}

impl Dump {
    /// The netlink family that is asked: [`super::ROUTE`] or [`super::NETFILTER`].
    pub fn family(self) -> u16 {
        match self {
            Dump::Connections => super::NETFILTER,
            _ => super::ROUTE,
        }
    }

    /// The request.
    pub fn request(self) -> Vec<u8> {
        let tc = |kind, header: TcHeader| message(kind, NLM_F_DUMP, &bytes(&header));
        match self {
            Dump::Links => message(RTM_GETLINK, NLM_F_DUMP, &bytes(&LinkHeader::default())),
            Dump::Qdiscs => tc(RTM_GETQDISC, TcHeader::default()),
            Dump::Chains(hook) => tc(RTM_GETCHAIN, at(hook)),
            Dump::Filters(hook) => tc(RTM_GETTFILTER, at(hook)),
            Dump::Connections => {
                message(CT_GET, NLM_F_DUMP, &bytes(&NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0)))
            }
        }
    }
}

/// Adds a device of kind `nlmon` and sets it up; fails with EEXIST if there is one of that name.
pub fn add_monitor(name: &str) -> Vec<u8> {
    let header = LinkHeader { flags: LinkFlags::Up, change_mask: LinkFlags::Up, ..LinkHeader::default() };
    let attributes = emit(&[
        Attribute::text(IFLA_IFNAME, name),
        Attribute::nest(IFLA_LINKINFO, vec![Attribute::text(IFLA_INFO_KIND, "nlmon")]),
    ]);
    message(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &[bytes(&header), attributes].concat())
}

/// Asks nothing but an answer.
pub fn no_operation() -> Vec<u8> {
    message(NLMSG_NOOP, NLM_F_ACK, &[])
}

/// Removes a device.
pub fn remove_link(index: u32) -> Vec<u8> {
    message(RTM_DELLINK, NLM_F_ACK, &bytes(&LinkHeader { index, ..LinkHeader::default() }))
}

/// Writes the sequence number into a request.
pub fn number(request: &mut [u8], sequence: u32) {
    if let Some(field) = request.get_mut(8..12) {
        field.copy_from_slice(&sequence.to_ne_bytes());
    }
}

fn bytes(part: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; part.buffer_len()];
    part.emit(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flower::Port;

    /// As `strace -x` shows them of `ip` and `tc` (little-endian machines).
    #[test]
    fn requests_are_those_of_the_tools() {
        let head = |length: u32, kind: u16, flags: u16| {
            [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]].concat()
        };
        let tc = |index: i32, parent: u32| {
            [&[0; 4][..], &index.to_ne_bytes(), &[0; 4], &parent.to_ne_bytes(), &[0; 4]].concat()
        };
        let cases = [
            (Dump::Links, head(32, 18, 0x301), vec![0; 16]),
            (Dump::Qdiscs, head(36, 38, 0x301), vec![0; 20]),
            (Dump::Filters(Hook::Ingress(Port(7))), head(36, 46, 0x301), tc(7, 0xffff_fff2)),
            (Dump::Filters(Hook::Egress(Port(7))), head(36, 46, 0x301), tc(7, 0xffff_fff3)),
            (Dump::Chains(Hook::Block(9)), head(36, 102, 0x301), tc(-1, 9)),
            (Dump::Connections, head(20, 0x101, 0x301), vec![0; 4]),
        ];
        for (dump, head, body) in cases {
            assert_eq!(dump.request(), [head, body].concat(), "{dump:?}");
        }
        let mut request = add_monitor("m0");
        number(&mut request, 0x0102_0304);
        let up = 1u32.to_ne_bytes();
        let name = [&7u16.to_ne_bytes()[..], &3u16.to_ne_bytes(), b"m0\0\0"].concat();
        let kind = [&10u16.to_ne_bytes()[..], &1u16.to_ne_bytes(), b"nlmon\0\0\0"].concat();
        let info = [&16u16.to_ne_bytes()[..], &(18u16 | 0x8000).to_ne_bytes(), &kind].concat();
        let mut expected = [head(56, 16, 0x605), vec![0; 8], up.to_vec(), up.to_vec(), name, info].concat();
        expected[8..12].copy_from_slice(&0x0102_0304u32.to_ne_bytes());
        assert_eq!(request, expected);
        assert_eq!(remove_link(5)[20..24], 5u32.to_ne_bytes());
    }
}
