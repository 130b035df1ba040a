//! Flower's attributes as terms of a match.

use super::Count;
use flowmerge::{
    flower::{
        Field, Filter, Match,
        tunnel::{Erspan, GeneveOption, TunnelOptions},
    },
    netlink::Names,
};
use netlink_bindings::tc::{
    FlowerAttrs, FlowerKeyCfmAttrs, FlowerKeyEncOptErspanAttrs, FlowerKeyEncOptGeneveAttrs, FlowerKeyEncOptGtpAttrs,
    FlowerKeyEncOptVxlanAttrs, FlowerKeyEncOptsAttrs, FlowerKeyMplsOptAttrs, IterableFlowerAttrs,
    IterableFlowerKeyEncOptsAttrs,
};
use std::{collections::BTreeMap, net::Ipv4Addr};

/// A value as the field table has it: bytes most significant first.
trait Value {
    fn value(self) -> u128;
}

macro_rules! values {
    ($($kind:ty),*) => { $(impl Value for $kind { fn value(self) -> u128 { self.into() } })* };
}
values!(u8, u16, u32);

impl Value for Ipv4Addr {
    fn value(self) -> u128 {
        u32::from(self).into()
    }
}

impl Value for &[u8] {
    fn value(self) -> u128 {
        self.iter().fold(0, |all, &byte| all << 8 | u128::from(byte))
    }
}

/// What is said of a field: its value and its mask.
type Said = BTreeMap<Field, (Option<u128>, Option<u128>)>;

/// Value and mask of a field, by the names of their attributes. False if the attribute is none of these.
macro_rules! said {
    ($attribute:expr, $said:expr; $($field:ident: $($value:ident)|+ $(/ $($mask:ident)|+)?;)*) => {
        match $attribute {
            $($(FlowerAttrs::$value(value) => { $said.entry(Field::$field).or_default().0 = Some(value.value()); true })+
            $($(FlowerAttrs::$mask(mask) => { $said.entry(Field::$field).or_default().1 = Some(mask.value()); true })+)?)*
            _ => false,
        }
    };
}

#[rustfmt::skip]
fn plain(attribute: FlowerAttrs, said: &mut Said) -> bool {
    said! { attribute, said;
        EthDst: KeyEthDst / KeyEthDstMask; EthSrc: KeyEthSrc / KeyEthSrcMask;
        NumOfVlans: KeyNumOfVlans; VlanPrio: KeyVlanPrio; CvlanPrio: KeyCvlanPrio;
        VlanEthType: KeyVlanEthType; CvlanEthType: KeyCvlanEthType;
        PppoeSid: KeyPppoeSid; PppProto: KeyPppProto;
        IpProto: KeyIpProto; IpTos: KeyIpTos / KeyIpTosMask; IpTtl: KeyIpTtl / KeyIpTtlMask;
        IpFlags: KeyFlags / KeyFlagsMask;
        Ipv4Src: KeyIpv4Src / KeyIpv4SrcMask; Ipv4Dst: KeyIpv4Dst / KeyIpv4DstMask;
        Ipv6Src: KeyIpv6Src / KeyIpv6SrcMask; Ipv6Dst: KeyIpv6Dst / KeyIpv6DstMask;
        SrcPort: KeyTcpSrc | KeyUdpSrc | KeySctpSrc / KeyTcpSrcMask | KeyUdpSrcMask | KeySctpSrcMask;
        DstPort: KeyTcpDst | KeyUdpDst | KeySctpDst / KeyTcpDstMask | KeyUdpDstMask | KeySctpDstMask;
        TcpFlags: KeyTcpFlags / KeyTcpFlagsMask;
        IcmpType: KeyIcmpv4Type | KeyIcmpv6Type / KeyIcmpv4TypeMask | KeyIcmpv6TypeMask;
        IcmpCode: KeyIcmpv4Code | KeyIcmpv6Code / KeyIcmpv4CodeMask | KeyIcmpv6CodeMask;
        L2tpv3Sid: KeyL2tpv3Sid; Spi: KeySpi / KeySpiMask; L2Miss: L2Miss;
        ArpSip: KeyArpSip / KeyArpSipMask; ArpTip: KeyArpTip / KeyArpTipMask; ArpOp: KeyArpOp / KeyArpOpMask;
        ArpSha: KeyArpSha / KeyArpShaMask; ArpTha: KeyArpTha / KeyArpThaMask;
        MplsTc: KeyMplsTc; MplsBos: KeyMplsBos; MplsTtl: KeyMplsTtl;
        EncKeyId: KeyEncKeyId; EncTos: KeyEncIpTos / KeyEncIpTosMask; EncTtl: KeyEncIpTtl / KeyEncIpTtlMask;
        EncIpv4Src: KeyEncIpv4Src / KeyEncIpv4SrcMask; EncIpv4Dst: KeyEncIpv4Dst / KeyEncIpv4DstMask;
        EncIpv6Src: KeyEncIpv6Src / KeyEncIpv6SrcMask; EncIpv6Dst: KeyEncIpv6Dst / KeyEncIpv6DstMask;
        EncSrcPort: KeyEncUdpSrcPort / KeyEncUdpSrcPortMask; EncDstPort: KeyEncUdpDstPort / KeyEncUdpDstPortMask;
        EncFlags: KeyEncFlags / KeyEncFlagsMask;
        CtState: KeyCtState / KeyCtStateMask; CtZone: KeyCtZone / KeyCtZoneMask; CtMark: KeyCtMark / KeyCtMarkMask;
        Hash: KeyHash / KeyHashMask;
    }
}

