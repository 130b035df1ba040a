//! Devices and their queueing disciplines (`struct ifinfomsg`, `IFLA_*`; `struct tcmsg`, `TCA_*`).

use super::{
    attributes::Attributes,
    error::{DecodeError, Fault},
    filter::header,
};
use crate::packet::outer::Encapsulation;
use netlink_packet_route::link::{LinkFlags, LinkHeader};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_CARRIER: u16 = 33;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;

const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_GBP: u16 = 23;
const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;
const IFLA_VXLAN_GPE: u16 = 27;

const IFLA_GENEVE_PORT: u16 = 5;
const IFLA_GENEVE_COLLECT_METADATA: u16 = 6;
const IFLA_GENEVE_INNER_PROTO_INHERIT: u16 = 14;

const IFLA_GRE_REMOTE: u16 = 7;
const IFLA_GRE_COLLECT_METADATA: u16 = 18;

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
    /// Index of the bridge or Open vSwitch datapath that it is a port of.
    pub master: Option<u32>,
    /// What makes it a tunnel's end.
    pub tunnel: Option<TunnelDevice>,
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

/// A tunnel's end that takes Ethernet frames off outer packets, and puts them in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TunnelDevice {
    /// How they are wrapped.
    pub encapsulation: Encapsulation,
    /// Whether a received frame keeps what is known of its outer packet, for filters to see. Such a device is made `external`, and
    /// a frame sent to it is wrapped as its metadata says; or it is a `gretap` without remote address.
    pub collects_metadata: bool,
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
    let kind = info.as_ref().and_then(|info| info.text(IFLA_INFO_KIND));
    let data = info.map_or(Ok(None), |info| info.nested(IFLA_INFO_DATA, "IFLA_INFO_DATA"))?;
    Ok(Some(Link {
        index: header.index,
        name: ifla.text(IFLA_IFNAME).unwrap_or_default(),
        master: ifla.u32(IFLA_MASTER)?,
        tunnel: match (&kind, &data) {
            (Some(kind), Some(data)) => tunnel(kind, data)?,
            _ => None,
        },
        kind,
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

/// By the device's kind, what it is told to be.
fn tunnel(kind: &str, data: &Attributes) -> Result<Option<TunnelDevice>, DecodeError> {
    let is_set = |flag| data.get(flag).is_some();
    let (encapsulation, collects_metadata) = match kind {
        // With GPE there may be no Ethernet header inside.
        "vxlan" if !is_set(IFLA_VXLAN_GPE) => {
            let port = data.u16_be(IFLA_VXLAN_PORT)?.unwrap_or(0);
            let collects = data.u8(IFLA_VXLAN_COLLECT_METADATA)?.unwrap_or(0) != 0;
            (Encapsulation::Vxlan { port, policy: is_set(IFLA_VXLAN_GBP) }, collects)
        }
        "geneve" if !is_set(IFLA_GENEVE_INNER_PROTO_INHERIT) => {
            let port = data.u16_be(IFLA_GENEVE_PORT)?.unwrap_or(0);
            (Encapsulation::Geneve { port }, is_set(IFLA_GENEVE_COLLECT_METADATA))
        }
        "gretap" => {
            let remote = data.get(IFLA_GRE_REMOTE).unwrap_or_default();
            let collects = is_set(IFLA_GRE_COLLECT_METADATA) || remote.iter().all(|&byte| byte == 0);
            (Encapsulation::Gre { ipv6: false }, collects)
        }
        "ip6gretap" => (Encapsulation::Gre { ipv6: true }, is_set(IFLA_GRE_COLLECT_METADATA)),
        "erspan" => (Encapsulation::Erspan { ipv6: false }, is_set(IFLA_GRE_COLLECT_METADATA)),
        "ip6erspan" => (Encapsulation::Erspan { ipv6: true }, is_set(IFLA_GRE_COLLECT_METADATA)),
        _ => return Ok(None),
    };
    Ok(Some(TunnelDevice { encapsulation, collects_metadata }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attributes::{Attribute, emit};

    /// A device of this kind and these attributes.
    fn told(kind: &str, data: Vec<Attribute>) -> Option<TunnelDevice> {
        let info = vec![Attribute::text(IFLA_INFO_KIND, kind), Attribute::nest(IFLA_INFO_DATA, data)];
        let attributes = [Attribute::text(IFLA_IFNAME, "t1"), Attribute::nest(IFLA_LINKINFO, info)];
        let link = decode(&[&[0; 16][..], &emit(&attributes)].concat()).unwrap().unwrap();
        assert_eq!((link.name.as_str(), link.kind.as_deref()), ("t1", Some(kind)));
        link.tunnel
    }

    fn device(encapsulation: Encapsulation, collects_metadata: bool) -> Option<TunnelDevice> {
        Some(TunnelDevice { encapsulation, collects_metadata })
    }

    fn attribute(kind: u16, value: &[u8]) -> Attribute {
        Attribute::new(kind, value)
    }

    #[test]
    fn udp_tunnels_have_a_port() {
        let vxlan = |policy| Encapsulation::Vxlan { port: 4789, policy };
        let port = || attribute(IFLA_VXLAN_PORT, &4789u16.to_be_bytes());
        let collects = |value| attribute(IFLA_VXLAN_COLLECT_METADATA, &[value]);
        // The kernel tells of VXLAN's also when it is not so.
        assert_eq!(told("vxlan", vec![port(), collects(0)]), device(vxlan(false), false));
        assert_eq!(told("vxlan", vec![port(), collects(1), attribute(IFLA_VXLAN_GBP, &[])]), device(vxlan(true), true));
        assert_eq!(told("vxlan", vec![port(), collects(1), attribute(IFLA_VXLAN_GPE, &[])]), None);
        let geneve = Encapsulation::Geneve { port: 6081 };
        let port = || attribute(IFLA_GENEVE_PORT, &6081u16.to_be_bytes());
        assert_eq!(told("geneve", vec![port()]), device(geneve, false));
        assert_eq!(told("geneve", vec![port(), attribute(IFLA_GENEVE_COLLECT_METADATA, &[])]), device(geneve, true));
        assert_eq!(told("geneve", vec![port(), attribute(IFLA_GENEVE_INNER_PROTO_INHERIT, &[])]), None);
    }

    #[test]
    fn gre_devices_differ_by_their_kind() {
        let external = || vec![attribute(IFLA_GRE_REMOTE, &[0; 4]), attribute(IFLA_GRE_COLLECT_METADATA, &[])];
        let remote = || vec![attribute(IFLA_GRE_REMOTE, &[10, 0, 0, 1])];
        let (gre, erspan) = (|ipv6| Encapsulation::Gre { ipv6 }, |ipv6| Encapsulation::Erspan { ipv6 });
        for (kind, encapsulation) in
            [("gretap", gre(false)), ("ip6gretap", gre(true)), ("erspan", erspan(false)), ("ip6erspan", erspan(true))]
        {
            assert_eq!(told(kind, external()), device(encapsulation, true), "{kind}");
            assert_eq!(told(kind, remote()), device(encapsulation, false), "{kind}");
        }
        assert_eq!(told("gretap", vec![attribute(IFLA_GRE_REMOTE, &[0; 4])]), device(gre(false), true), "gretap0");
        assert_eq!(told("erspan", vec![attribute(IFLA_GRE_REMOTE, &[0; 4])]), device(erspan(false), false));
    }

    #[test]
    fn other_devices_are_no_tunnels() {
        assert_eq!(told("veth", vec![]), None);
        assert_eq!(told("bareudp", vec![attribute(1, &[0x19, 0xeb])]), None, "it has no Ethernet inside");
    }
}
