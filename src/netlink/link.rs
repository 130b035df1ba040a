//! Devices and their queueing disciplines (`struct ifinfomsg`, `IFLA_*`; `struct tcmsg`, `TCA_*`).

use super::{
    attributes::Attributes,
    error::{DecodeError, Fault},
    filter::header,
};
use netlink_packet_route::link::{LinkFlags, LinkHeader};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_CARRIER: u16 = 33;
const IFLA_INFO_KIND: u16 = 1;

const TCA_KIND: u16 = 1;
const TCA_INGRESS_BLOCK: u16 = 13;
const TCA_EGRESS_BLOCK: u16 = 14;

const AF_UNSPEC: u8 = 0;

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index in its network namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Kind (`veth`, `vxlan`, `openvswitch`); hardware has none.
    pub kind: Option<String>,
    /// `IFF_UP`.
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// Type of its link layer (`ARPHRD_*`; 1 is Ethernet, 772 loopback). A redirect to one without Ethernet header takes the
    /// header off.
    pub link_layer: u16,
    /// Its own address.
    pub address: Vec<u8>,
    /// Largest packet, without Ethernet header.
    pub mtu: u32,
}

/// A queueing discipline; `clsact` and `ingress` are where filters hang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qdisc {
    /// The device.
    pub index: u32,
    /// Kind (`clsact`, `ingress`, `noqueue`, ...).
    pub kind: String,
    /// Parent: `ffff:fff1` for `clsact` and `ingress`, `ffff:ffff` for the root.
    pub parent: u32,
    /// Handle, major number in the upper half: `ffff:0` for `clsact` and `ingress`.
    pub handle: u32,
    /// The shared block bound to its ingress side.
    pub ingress_block: Option<u32>,
    /// The shared block bound to its egress side.
    pub egress_block: Option<u32>,
}

/// `None` for what is told of a device in another family's name: a bridge's ports are told in AF_BRIDGE, and a port that
/// leaves its bridge with RTM_DELLINK, though the device stays.
pub(super) fn decode(payload: &[u8]) -> Result<Option<Link>, DecodeError> {
    let short = Fault::Short { have: payload.len(), want: 16 };
    let header = LinkHeader::parse(payload).map_err(|_| DecodeError::new("struct ifinfomsg", short))?;
    if u8::from(header.interface_family) != AF_UNSPEC {
        return Ok(None);
    }
    let ifla = Attributes::parse("IFLA", &payload[16..])?;
    let info = ifla.nested(IFLA_LINKINFO, "IFLA_LINKINFO")?;
    Ok(Some(Link {
        index: header.index,
        name: ifla.text(IFLA_IFNAME).unwrap_or_default(),
        kind: info.and_then(|info| info.text(IFLA_INFO_KIND)),
        up: header.flags.contains(LinkFlags::Up),
        carrier: match ifla.u8(IFLA_CARRIER)? {
            Some(carrier) => carrier != 0,
            None => header.flags.contains(LinkFlags::LowerUp),
        },
        link_layer: header.link_layer_type.into(),
        address: ifla.get(IFLA_ADDRESS).unwrap_or_default().to_vec(),
        mtu: ifla.u32(IFLA_MTU)?.unwrap_or(0),
    }))
}

pub(super) fn qdisc(payload: &[u8]) -> Result<Qdisc, DecodeError> {
    let (header, tca) = header(payload)?;
    Ok(Qdisc {
        index: header.index as u32,
        kind: tca.text(TCA_KIND).unwrap_or_default(),
        parent: header.parent.into(),
        handle: header.handle.into(),
        ingress_block: tca.u32(TCA_INGRESS_BLOCK)?,
        egress_block: tca.u32(TCA_EGRESS_BLOCK)?,
    })
}
