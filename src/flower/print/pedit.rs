//! The words of a `pedit` as writes to header fields where they are that.

use super::fields::{ipv4, ipv6, mac};
use crate::flower::action::{
    Pedit,
    PeditHeader::{self, Ethernet, Ipv4, Ipv6, Network, Tcp, Udp},
    PeditKey,
};

/// A field that `tc` can munge by name.
#[derive(Debug)]
struct Munged {
    header: PeditHeader,
    name: &'static str,
    /// Bits from the start of the header.
    bit: u32,
    bits: u32,
    write: fn(u128) -> String,
}

const fn munged(header: PeditHeader, name: &'static str, bit: u32, bits: u32, write: fn(u128) -> String) -> Munged {
    Munged { header, name, bit, bits, write }
}

/// The field names of `man tc-pedit`.
const FIELDS: &[Munged] = &[
    munged(Ethernet, "eth dst", 0, 48, mac),
    munged(Ethernet, "eth src", 48, 48, mac),
    munged(Ethernet, "eth type", 96, 16, hex),
    munged(Ipv4, "ip tos", 8, 8, hex),
    munged(Ipv4, "ip ttl", 64, 8, decimal),
    munged(Ipv4, "ip protocol", 72, 8, decimal),
    munged(Ipv4, "ip src", 96, 32, ipv4),
    munged(Ipv4, "ip dst", 128, 32, ipv4),
    munged(Ipv6, "ip6 traffic_class", 4, 8, hex),
    munged(Ipv6, "ip6 flow_lbl", 12, 20, hex),
    munged(Ipv6, "ip6 payload_len", 32, 16, decimal),
    munged(Ipv6, "ip6 nexthdr", 48, 8, decimal),
    munged(Ipv6, "ip6 hoplimit", 56, 8, decimal),
    munged(Ipv6, "ip6 src", 64, 128, ipv6),
    munged(Ipv6, "ip6 dst", 192, 128, ipv6),
    munged(Tcp, "tcp sport", 0, 16, decimal),
    munged(Tcp, "tcp dport", 16, 16, decimal),
    munged(Tcp, "tcp flags", 104, 8, hex),
    munged(Udp, "udp sport", 0, 16, decimal),
    munged(Udp, "udp dport", 16, 16, decimal),
];

fn decimal(value: u128) -> String {
    value.to_string()
}

fn hex(value: u128) -> String {
    format!("{value:#x}")
}

/// A munge in the making.
enum Munge {
    /// Bits of a field are set; further keys may join.
    Set { field: &'static Munged, value: u128, mask: u128 },
    /// Anything else.
    Text(String),
}

/// What follows each `munge`.
pub(super) fn munges(pedit: &Pedit) -> Vec<String> {
    let mut all: Vec<Munge> = Vec::new();
    for key in &pedit.keys {
        let Some(pieces) = pieces(key) else {
            all.push(Munge::Text(added(key).unwrap_or_else(|| raw(key))));
            continue;
        };
        for (field, value, mask) in pieces {
            // Bits of one field set by several keys are one munge: nothing in between looks at them.
            let open = all.iter_mut().rev().take_while(|m| matches!(m, Munge::Set { .. }));
            let same = open.filter_map(|m| match m {
                Munge::Set { field: f, value, mask } if std::ptr::eq(*f, field) => Some((value, mask)),
                _ => None,
            });
            match same.into_iter().next() {
                Some((v, m)) if *m & mask == 0 => {
                    *v |= value;
                    *m |= mask;
                }
                _ => all.push(Munge::Set { field, value, mask }),
            }
        }
    }
    all.into_iter().map(Munge::text).collect()
}

impl Munge {
    fn text(self) -> String {
        match self {
            Munge::Text(text) => text,
            Munge::Set { field, value, mask } => {
                let set = format!("{} set {}", field.name, (field.write)(value));
                match mask {
                    all if all.count_ones() == field.bits => set,
                    _ => format!("{set} retain {mask:#x}"),
                }
            }
        }
    }
}

/// The bits that a key writes, field by field; `None` unless it sets bits that all belong to fields.
fn pieces(key: &PeditKey) -> Option<Vec<(&'static Munged, u128, u128)>> {
    let (kept, value) = (u32::from_be_bytes(key.mask), u32::from_be_bytes(key.value));
    let start = u32::try_from(key.offset).ok()?.checked_mul(8)?;
    if key.add || key.dynamic.is_some() || value & kept != 0 || kept == u32::MAX {
        return None;
    }
    let mut pieces: Vec<(&'static Munged, u128, u128)> = Vec::new();
    for i in (0..32).filter(|i| kept >> (31 - i) & 1 == 0) {
        let bit = start.checked_add(i)?;
        let mut fields = FIELDS.iter().filter(|f| f.header == key.header);
        let field = fields.find(|f| (f.bit..f.bit + f.bits).contains(&bit))?;
        let shift = field.bit + field.bits - 1 - bit;
        if pieces.last().is_none_or(|(last, ..)| !std::ptr::eq(*last, field)) {
            pieces.push((field, 0, 0));
        }
        if let Some((_, v, m)) = pieces.last_mut() {
            *v |= u128::from(value >> (31 - i) & 1) << shift;
            *m |= 1 << shift;
        }
    }
    Some(pieces)
}

/// An addition to a field of one byte; nothing carries out of it.
fn added(key: &PeditKey) -> Option<String> {
    if !key.add || key.dynamic.is_some() {
        return None;
    }
    let byte = (0..4).find(|&i| key.mask[i] != 0xff)?;
    let others = (0..4).filter(|&i| i != byte);
    let alone = others.into_iter().all(|i| key.mask[i] == 0xff && key.value[i] == 0);
    let bit = u32::try_from(key.offset).ok()?.checked_add(byte as u32)?.checked_mul(8)?;
    let mut fields = FIELDS.iter().filter(|f| f.header == key.header);
    let field = fields.find(|f| (f.bit, f.bits) == (bit, 8))?;
    (alone && key.mask[byte] == 0).then(|| format!("{} add {}", field.name, key.value[byte]))
}

/// A word, as `tc filter show` writes it where `tc filter add` cannot say it.
fn raw(key: &PeditKey) -> String {
    let PeditKey { header, offset, add, .. } = *key;
    let (mask, value) = (u32::from_be_bytes(key.mask), u32::from_be_bytes(key.value));
    if header == Network && !add && key.dynamic.is_none() && value & mask == 0 {
        return format!("offset {offset} u32 set {value:#010x} retain {:#010x}", !mask);
    }
    let header = match header {
        Network => "network",
        Ethernet => "eth",
        Ipv4 => "ipv4",
        Ipv6 => "ipv6",
        Tcp => "tcp",
        Udp => "udp",
    };
    let verb = if add { "add" } else { "val" };
    let at = key.dynamic.map_or(String::new(), |d| format!(" at {} offmask {:#x} shift {}", d.at, d.mask, d.shift));
    format!("{header}{offset:+}{at}: {verb} {value:08x} mask {mask:08x}")
}
