//! Tunnel metadata: what a tunnel device took off a packet, or is to put around it.
//!
//! The kernel keeps it beside the bytes (`struct ip_tunnel_info`, `include/net/ip_tunnels.h`): a device that collects metadata fills
//! it in on arrival, the action `tunnel_key` replaces or drops it, and flower compares it as the `enc_*` fields
//! (`net/core/flow_dissector.c`, `skb_flow_dissect_tunnel_info`). So one type serves all three.

use super::{
    field::{Field, addr_type, enc_options},
    key::Key,
    matches::Match,
};
use std::net::IpAddr;

/// A tunnel's key: all that is known of the outer packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// The identifier (VNI, GRE key), if there is one.
    pub id: Option<u32>,
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// UDP source port; 0 where it is chosen by the device, or there is none.
    pub src_port: u16,
    /// UDP destination port; 0 where it is the device's, or there is none.
    pub dst_port: u16,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Time to live or hop limit; 0 where it is the device's.
    pub ttl: u8,
    /// Flags.
    pub flags: TunnelFlags,
    /// Options.
    pub options: TunnelOptions,
}

bitflags::bitflags! {
    /// Flags of a tunnel's key, numbered as in [`Field::EncFlags`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct TunnelFlags: u8 {
        /// With a checksum in the outer UDP or GRE header.
        const CSUM = 4;
        /// Not to be fragmented.
        const DONT_FRAGMENT = 8;
        /// Operations, administration and maintenance.
        const OAM = 16;
        /// Some option is critical.
        const CRITICAL = 32;
    }
}

/// Options of a tunnel's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum TunnelOptions {
    /// None.
    #[default]
    None,
    /// Geneve's, in their order.
    Geneve(Vec<GeneveOption>),
    /// VXLAN's group policy: identifier in the low 16 bits, flags above.
    Vxlan {
        /// The extension.
        gbp: u32,
    },
    /// ERSPAN's.
    Erspan(Erspan),
    /// GTP's PDU session information.
    Gtp {
        /// PDU type.
        pdu_type: u8,
        /// QoS flow identifier.
        qfi: u8,
    },
}

/// One option of Geneve (RFC 8926, section 3.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GeneveOption {
    /// Class.
    pub class: u16,
    /// Type; the highest bit says that it is critical.
    pub kind: u8,
    /// Data, a multiple of four bytes, at most 124.
    pub data: Vec<u8>,
}

/// ERSPAN's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Erspan {
    /// Version 1 (type II).
    Index(u32),
    /// Version 2 (type III).
    Hardware {
        /// 0 ingress, 1 egress.
        dir: u8,
        /// Identifier of the hardware, six bits.
        hwid: u8,
    },
}

impl TunnelOptions {
    /// The bytes that flower compares: Geneve's as on the wire; VXLAN's policy as four bytes, most significant first; ERSPAN's version
    /// as four bytes likewise, then the index or the eight bytes of type III; GTP's two bytes. At most 252.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            TunnelOptions::None => Vec::new(),
            TunnelOptions::Geneve(options) => options.iter().flat_map(GeneveOption::bytes).collect(),
            TunnelOptions::Vxlan { gbp } => gbp.to_be_bytes().to_vec(),
            TunnelOptions::Erspan(Erspan::Index(index)) => [1u32.to_be_bytes(), index.to_be_bytes(), [0; 4]].concat(),
            TunnelOptions::Erspan(Erspan::Hardware { dir, hwid }) => {
                [2u32.to_be_bytes(), [0; 4], [0, 0, hwid >> 4 & 3, (dir & 1) << 3 | (hwid & 0xf) << 4]].concat()
            }
            TunnelOptions::Gtp { pdu_type, qfi } => vec![*pdu_type, *qfi],
        }
    }

    /// The kind, as [`Field::EncOptsType`] has it.
    pub fn kind(&self) -> u128 {
        match self {
            TunnelOptions::None => 0,
            TunnelOptions::Geneve(_) => enc_options::GENEVE,
            TunnelOptions::Vxlan { .. } => enc_options::VXLAN,
            TunnelOptions::Erspan(_) => enc_options::ERSPAN,
            TunnelOptions::Gtp { .. } => enc_options::GTP,
        }
    }
}

