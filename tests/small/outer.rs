//! What a tunnel device took off a packet, by the parts that say so.

use crate::{
    part::Part,
    rng::Rng,
    universe::{Spec, host},
};
use flowmerge::flower::{
    Field, Match,
    action::TunnelKey,
    field::addr_type,
    tunnel::{Erspan, GeneveOption, Tunnel, TunnelFlags, TunnelOptions, option_field},
};

/// The fixed bits of a tunnel's identifier: the free ones are the lowest two.
pub const ID: u32 = 0x50;
/// The fixed bits of its UDP destination port.
pub const PORT: u16 = 0x17c0;
/// How many kinds of options there are, none included.
pub const KINDS: u32 = 12;
/// More of them than universes have begin here, 64.
pub const ODD: u32 = 16;

/// Options of that kind, with some bits of data. Their lengths have bits in common: of one that is asked for, flower looks at the
/// bits that are set in it.
pub fn options(kind: u32, data: u32) -> TunnelOptions {
    let geneve = |kind: u8, words: u8, last: u32| {
        let mut data = vec![0; usize::from(words) * 4];
        data.iter_mut().skip(3).step_by(4).for_each(|byte| *byte = last as u8);
        GeneveOption { class: 0x0102, kind, data }
    };
    match kind {
        // 4, 8, 12, 16, 16 and 20 bytes.
        1 => TunnelOptions::Geneve(vec![geneve(data as u8 & 3, 0, 0)]),
        2 => TunnelOptions::Geneve(vec![geneve(0, 1, data)]),
        3 => TunnelOptions::Geneve(vec![geneve(0, 2, data)]),
        4 => TunnelOptions::Geneve(vec![geneve(0, 3, data)]),
        5 => TunnelOptions::Geneve(vec![geneve(0, 1, 0), geneve(1, 1, data)]),
        6 => TunnelOptions::Geneve(vec![geneve(0, 1, data), geneve(1, 2, data)]),
        7 => TunnelOptions::Vxlan { gbp: data },
        8 => TunnelOptions::Erspan(Erspan::Index(data)),
        9 => TunnelOptions::Erspan(Erspan::Hardware { dir: data as u8 & 1, hwid: data as u8 >> 1 }),
        // Bytes that ERSPAN has as well.
        11 => TunnelOptions::Geneve(vec![
            GeneveOption { class: 0, kind: 0, data: data.to_be_bytes().to_vec() },
            GeneveOption { class: 0, kind: 0, data: Vec::new() },
        ]),
        10 => TunnelOptions::Gtp { pdu_type: data as u8 & 1, qfi: data as u8 >> 1 },
        // No universe has these: up to three of Geneve's of any lengths, with bits that the others have not.
        ODD.. => {
            let byte = if data & 1 == 0 { 0xff } else { 0 };
            let lengths = [0, 2, 4].map(|at| usize::from((kind - ODD) as u8 >> at & 3));
            let option = |words: usize| GeneveOption { class: byte.into(), kind: byte, data: vec![byte; words * 4] };
            TunnelOptions::Geneve(lengths.into_iter().take(1 + data as usize / 2).map(option).collect())
        }
        _ => TunnelOptions::None,
    }
}

impl Spec {
    /// The tunnel that the packet came through.
    pub fn tunnel(&self) -> Option<Tunnel> {
        let part = |part: Part| self.get(part);
        let v6 = match part(Part::Outer) {
            0 => return None,
            kind => kind == 6,
        };
        Some(Tunnel {
            id: Some(part(Part::EncId)),
            src: host(v6, part(Part::EncSrc) as u8),
            dst: host(v6, part(Part::EncDst) as u8),
            src_port: 0,
            dst_port: part(Part::EncPort) as u16,
            tos: part(Part::EncTos) as u8,
            ttl: part(Part::EncTtl) as u8,
            flags: TunnelFlags::from_bits_truncate(part(Part::EncFlags) as u8),
            options: options(part(Part::Options), part(Part::Data)),
        })
    }
}