/// What the ethertypes and addresses tell, of which no attribute speaks by itself; and what the specification has wrong.
pub(super) fn goes_without_saying(field: Field) -> bool {
    use Field::*;
    matches!(field, Protocol | EthType | VlanTpid | CvlanTpid | AddrType | EncAddrType)
        || matches!(field, VlanEthType | CvlanEthType)
        || matches!(field, EncOptsType | EncOptsLen | EncOpts0 | EncOpts1 | EncOpts2 | EncOpts3)
}

fn labels(bytes: &[u8]) -> u128 {
    u128::from_le_bytes(*bytes.first_chunk().expect("sixteen bytes"))
}

pub(super) fn compare(
    options: IterableFlowerAttrs,
    filter: &Filter,
    names: &dyn Names,
    count: &mut Count,
) -> Result<(), String> {
    let m = &filter.matches;
    let (mut said, mut ranges) = (Said::new(), [None; 4]);
    let (mut tunnel, mut tunnel_mask) = (None, None);
    for attribute in options {
        let attribute = match attribute {
            Ok(attribute) => attribute,
            Err(error) => return Err(format!("{error:?}")),
        };
        if plain(attribute.clone(), &mut said) {
            continue;
        }
        let mut put = |field, value| said.entry(field).or_default().0 = Some(value);
        match attribute {
            FlowerAttrs::Indev(name) => put(Field::Indev, names.index(&name.to_string_lossy()).map_or(0, u128::from)),
            FlowerAttrs::KeyEthType(told) => {
                let known = [Field::EthType, Field::VlanTpid, Field::Protocol];
                if !known.into_iter().any(|field| m.key.get(field) == told.into()) {
                    return Err(format!("ethertype {told:#x}"));
                }
            }
            // In the machine's order: the specification has it the other way round.
            FlowerAttrs::KeyVlanId(id) => put(Field::VlanId, u16::from_be(id).into()),
            FlowerAttrs::KeyCvlanId(id) => put(Field::CvlanId, u16::from_be(id).into()),
            FlowerAttrs::KeyMplsLabel(label) => put(Field::MplsLabel, u32::from_be(label).into()),
            FlowerAttrs::KeyCtLabels(bytes) => put(Field::CtLabels, labels(bytes)),
            FlowerAttrs::KeyCtLabelsMask(bytes) => {
                said.entry(Field::CtLabels).or_default().1 = Some(labels(bytes));
            }
            FlowerAttrs::KeyPortSrcMin(port) => ranges[0] = Some(port),
            FlowerAttrs::KeyPortSrcMax(port) => ranges[1] = Some(port),
            FlowerAttrs::KeyPortDstMin(port) => ranges[2] = Some(port),
            FlowerAttrs::KeyPortDstMax(port) => ranges[3] = Some(port),
            FlowerAttrs::KeyEncOpts(options) => tunnel = Some(tunnel_options(options).ok_or("a tunnel's options")?),
            FlowerAttrs::KeyEncOptsMask(options) => tunnel_mask = Some(tunnel_options(options).ok_or("their mask")?),
            FlowerAttrs::KeyMplsOpts(stack) => label_stack(stack.get_buf(), &mut said).ok_or("a label stack")?,
            FlowerAttrs::KeyCfm(parts) => {
                for part in parts.flatten() {
                    match part {
                        FlowerKeyCfmAttrs::MdLevel(level) => put(Field::CfmLevel, level.into()),
                        FlowerKeyCfmAttrs::Opcode(opcode) => put(Field::CfmOpcode, opcode.into()),
                    }
                }
            }
            FlowerAttrs::Flags(flags) if (flags & 1 != 0, flags & 2 != 0) != (filter.skip_hw, filter.skip_sw) => {
                return Err(format!("flags {flags:#x}"));
            }
            FlowerAttrs::Flags(_) | FlowerAttrs::Act(_) | FlowerAttrs::InHwCount(_) | FlowerAttrs::Classid(_) => {}
            _ => return Err("an attribute that is not expected".into()),
        }
    }
    let range = |field: Field| m.ranges().find(|(f, _)| *f == field).map(|(_, range)| (range.min, range.max));
    if [ranges[0].zip(ranges[1]), ranges[2].zip(ranges[3])] != [range(Field::SrcPort), range(Field::DstPort)] {
        return Err(format!("ranges {ranges:?}"));
    }
    for (&field, &(value, mask)) in &said {
        let mask = mask.unwrap_or(u128::MAX) & field.ones();
        if value.map(|value| value & mask) != Some(m.key.get(field)) || mask != m.mask.get(field) {
            return Err(format!("{field} {value:x?} under {mask:#x}"));
        }
        count.fields.insert(field);
        count.terms += 1;
    }
    for (field, ..) in m.terms() {
        let implied = field == Field::Mpls1 && m.mask.get(Field::Mpls1) != 0 && is_old_entry(&said);
        if !said.contains_key(&field) && !goes_without_saying(field) && !implied {
            return Err(format!("only we have {field}"));
        }
    }
    compare_options(m, tunnel, tunnel_mask, count)
}

