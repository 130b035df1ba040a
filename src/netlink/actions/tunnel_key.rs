//! `tunnel_key` (`net/sched/act_tunnel_key.c`, `include/uapi/linux/tc_act/tc_tunnel_key.h`).

use super::{Options, PARMS, parameters, unknown, word, wrong};
use crate::{
    flower::{
        ActionKind,
        action::TunnelKey,
        tunnel::{Erspan, GeneveOption, Tunnel, TunnelFlags, TunnelOptions},
    },
    netlink::{
        attributes::{Attribute, Attributes},
        error::DecodeError,
        options::{self, GBP_MASK, OptionParts},
    },
};
use std::net::IpAddr;

const IPV4_SRC: u16 = 3;
const IPV4_DST: u16 = 4;
const IPV6_SRC: u16 = 5;
const IPV6_DST: u16 = 6;
const KEY_ID: u16 = 7;
const DST_PORT: u16 = 9;
const NO_CSUM: u16 = 10;
const OPTS: u16 = 11;
const TOS: u16 = 12;
const TTL: u16 = 13;
/// From Linux 6.3 on.
const NO_FRAG: u16 = 14;

const SET: u32 = 1;
const RELEASE: u32 = 2;

/// Most bytes of options, in the kernel.
const MOST: usize = 255;

pub(super) fn decode(options: &Attributes) -> Result<Options, DecodeError> {
    let (generic, parameters) = parameters::<24>(options, PARMS)?;
    let mut undecoded = unknown("tunnel_key", options, NO_FRAG);
    let key = match word(&parameters, 20) {
        SET => TunnelKey::Set(Box::new(tunnel(options, &mut undecoded)?)),
        RELEASE => TunnelKey::Unset,
        other => return Err(wrong("act_tunnel_key", other, "1 or 2, set or unset")),
    };
    Ok(Options { kind: ActionKind::TunnelKey(key), generic, undecoded })
}

fn tunnel(options: &Attributes, undecoded: &mut Vec<String>) -> Result<Tunnel, DecodeError> {
    let (src, dst) = match (options.array::<4>(IPV4_SRC)?, options.array::<4>(IPV4_DST)?) {
        (Some(src), Some(dst)) => (src.into(), dst.into()),
        _ => match (options.array::<16>(IPV6_SRC)?, options.array::<16>(IPV6_DST)?) {
            (Some(src), Some(dst)) => (src.into(), dst.into()),
            _ => (options.need::<4>(IPV4_SRC)?.into(), options.need::<4>(IPV4_DST)?.into()),
        },
    };
    let mut flags = TunnelFlags::empty();
    flags.set(TunnelFlags::CSUM, options.u8(NO_CSUM)?.unwrap_or(0) == 0);
    flags.set(TunnelFlags::DONT_FRAGMENT, options.has_any(&[NO_FRAG]));
    let told = match options.nested(OPTS, "TCA_TUNNEL_KEY_ENC_OPTS")? {
        Some(nest) => whole(&options::read(&nest, true)?).unwrap_or_else(|| {
            undecoded.push("act_tunnel_key options".into());
            TunnelOptions::None
        }),
        None => TunnelOptions::None,
    };
    Ok(Tunnel {
        id: options.u32_be(KEY_ID)?,
        src,
        dst,
        src_port: 0,
        dst_port: options.u16_be(DST_PORT)?.unwrap_or(0),
        tos: options.u8(TOS)?.unwrap_or(0),
        ttl: options.u8(TTL)?.unwrap_or(0),
        flags,
        options: told,
    })
}

/// Options of which everything is said, as the kernel keeps them.
fn whole(parts: &[OptionParts]) -> Option<TunnelOptions> {
    Some(match parts {
        [OptionParts::Vxlan { gbp }] => TunnelOptions::Vxlan { gbp: (*gbp)? & GBP_MASK },
        [OptionParts::Erspan { version: Some(1), index, .. }] => TunnelOptions::Erspan(Erspan::Index((*index)?)),
        [OptionParts::Erspan { version: Some(2), dir, hwid, .. }] => {
            TunnelOptions::Erspan(Erspan::Hardware { dir: (*dir)? & 1, hwid: (*hwid)? & 0x3f })
        }
        [OptionParts::Geneve { .. }, ..] => {
            let option = |part: &OptionParts| match part {
                OptionParts::Geneve { class: Some(class), kind: Some(kind), data: Some(data) } => {
                    options::is_length(data.len()).then(|| GeneveOption {
                        class: *class,
                        kind: *kind,
                        data: data.clone(),
                    })
                }
                _ => None,
            };
            TunnelOptions::Geneve(parts.iter().map(option).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

pub(super) fn encode(key: &TunnelKey, mut parameters: Vec<u8>) -> Result<Vec<Attribute>, &'static str> {
    let tunnel = match key {
        TunnelKey::Set(tunnel) => tunnel,
        TunnelKey::Unset => {
            parameters.extend(RELEASE.to_ne_bytes());
            return Ok(vec![Attribute::new(PARMS, parameters)]);
        }
    };
    parameters.extend(SET.to_ne_bytes());
    let mut out = vec![Attribute::new(PARMS, parameters)];
    match (tunnel.src, tunnel.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            out.extend([Attribute::new(IPV4_SRC, src.octets()), Attribute::new(IPV4_DST, dst.octets())]);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            out.extend([Attribute::new(IPV6_SRC, src.octets()), Attribute::new(IPV6_DST, dst.octets())]);
        }
        _ => return Err("a tunnel from IPv4 to IPv6 or back"),
    }
    out.extend(tunnel.id.map(|id| Attribute::new(KEY_ID, id.to_be_bytes())));
    if tunnel.dst_port != 0 {
        out.push(Attribute::new(DST_PORT, tunnel.dst_port.to_be_bytes()));
    }
    out.push(Attribute::new(NO_CSUM, [u8::from(!tunnel.flags.contains(TunnelFlags::CSUM))]));
    if tunnel.flags.contains(TunnelFlags::DONT_FRAGMENT) {
        return Err("Linux 6.1 would leave out, without a word, that the packet is not to be fragmented");
    }
    for (kind, value) in [(TOS, tunnel.tos), (TTL, tunnel.ttl)] {
        if value != 0 {
            out.push(Attribute::new(kind, [value]));
        }
    }
    if tunnel.options.bytes().len() > MOST {
        return Err("options of more than 255 bytes");
    }
    if matches!(tunnel.options, TunnelOptions::Gtp { .. }) {
        return Err("the kernel sets no options of GTP");
    }
    if tunnel.options != TunnelOptions::None {
        out.push(options::write(OPTS, &options::parts(&tunnel.options)));
    }
    Ok(out)
}
