//! The words of a `pedit`. tc shows them as they are, a number under a mask; we name the fields that they write, and join what
//! several words write of one field. Both are brought down to what is done to each bit.
//!
//! iproute2 does not show that a word lies where a byte of the packet says (`at`, `offmask`, `shift`); so that is not compared.
//!
//! Bits that are set are gathered from word to word, each with all that is written to it, in order; no order among different bits
//! is kept, as none matters. Anything else (an addition, bits that are flipped, a word that does nothing) stands for itself and ends the gathering.

use super::Members;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

/// A step of a rewrite.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rewrite {
    /// Of each bit, by header and place in it, what it is set to, one value after the other.
    Set(BTreeMap<(String, i64), Vec<bool>>),
    /// A byte grows by that much.
    AddByte { header: String, at: i64, value: u32 },
    /// A word, as it is.
    Word { header: String, offset: i64, add: bool, value: u32, mask: u32 },
}

/// Gathers steps.
#[derive(Default)]
struct Gathered(Vec<Rewrite>);

impl Gathered {
    fn set(&mut self, header: &str, bit: i64, value: bool) {
        if !matches!(self.0.last(), Some(Rewrite::Set(_))) {
            self.0.push(Rewrite::Set(BTreeMap::new()));
        }
        if let Some(Rewrite::Set(bits)) = self.0.last_mut() {
            bits.entry((header.to_owned(), bit)).or_default().push(value);
        }
    }

    /// Bits of `value`, the `width` last, where `mask` has them, from bit `bit` of the header on.
    fn set_bits(&mut self, header: &str, bit: i64, width: u32, value: u128, mask: u128) {
        for i in (0..width).filter(|i| mask >> (width - 1 - i) & 1 == 1) {
            self.set(header, bit + i64::from(i), value >> (width - 1 - i) & 1 == 1);
        }
    }

    /// A word: the bits of `mask` stay.
    fn word(&mut self, header: &str, offset: i64, add: bool, value: u32, mask: u32) {
        let changed = !mask;
        // A whole byte, and nothing else.
        let byte = (0..4).find(|i| changed == 0xff00_0000 >> (8 * i));
        match byte {
            Some(byte) if add && value & mask == 0 => {
                let value = value >> (24 - 8 * byte);
                self.0.push(Rewrite::AddByte { header: header.to_owned(), at: offset + byte, value });
            }
            _ if !add && value & mask == 0 && changed != 0 => {
                self.set_bits(header, 8 * offset, 32, value.into(), changed.into());
            }
            _ => self.0.push(Rewrite::Word { header: header.to_owned(), offset, add, value, mask }),
        }
    }
}

/// tc's words. `None` if they are not understood.
pub(super) fn of_tc(action: &mut Members) -> Option<Vec<Rewrite>> {
    let Value::Array(keys) = action.take("keys")? else { return None };
    let mut all = Gathered::default();
    for key in &keys {
        let text = |name| key.get(name).and_then(Value::as_str);
        let number = |name| u32::from_str_radix(text(name)?, 16).ok();
        let add = match text("cmd")? {
            "set" => false,
            "add" => true,
            _ => return None,
        };
        all.word(text("htype")?, key.get("offset")?.as_i64()?, add, number("val")?, number("mask")?);
    }
    Some(all.0)
}

/// What we print behind `pedit ex `, and how it goes on.
pub(super) fn of_ours(text: &str) -> Option<(Vec<Rewrite>, String)> {
    let mut all = Gathered::default();
    let mut rest = Vec::new();
    for munge in text.strip_prefix("munge ")?.split(" munge ") {
        if !rest.is_empty() {
            return None;
        }
        let words: Vec<&str> = munge.split(' ').collect();
        rest = all.munge(&words)?.to_vec();
    }
    Some((all.0, rest.join(" ")))
}