/// Whether something of the first label's entry is said by itself: then it must be there.
fn is_old_entry(said: &Said) -> bool {
    Field::MPLS[0][1..].iter().any(|field| said.contains_key(field))
}

/// Entries with their depths. The specification has their attributes where the entries are; so each is given to it by itself.
fn label_stack(mut stack: &[u8], said: &mut Said) -> Option<()> {
    while let [a, b, 1, flags, ..] = *stack {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        assert_eq!(flags & 0x3f, 0, "an attribute 1");
        let parts: Vec<_> = FlowerKeyMplsOptAttrs::new(stack.get(4..length)?).collect::<Result<_, _>>().ok()?;
        let depth = parts.iter().find_map(|part| match part {
            FlowerKeyMplsOptAttrs::LseDepth(depth) => Some(usize::from(*depth)),
            _ => None,
        })?;
        let entry = Field::MPLS.get(depth.checked_sub(1)?)?;
        for part in parts {
            let (field, value) = match part {
                FlowerKeyMplsOptAttrs::LseDepth(_) => (entry[0], 1),
                FlowerKeyMplsOptAttrs::LseLabel(label) => (entry[1], label),
                FlowerKeyMplsOptAttrs::LseTc(tc) => (entry[2], tc.into()),
                FlowerKeyMplsOptAttrs::LseBos(bos) => (entry[3], bos.into()),
                FlowerKeyMplsOptAttrs::LseTtl(ttl) => (entry[4], ttl.into()),
            };
            said.entry(field).or_default().0 = Some(value.into());
        }
        stack = &stack[length.next_multiple_of(4).min(stack.len())..];
    }
    Some(())
}