impl TunnelOptions {
    /// The options that a match compares, and the masks of their values. `None` if it compares none, or in a way that flower has no
    /// words for: flower compares the kind and the lengths of options together with them.
    pub fn asked(m: &Match) -> Option<(TunnelOptions, TunnelOptions)> {
        let (kind, length) = (m.key.get(Field::EncOptsType), m.key.get(Field::EncOptsLen));
        let bytes = |of: &Key| -> Vec<u8> {
            let all = Field::OPTIONS.iter().flat_map(|&field| of.get(field).to_be_bytes());
            all.take(length as usize).collect()
        };
        let (key, mask) = (bytes(&m.key), bytes(&m.mask));
        let asked = match kind {
            enc_options::GENEVE => {
                let (key, mask) = geneve(&key, &mask)?;
                (TunnelOptions::Geneve(key), TunnelOptions::Geneve(mask))
            }
            enc_options::VXLAN => {
                let part = |bytes: &[u8]| Some(TunnelOptions::Vxlan { gbp: u32::from_be_bytes(*bytes.first_chunk()?) });
                (part(&key)?, part(&mask)?)
            }
            enc_options::ERSPAN => {
                // One bit of the version is compared, that of the mask's own; the other one tells the other version.
                let mask_version = version(&mask)?;
                let version = match (mask_version, version(&key)?) {
                    (1, 1) | (2, 0) => 1,
                    (2, 2) | (1, 0) => 2,
                    _ => return None,
                };
                (erspan(version, &key)?, erspan(mask_version, &mask)?)
            }
            enc_options::GTP => {
                let part = |bytes: &[u8]| {
                    let [pdu_type, qfi] = *bytes.first_chunk()?;
                    Some(TunnelOptions::Gtp { pdu_type, qfi })
                };
                (part(&key)?, part(&mask)?)
            }
            _ => return None,
        };
        // What flower makes of them is what is compared, to the last bit.
        let laid = asked.1.bytes();
        let is_so = (m.mask.get(Field::EncOptsType), m.mask.get(Field::EncOptsLen)) == (kind, length)
            && (Field::OPTIONS.into_iter().enumerate()).all(|(at, field)| m.mask.get(field) == option_field(&laid, at));
        (is_so && laid.len() as u128 == length).then_some(asked)
    }
}

/// One option of Geneve after the other, and their masks: all bits that a length has are compared.
fn geneve(mut key: &[u8], mut mask: &[u8]) -> Option<(Vec<GeneveOption>, Vec<GeneveOption>)> {
    let mut all = (Vec::new(), Vec::new());
    while !key.is_empty() {
        let end = 4 + 4 * usize::from(key.get(3)? & 0x1f);
        let part = |bytes: &[u8]| {
            let [c, d, kind, _] = *bytes.first_chunk()?;
            Some(GeneveOption { class: u16::from_be_bytes([c, d]), kind, data: bytes.get(4..end)?.to_vec() })
        };
        all.0.push(part(key)?);
        all.1.push(part(mask)?);
        (key, mask) = (&key[end..], &mask[end..]);
    }
    Some(all)
}

fn version(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.first_chunk()?))
}

fn erspan(version: u32, bytes: &[u8]) -> Option<TunnelOptions> {
    let [a, b, c, d, _, _, high, low] = *bytes.get(4..)?.first_chunk()?;
    let hardware = Erspan::Hardware { dir: low >> 3 & 1, hwid: (high & 3) << 4 | low >> 4 };
    match version {
        1 => Some(TunnelOptions::Erspan(Erspan::Index(u32::from_be_bytes([a, b, c, d])))),
        2 => Some(TunnelOptions::Erspan(hardware)),
        _ => None,
    }
}