impl Gathered {
    /// One munge of ours; the words behind it.
    fn munge<'a, 'w>(&mut self, words: &'w [&'a str]) -> Option<&'w [&'a str]> {
        match words {
            ["offset", offset, "u32", "set", value, "retain", changed, rest @ ..] => {
                self.word("network", offset.parse().ok()?, false, hex(value)?, !hex(changed)?);
                Some(rest)
            }
            [header, field, "add", value, rest @ ..] => {
                let (name, bit, _, _) = find(header, field)?;
                self.0.push(Rewrite::AddByte { header: name.to_owned(), at: bit / 8, value: value.parse().ok()? });
                Some(rest)
            }
            [header, field, "set", value, rest @ ..] => {
                let (name, bit, width, read) = find(header, field)?;
                let (mask, rest) = match rest {
                    ["retain", mask, rest @ ..] => (u128::from_str_radix(mask.strip_prefix("0x")?, 16).ok()?, rest),
                    rest => (u128::MAX, rest),
                };
                self.set_bits(name, bit, width, read(value)?, mask);
                Some(rest)
            }
            [place, words @ ..] => {
                // tc does not show the byte of the packet that says where; so it is not looked at.
                let (place, words) = match (place.strip_suffix(':'), words) {
                    (Some(place), words) => (place, words),
                    (None, ["at", _, "offmask", _, "shift", shift, words @ ..]) if shift.ends_with(':') => {
                        (*place, words)
                    }
                    _ => return None,
                };
                let [verb @ ("val" | "add"), value, "mask", mask, rest @ ..] = words else { return None };
                let sign = place.find(['+', '-'])?;
                let (header, offset) = place.split_at(sign);
                let number = |text| u32::from_str_radix(text, 16).ok();
                self.word(header, offset.parse().ok()?, *verb == "add", number(value)?, number(mask)?);
                Some(rest)
            }
            [] => None,
        }
    }
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

type Read = fn(&str) -> Option<u128>;

