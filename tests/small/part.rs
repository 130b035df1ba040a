//! The parts of a packet that a universe may leave free, and which field of a key shows which of their bits.

use flowmerge::flower::Field;

/// A part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The tags, a byte each, the outermost in the lowest byte: see [`tag`](crate::universe::tag).
    Tags,
    /// How many labels, whether their ethertype is that of multicast (8), and whether they are the last ([`CUT`]). They lie behind the
    /// tags.
    Stack,
    /// The entries, as words, the last for all behind it; but the bottom of the stack is turned over where its bit is set.
    Label1,
    Label2,
    Label3,
    /// The innermost ethertype, behind the labels.
    EtherType,
    /// The last bits of the Ethernet addresses.
    Mac,
    SrcMac,
    /// The last bits of the network addresses, ARP's too.
    Src,
    Dst,
    Ttl,
    Tos,
    Proto,
    SrcPort,
    DstPort,
    Flags,
    /// 0 whole, 1 the first fragment, 2 a later one.
    Fragment,
    /// The operation of ARP, and the last bits of its hardware addresses.
    ArpOp,
    Sha,
    Tha,
    /// Level and operation of CFM, a byte each.
    Cfm,
    /// The first word behind the IP header of ESP and L2TP; of AH the second.
    Spi,
    /// The tunnel's addresses: 0 there is no tunnel, 4, 6.
    Outer,
    EncId,
    EncSrc,
    EncDst,
    EncPort,
    EncTos,
    EncTtl,
    EncFlags,
    /// Which options the tunnel has, and a few bits of what is in them: see [`options`](crate::outer::options).
    Options,
    Data,
}

use Part::*;

/// Of [`Stack`]: the frame ends behind the labels.
pub const CUT: u32 = 16;

/// All parts.
pub const PARTS: [Part; 32] = [
    Tags, Stack, Label1, Label2, Label3, EtherType, Mac, SrcMac, Src, Dst, Ttl, Tos, Proto, SrcPort, DstPort, Flags,
    Fragment, ArpOp, Sha, Tha, Cfm, Spi, Outer, EncId, EncSrc, EncDst, EncPort, EncTos, EncTtl, EncFlags, Options,
    Data,
];

/// The entries of the label stack.
pub const LABELS: [Part; 3] = [Label1, Label2, Label3];

/// Those of IP and of what it carries.
pub const IP: [Part; 9] = [Src, Dst, Ttl, Tos, Proto, SrcPort, DstPort, Flags, Fragment];

/// Those of a tunnel, without whether there is one.
pub const TUNNEL: [Part; 9] = [EncId, EncSrc, EncDst, EncPort, EncTos, EncTtl, EncFlags, Options, Data];

/// Where the lowest bits of a field are: the part, by how much they are shifted in it, and how many of them can be set freely.
pub fn place(field: Field) -> Option<(Part, u32, u8)> {
    if let Some((depth, at)) =
        Field::MPLS.iter().enumerate().find_map(|(depth, entry)| Some((depth, entry.iter().position(|&f| f == field)?)))
    {
        let (shift, bits) = [(0, 0), (12, 20), (9, 3), (8, 1), (0, 8)][at];
        return (at > 0).then(|| (LABELS[depth.min(LABELS.len() - 1)], shift, bits));
    }
    Some(match field {
        Field::EthDst => (Mac, 0, 1),
        Field::EthSrc => (SrcMac, 0, 2),
        Field::Ipv4Src | Field::Ipv6Src | Field::ArpSip => (Src, 0, 8),
        Field::Ipv4Dst | Field::Ipv6Dst | Field::ArpTip => (Dst, 0, 8),
        Field::IpTtl => (Ttl, 0, 8),
        Field::IpTos => (Tos, 0, 8),
        Field::SrcPort => (SrcPort, 0, 16),
        Field::DstPort => (DstPort, 0, 16),
        Field::TcpFlags => (Flags, 0, 8),
        Field::ArpSha => (Sha, 0, 8),
        Field::ArpTha => (Tha, 0, 8),
        Field::CfmLevel => (Cfm, 8, 3),
        Field::CfmOpcode => (Cfm, 0, 8),
        Field::Spi | Field::L2tpv3Sid => (Spi, 0, 32),
        Field::EncKeyId => (EncId, 0, 32),
        Field::EncIpv4Src | Field::EncIpv6Src => (EncSrc, 0, 8),
        Field::EncIpv4Dst | Field::EncIpv6Dst => (EncDst, 0, 8),
        Field::EncDstPort => (EncPort, 0, 16),
        Field::EncTos => (EncTos, 0, 8),
        Field::EncTtl => (EncTtl, 0, 8),
        Field::EncFlags => (EncFlags, 0, 6),
        _ => return None,
    })
}