impl GeneveOption {
    /// As on the wire: class, type, length in words, data.
    pub fn bytes(&self) -> Vec<u8> {
        let [c, d] = self.class.to_be_bytes();
        let words = (self.data.len() / 4) as u8 & 0x1f;
        [&[c, d, self.kind, words], &self.data[..]].concat()
    }
}

/// Sixteen bytes of options as one field: the first byte is the highest, what is missing is 0.
pub fn option_field(bytes: &[u8], index: usize) -> u128 {
    let mut field = [0; 16];
    let part = bytes.get(16 * index..).unwrap_or_default();
    let part = &part[..part.len().min(16)];
    field[..part.len()].copy_from_slice(part);
    u128::from_be_bytes(field)
}

impl Tunnel {
    /// The fields of the key, each of [`Field::TUNNEL`].
    pub fn fields(&self) -> Vec<(Field, u128)> {
        use Field::*;
        let kind = match self.src {
            IpAddr::V4(_) => addr_type::IPV4,
            IpAddr::V6(_) => addr_type::IPV6,
        };
        let v4 = |address| if let IpAddr::V4(a) = address { u32::from(a).into() } else { 0 };
        let v6 = |address| if let IpAddr::V6(a) = address { a.into() } else { 0 };
        let options = self.options.bytes();
        let mut fields = vec![
            (EncKeyId, self.id.unwrap_or(0).into()),
            (EncAddrType, kind),
            (EncIpv4Src, v4(self.src)),
            (EncIpv4Dst, v4(self.dst)),
            (EncIpv6Src, v6(self.src)),
            (EncIpv6Dst, v6(self.dst)),
            (EncSrcPort, self.src_port.into()),
            (EncDstPort, self.dst_port.into()),
            (EncTos, self.tos.into()),
            (EncTtl, self.ttl.into()),
            (EncFlags, self.flags.bits().into()),
            (EncOptsType, if options.is_empty() { 0 } else { self.options.kind() }),
            (EncOptsLen, options.len() as u128),
        ];
        fields.extend(Field::OPTIONS.into_iter().enumerate().map(|(i, field)| (field, option_field(&options, i))));
        fields
    }