/// A field of a header (`man tc-pedit`): the header's name in tc's JSON, the field's first bit, its width, how values are written.
fn find(header: &str, field: &str) -> Option<(&'static str, i64, u32, Read)> {
    let decimal: Read = |text| text.parse().ok();
    let hexadecimal: Read = |text| u128::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let mac: Read = |text| {
        let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
        (bytes.len() == 6).then(|| bytes.iter().fold(0, |all, &byte| all << 8 | u128::from(byte)))
    };
    let ipv4: Read = |text| Some(text.parse::<Ipv4Addr>().ok()?.to_bits().into());
    let ipv6: Read = |text| Some(text.parse::<Ipv6Addr>().ok()?.to_bits());
    Some(match (header, field) {
        ("eth", "dst") => ("eth", 0, 48, mac),
        ("eth", "src") => ("eth", 48, 48, mac),
        ("eth", "type") => ("eth", 96, 16, hexadecimal),
        ("ip", "tos") => ("ipv4", 8, 8, hexadecimal),
        ("ip", "ttl") => ("ipv4", 64, 8, decimal),
        ("ip", "protocol") => ("ipv4", 72, 8, decimal),
        ("ip", "src") => ("ipv4", 96, 32, ipv4),
        ("ip", "dst") => ("ipv4", 128, 32, ipv4),
        ("ip6", "traffic_class") => ("ipv6", 4, 8, hexadecimal),
        ("ip6", "flow_lbl") => ("ipv6", 12, 20, hexadecimal),
        ("ip6", "payload_len") => ("ipv6", 32, 16, decimal),
        ("ip6", "nexthdr") => ("ipv6", 48, 8, decimal),
        ("ip6", "hoplimit") => ("ipv6", 56, 8, decimal),
        ("ip6", "src") => ("ipv6", 64, 128, ipv6),
        ("ip6", "dst") => ("ipv6", 192, 128, ipv6),
        ("tcp" | "udp", "sport") => (if header == "tcp" { "tcp" } else { "udp" }, 0, 16, decimal),
        ("tcp" | "udp", "dport") => (if header == "tcp" { "tcp" } else { "udp" }, 16, 16, decimal),
        ("tcp", "flags") => ("tcp", 104, 8, hexadecimal),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// tc's words: header, offset, command, value, mask.
    fn tc(keys: &[(&str, i64, &str, &str, &str)]) -> Vec<Rewrite> {
        let keys: Vec<Value> = keys
            .iter()
            .map(|(htype, offset, cmd, val, mask)| {
                serde_json::json!({"htype": htype, "offset": offset, "cmd": cmd, "val": val, "mask": mask})
            })
            .collect();
        of_tc(&mut Members(vec![("keys".into(), Value::Array(keys))])).unwrap()
    }

    fn ours(text: &str) -> Vec<Rewrite> {
        let (rewrites, goes_on) = of_ours(&format!("{text} goto chain 3")).unwrap();
        assert_eq!(goes_on, "goto chain 3");
        rewrites
    }

    #[test]
    fn words_and_fields_come_to_the_same() {
        for (words, text) in [
            (&[("ipv4", 12, "set", "1020304", "0")][..], "munge ip src set 1.2.3.4"),
            (&[("ipv4", 0, "set", "b80000", "ff03ffff")], "munge ip tos set 0xb8 retain 0xfc"),
            (&[("tcp", 0, "set", "3e80050", "0")], "munge tcp sport set 1000 munge tcp dport set 80"),
            // Two words of one field, and one of two.
            (
                &[("eth", 0, "set", "2000000", "0"), ("eth", 4, "set", "10200", "0"), ("eth", 8, "set", "2", "0")],
                "munge eth dst set 02:00:00:00:00:01 munge eth src set 02:00:00:00:00:02",
            ),
            (&[("ipv6", 4, "add", "ff", "ffffff00")], "munge ip6 hoplimit add 255"),
            (&[("network", 12, "set", "1", "ffffff00")], "munge offset 12 u32 set 0x00000001 retain 0x000000ff"),
            (&[("tcp", 0, "add", "1", "0")], "munge tcp+0: add 00000001 mask 00000000"),
            (&[("ipv4", -4, "set", "ff", "ffffffff")], "munge ipv4-4: val 000000ff mask ffffffff"),
            (
                &[("network", 20, "set", "1", "ffffff00")],
                "munge network+20 at 0 offmask 0xf shift 2: val 00000001 mask ffffff00",
            ),
        ] {
            assert_eq!(tc(words), ours(text), "{text}");
        }
    }

    #[test]
    fn the_order_counts_where_it_matters() {
        let twice = tc(&[("ipv4", 12, "set", "1", "0"), ("ipv4", 12, "set", "2", "0")]);
        assert_eq!(twice, ours("munge ip src set 0.0.0.1 munge ip src set 0.0.0.2"));
        assert_ne!(twice, ours("munge ip src set 0.0.0.2 munge ip src set 0.0.0.1"));
        assert_ne!(twice, ours("munge ip src set 0.0.0.2"));
        assert_ne!(ours("munge ip ttl add 255 munge ip ttl set 7"), ours("munge ip ttl set 7 munge ip ttl add 255"));
        assert_eq!(ours("munge ip ttl set 7 munge ip tos set 0x1"), ours("munge ip tos set 0x1 munge ip ttl set 7"));
    }

    #[test]
    fn what_is_not_understood_is_none() {
        for text in [
            "munge ip name set 1 pipe",
            "munge tcp sport set x pipe",
            "munge ip src 1.2.3.4 pipe",
            "munge pipe munge ip ttl set 1 pipe",
        ] {
            assert!(of_ours(text).is_none(), "{text}");
        }
        assert!(of_ours("munge ip ttl set 1 pipe munge ip ttl set 1 pipe").is_none(), "a control in the middle");
    }
}