/// Any action `tunnel_key`.
pub fn tunnel_key(rng: &mut Rng) -> TunnelKey {
    if rng.chance(40) {
        return TunnelKey::Unset;
    }
    let v6 = rng.chance(25);
    let flags = rng.pick(&[TunnelFlags::empty(), TunnelFlags::CSUM, TunnelFlags::DONT_FRAGMENT]);
    TunnelKey::Set(Box::new(Tunnel {
        id: rng.chance(90).then(|| ID | rng.below(4)),
        src: host(v6, rng.below(4) as u8),
        dst: host(v6, rng.below(4) as u8),
        src_port: 0,
        dst_port: PORT | rng.below(2) as u16,
        tos: rng.pick(&[0, 4, 0x20]),
        ttl: rng.pick(&[0, 64, 66]),
        flags,
        options: options(if rng.chance(40) { 0 } else { rng.below(KINDS) }, rng.below(4)),
    }))
}

/// Compares some of what is known of a tunnel, with values that packets of these kinds of options have.
pub fn terms(rng: &mut Rng, m: &mut Match, kinds: &[u32]) {
    let low = |rng: &mut Rng| u128::from(rng.below(4));
    for _ in 0..rng.pick(&[1, 1, 1, 2, 2, 3]) {
        match rng.below(12) {
            0..4 => m.set(Field::EncKeyId, u128::from(ID) | low(rng), Field::EncKeyId.ones()),
            4 | 5 => {
                let v6 = rng.chance(30);
                let (kind, wide) = if v6 { (addr_type::IPV6, 0xfd << 120) } else { (addr_type::IPV4, 0x0a00_0000) };
                let field = match (v6, rng.chance(40)) {
                    (false, true) => Field::EncIpv4Src,
                    (false, false) => Field::EncIpv4Dst,
                    (true, true) => Field::EncIpv6Src,
                    (true, false) => Field::EncIpv6Dst,
                };
                [Field::EncIpv4Src, Field::EncIpv4Dst, Field::EncIpv6Src, Field::EncIpv6Dst]
                    .into_iter()
                    .for_each(|f| m.clear(f));
                m.set(Field::EncAddrType, kind, 0xffff);
                let mask = rng.pick(&[u128::MAX, 3, 1, 2]);
                if rng.chance(80) {
                    m.set(field, (wide | low(rng)) & mask, mask & field.ones());
                }
            }
            6 => m.set(Field::EncDstPort, u128::from(PORT) | low(rng) & 1, rng.pick(&[0xffff, 1])),
            7 => {
                let mask = rng.pick(&[0xff, 4, 0x20]);
                m.set(Field::EncTos, rng.pick(&[0, 4, 0x20, 0x24]) & mask, mask);
            }
            8 => m.set(Field::EncTtl, rng.pick(&[0, 64, 66]), rng.pick(&[0xff, 0xff])),
            9 => {
                let mask = rng.pick(&[4, 8, 12]);
                m.set(Field::EncFlags, rng.pick(&[0, 4, 8, 12]) & mask, mask);
            }
            _ => asked_options(rng, m, kinds),
        }
    }
}

/// Options as flower asks for them: length and kind under themselves, of Geneve's own lengths the bits that are set.
fn asked_options(rng: &mut Rng, m: &mut Match, kinds: &[u32]) {
    let kind = if rng.chance(15) { rng.below(KINDS) } else { rng.pick(kinds) };
    let options = options(kind, rng.below(4));
    let bytes = options.bytes();
    // Flower asks for none of Geneve's without data.
    if kind <= 1 {
        return;
    }
    let last = rng.pick(&[0xff, 0xff, 3, 1, 2, 0]);
    let mut mask = vec![0xff; bytes.len()];
    if let Some(byte) = mask.last_mut() {
        *byte = last;
    }
    if let TunnelOptions::Geneve(all) = &options {
        let class = rng.pick(&[0xff, 0xff, 0]);
        let mut at = 0;
        for option in all {
            mask[at] = class;
            mask[at + 1] = class;
            mask[at + 2] = rng.pick(&[0xff, 0xff, 1, 0]);
            mask[at + 3] = bytes[at + 3];
            at += 4 + option.data.len();
        }
    }
    let len = bytes.len() as u128;
    [Field::EncOptsLen, Field::EncOptsType].into_iter().chain(Field::OPTIONS).for_each(|field| m.clear(field));
    m.set(Field::EncOptsLen, len, len);
    m.set(Field::EncOptsType, options.kind(), options.kind());
    for (i, field) in Field::OPTIONS.into_iter().enumerate() {
        let mask = option_field(&mask, i);
        m.set(field, option_field(&bytes, i) & mask, mask);
    }
}