    /// A key with the fields of this tunnel, or of none.
    pub fn tell(tunnel: Option<&Tunnel>, mut key: Key) -> Key {
        match tunnel {
            Some(tunnel) => tunnel.fields().into_iter().for_each(|(field, value)| key.set(field, value)),
            None => Field::TUNNEL.into_iter().for_each(|field| key.set(field, 0)),
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel(options: TunnelOptions) -> Tunnel {
        let [src, dst] = [1, 2].map(|n| IpAddr::from([10, 0, 0, n]));
        let flags = TunnelFlags::CSUM;
        Tunnel { id: Some(7), src, dst, src_port: 0, dst_port: 6081, tos: 4, ttl: 64, flags, options }
    }

    #[test]
    fn all_fields_of_a_tunnel_are_told() {
        let told = tunnel(TunnelOptions::Vxlan { gbp: 0x10 }).fields();
        assert_eq!(told.iter().map(|f| f.0).collect::<Vec<_>>(), Field::TUNNEL);
        let key = Tunnel::tell(Some(&tunnel(TunnelOptions::Vxlan { gbp: 0x10 })), Key::ZERO);
        assert_eq!((key.get(Field::EncOpts0) >> 96, key.get(Field::EncOptsLen)), (0x10, 4));
        assert_eq!((key.get(Field::EncIpv4Dst), key.get(Field::EncIpv6Dst)), (0x0a00_0002, 0));
        assert_eq!(Tunnel::tell(None, key), Key::ZERO);
    }

    #[test]
    fn options_are_laid_out_one_after_the_other() {
        let option = |class, len| GeneveOption { class, kind: 0x80, data: (1..=len).collect() };
        let options = TunnelOptions::Geneve(vec![option(0x102, 4), option(0x103, 12)]);
        let bytes = options.bytes();
        assert_eq!(bytes[..12], [1, 2, 0x80, 1, 1, 2, 3, 4, 1, 3, 0x80, 3]);
        let key = Tunnel::tell(Some(&tunnel(options)), Key::ZERO);
        assert_eq!(key.get(Field::EncOpts0), 0x0102_8001_0102_0304_0103_8003_0102_0304);
        assert_eq!(key.get(Field::EncOpts1), 0x0506_0708_090a_0b0c << 64);
        assert_eq!((key.get(Field::EncOpts2), key.get(Field::EncOptsLen)), (0, 24));
        let erspan = TunnelOptions::Erspan(Erspan::Hardware { dir: 1, hwid: 0x25 });
        assert_eq!(erspan.bytes(), [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 2, 0x58]);
    }

    fn compared(kind: u128, key: &[u8], mask: &[u8]) -> Match {
        let length = key.len() as u128;
        let m = Match::default().with(Field::EncOptsType, kind, kind).with(Field::EncOptsLen, length, length);
        let parts = Field::OPTIONS.into_iter().enumerate();
        parts.fold(m, |m, (at, field)| m.with(field, option_field(key, at), option_field(mask, at)))
    }

    #[test]
    fn options_are_read_off_a_match_as_far_as_flower_has_words() {
        let option = |class, len: u8| GeneveOption { class, kind: 0x80, data: vec![7; len.into()] };
        let options = TunnelOptions::Geneve(vec![option(1, 4), option(2, 40)]);
        let mask = TunnelOptions::Geneve(vec![option(0xffff, 4), option(0, 40)]);
        let m = compared(enc_options::GENEVE, &options.bytes(), &mask.bytes());
        let masked = |o: GeneveOption, mask: &GeneveOption| GeneveOption { class: o.class & mask.class, ..o };
        let expected = TunnelOptions::Geneve(vec![option(1, 4), masked(option(2, 40), &option(0, 0))]);
        assert_eq!(TunnelOptions::asked(&m), Some((expected, mask)));
        for (options, mask) in [
            (TunnelOptions::Vxlan { gbp: 5 }, TunnelOptions::Vxlan { gbp: 0xff }),
            (TunnelOptions::Gtp { pdu_type: 1, qfi: 2 }, TunnelOptions::Gtp { pdu_type: 1, qfi: 3 }),
            (TunnelOptions::Erspan(Erspan::Index(5)), TunnelOptions::Erspan(Erspan::Index(0xff))),
            (
                TunnelOptions::Erspan(Erspan::Hardware { dir: 1, hwid: 0x21 }),
                TunnelOptions::Erspan(Erspan::Hardware { dir: 1, hwid: 0x3f }),
            ),
        ] {
            let m = compared(options.kind(), &options.bytes(), &mask.bytes());
            assert_eq!(TunnelOptions::asked(&m), Some((options, mask)));
            // The kind, the length, a bit beyond: all are compared, and no more.
            for field in [Field::EncOptsType, Field::EncOptsLen] {
                let mut other = m;
                other.clear(field);
                assert_eq!(TunnelOptions::asked(&other), None);
            }
            assert_eq!(TunnelOptions::asked(&m.with(Field::EncOpts1, 1, 1)), None);
        }
        assert_eq!(TunnelOptions::asked(&compared(enc_options::ERSPAN, &[0, 0, 0, 1], &[0, 0, 0, 1])), None);
        assert_eq!(TunnelOptions::asked(&compared(enc_options::GENEVE, &[0, 0, 0], &[0; 3])), None);
        assert_eq!(TunnelOptions::asked(&Match::default()), None);
    }
}