fn compare_options(
    m: &Match,
    told: Option<TunnelOptions>,
    mask: Option<TunnelOptions>,
    count: &mut Count,
) -> Result<(), String> {
    let (ours, told) = match (TunnelOptions::asked(m), told) {
        (None, None) => return Ok(()),
        (Some(ours), Some(told)) => (ours, told),
        other => return Err(format!("options {other:?}")),
    };
    // A key is told as it was asked for, also in what is not compared of it.
    let mask = mask.unwrap_or(TunnelOptions::Vxlan { gbp: u32::MAX });
    let masked = |options: &TunnelOptions| -> Vec<u8> {
        options.bytes().iter().zip(mask.bytes()).map(|(value, mask)| value & mask).collect()
    };
    count.terms += 1;
    count.fields.insert(Field::EncOptsType);
    let same = ours.1 == mask && masked(&ours.0) == masked(&told) && ours.0.kind() == told.kind();
    if same { Ok(()) } else { Err(format!("options {told:?} under {mask:?}")) }
}

fn tunnel_options(options: IterableFlowerKeyEncOptsAttrs) -> Option<TunnelOptions> {
    let mut geneve = Vec::new();
    for option in options {
        match option.ok()? {
            FlowerKeyEncOptsAttrs::Geneve(parts) => {
                let (mut class, mut kind) = (0, 0);
                for part in parts {
                    match part.ok()? {
                        // Big-endian, which the specification does not say; so the index below.
                        FlowerKeyEncOptGeneveAttrs::Class(told) => class = u16::from_be(told),
                        FlowerKeyEncOptGeneveAttrs::Type(told) => kind = told,
                        FlowerKeyEncOptGeneveAttrs::Data(data) => {
                            geneve.push(GeneveOption { class, kind, data: data.to_vec() });
                        }
                    }
                }
            }
            FlowerKeyEncOptsAttrs::Vxlan(mut parts) => {
                let FlowerKeyEncOptVxlanAttrs::Gbp(gbp) = parts.next()?.ok()?;
                return Some(TunnelOptions::Vxlan { gbp });
            }
            FlowerKeyEncOptsAttrs::Erspan(parts) => {
                let (mut version, mut index, mut dir, mut hwid) = (0, 0, 0, 0);
                for part in parts {
                    match part.ok()? {
                        FlowerKeyEncOptErspanAttrs::Ver(told) => version = told,
                        FlowerKeyEncOptErspanAttrs::Index(told) => index = u32::from_be(told),
                        FlowerKeyEncOptErspanAttrs::Dir(told) => dir = told,
                        FlowerKeyEncOptErspanAttrs::Hwid(told) => hwid = told,
                    }
                }
                let hardware = Erspan::Hardware { dir, hwid };
                return Some(TunnelOptions::Erspan(if version == 1 { Erspan::Index(index) } else { hardware }));
            }
            FlowerKeyEncOptsAttrs::Gtp(parts) => {
                let (mut pdu_type, mut qfi) = (0, 0);
                for part in parts {
                    match part.ok()? {
                        FlowerKeyEncOptGtpAttrs::PduType(told) => pdu_type = told,
                        FlowerKeyEncOptGtpAttrs::Qfi(told) => qfi = told,
                    }
                }
                return Some(TunnelOptions::Gtp { pdu_type, qfi });
            }
        }
    }
    Some(TunnelOptions::Geneve(geneve))
}
