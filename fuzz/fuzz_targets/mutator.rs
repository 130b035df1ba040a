//! Mutations of what has lengths in it: netlink messages here, the blocks of a pcapng file in `blocks`.
//!
//! libFuzzer changes bytes. Most changes break some length, and a message with a wrong length is refused before anything else of
//! it is looked at. So most mutations here take the input apart, change a part, and put it together again with its lengths;
//! the others are libFuzzer's own.

use libfuzzer_sys::fuzzer_mutate;

/// Dice.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u32) -> Dice {
        Dice(u64::from(seed) << 1 | 1)
    }

    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }
}

/// libFuzzer's own mutation.
pub fn bytes(data: &mut Vec<u8>) {
    let (size, most) = (data.len(), data.len().max(4) * 2);
    data.resize(most, 0);
    let size = fuzzer_mutate(data, size, most);
    data.truncate(size);
}

/// Changes a list: one part gone, twice there, moved, or changed by `change`.
pub fn list<T: Clone>(parts: &mut Vec<T>, dice: &mut Dice, change: impl FnOnce(&mut T, &mut Dice)) {
    if parts.is_empty() {
        return;
    }
    let (at, other) = (dice.below(parts.len()), dice.below(parts.len()));
    match dice.below(10) {
        0 => drop(parts.remove(at)),
        1 => parts.insert(other, parts[at].clone()),
        2 => parts.swap(at, other),
        _ => change(&mut parts[at], dice),
    }
}

/// A netlink attribute.
#[derive(Clone)]
struct Attribute {
    kind: u16,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Bytes(Vec<u8>),
    Nest(Vec<Attribute>),
}

const NESTED: u16 = 0x8000;
/// Neither nested nor in network order.
const KIND: u16 = 0x3fff;

/// Bytes as attributes, if they can be read so to their end. `deep` is how many nests there may be in each other.
fn attributes(mut bytes: &[u8], deep: u32) -> Option<Vec<Attribute>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let &[l0, l1, k0, k1, ..] = bytes else { return None };
        let (length, kind) = (usize::from(u16::from_ne_bytes([l0, l1])), u16::from_ne_bytes([k0, k1]));
        let value = bytes.get(4..length)?;
        // The kernel's numbers are small: what has large ones is a value that looks like attributes.
        if kind & KIND > 255 {
            return None;
        }
        let nest = if deep > 0 && !value.is_empty() { attributes(value, deep - 1) } else { None };
        all.push(Attribute { kind, value: nest.map_or_else(|| Value::Bytes(value.to_vec()), Value::Nest) });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(all)
}

fn emit(all: &[Attribute], out: &mut Vec<u8>) {
    for Attribute { kind, value } in all {
        let start = out.len();
        out.extend([0; 4]);
        match value {
            Value::Bytes(bytes) => out.extend(bytes),
            Value::Nest(nest) => emit(nest, out),
        }
        let length = (out.len() - start) as u16;
        out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        out[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

fn mutate_attributes(all: &mut Vec<Attribute>, dice: &mut Dice) {
    if dice.below(12) == 0 {
        let sizes = [0, 1, 2, 4, 4, 6, 8, 16, 20, 24];
        let value = vec![dice.below(256) as u8; sizes[dice.below(sizes.len())]];
        all.insert(dice.below(all.len() + 1), Attribute { kind: dice.below(128) as u16, value: Value::Bytes(value) });
        return;
    }
    list(all, dice, |attribute, dice| match &mut attribute.value {
        _ if dice.below(12) == 0 => attribute.kind = attribute.kind & NESTED | dice.below(128) as u16,
        Value::Nest(nest) => mutate_attributes(nest, dice),
        Value::Bytes(value) => bytes(value),
    });
}

/// Bytes between a message's header and its attributes: `struct ifinfomsg`, `tcmsg`, `tcamsg`, `nfgenmsg`.
fn fixed(kind: u16) -> usize {
    match kind {
        16..=19 => 16,
        36..=39 | 44..=47 | 100..=103 => 20,
        _ => 4,
    }
}

/// A netlink message: its header without the length, what is before the attributes, the attributes.
#[derive(Clone)]
struct Message {
    header: Vec<u8>,
    fixed: Vec<u8>,
    attributes: Vec<Attribute>,
}

/// A datagram's messages; what cannot be taken apart is left out.
fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut all = Vec::new();
    while let Some(head) = bytes.first_chunk::<16>() {
        let [l0, l1, l2, l3, k0, k1, ..] = *head;
        let length = (u32::from_ne_bytes([l0, l1, l2, l3]) as usize).clamp(16, bytes.len());
        let fixed = (16 + fixed(u16::from_ne_bytes([k0, k1]))).min(length);
        if let Some(attributes) = attributes(&bytes[fixed..length], 6) {
            all.push(Message { header: head[4..].to_vec(), fixed: bytes[16..fixed].to_vec(), attributes });
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

/// A datagram, changed in one place.
pub fn datagram(data: &mut Vec<u8>, dice: &mut Dice) {
    let mut all = messages(data);
    if all.is_empty() {
        return bytes(data);
    }
    let deep = |message: &mut Message, dice: &mut Dice| match dice.below(12) {
        0 => bytes(&mut message.header),
        1 => {
            let size = message.fixed.len();
            bytes(&mut message.fixed);
            message.fixed.resize(size, 0);
        }
        _ => mutate_attributes(&mut message.attributes, dice),
    };
    match dice.below(8) {
        0 => list(&mut all, dice, deep),
        _ => {
            let at = dice.below(all.len());
            deep(&mut all[at], dice);
        }
    }
    data.clear();
    for Message { header, fixed, attributes } in &all {
        let start = data.len();
        data.extend([0; 4]);
        data.extend(header.iter().chain(&[0; 12]).take(12));
        data.extend(fixed);
        emit(attributes, data);
        let length = (data.len() - start) as u32;
        data[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        data.resize(data.len().next_multiple_of(4), 0);
    }
}

/// Mutates what lies behind the first `head` bytes, mostly by `with`, else all of it as libFuzzer does. Gives the new size.
pub fn mutate(
    data: &mut [u8],
    size: usize,
    max_size: usize,
    seed: u32,
    head: usize,
    with: fn(&mut Vec<u8>, &mut Dice),
) -> usize {
    let mut dice = Dice::new(seed);
    if size <= head || dice.below(8) == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut changed = data[head..size].to_vec();
    for _ in 0..=dice.below(3) {
        with(&mut changed, &mut dice);
    }
    let size = (head + changed.len()).min(max_size);
    data[head..size].copy_from_slice(&changed[..size - head]);
    size
}
