//! A key: one value for every field, packed into 64-bit words so that a comparison is a handful of word operations.
//!
//! The layout follows from the field table at compile time: fields are placed one after the other, none across a word
//! boundary, 128-bit fields on two words of their own. Those that nearly every path compares come first, so that they share
//! few words: whoever compares keys, or hands one on, looks only at words in which there is something.

use super::field::Field;
use std::fmt;

/// What comes first: what a packet is; its addresses; what lies behind them. Then what fills the next words well.
const FIRST: [Field; 17] = [
    Field::Protocol,
    Field::EthType,
    Field::AddrType,
    Field::IpProto,
    Field::IpFlags,
    Field::Ipv4Src,
    Field::Ipv4Dst,
    Field::SrcPort,
    Field::DstPort,
    Field::TcpFlags,
    Field::IpTos,
    Field::IpTtl,
    Field::EthDst,
    Field::NumOfVlans,
    Field::EthSrc,
    Field::VlanTpid,
    Field::Indev,
];

/// All fields in the order in which they are placed.
const ORDER: [Field; Field::COUNT] = {
    let mut order = [Field::ALL[0]; Field::COUNT];
    let (mut placed, mut i) = (0, 0);
    while i < FIRST.len() + Field::COUNT {
        let field = if i < FIRST.len() { FIRST[i] } else { Field::ALL[i - FIRST.len()] };
        let (mut n, mut is_there) = (0, false);
        while n < placed {
            is_there |= order[n] as u8 == field as u8;
            n += 1;
        }
        if !is_there {
            order[placed] = field;
            placed += 1;
        }
        i += 1;
    }
    order
};

const LAYOUT: ([(u16, u8); Field::COUNT], usize) = {
    let mut at = [(0u16, 0u8); Field::COUNT];
    let (mut word, mut bit, mut i) = (0u16, 0u8, 0);
    while i < Field::COUNT {
        let field = ORDER[i];
        let bits = field.row().bits;
        if bits as u32 + bit as u32 > 64 && bit > 0 {
            word += 1;
            bit = 0;
        }
        at[field as usize] = (word, bit);
        if bits > 64 {
            word += 2;
        } else {
            bit += bits;
            if bit == 64 {
                word += 1;
                bit = 0;
            }
        }
        i += 1;
    }
    (at, word as usize + (bit > 0) as usize)
};

/// Where a field lies: its word, its lowest bit there (0 if it has two words), and how many bits it has.
static PLACES: [(u8, u8, u8); Field::COUNT] = {
    let mut at = [(0, 0, 0); Field::COUNT];
    let mut i = 0;
    while i < Field::COUNT {
        let (word, bit) = LAYOUT.0[i];
        at[i] = (word as u8, bit, Field::ALL[i].row().bits);
        i += 1;
    }
    at
};

/// The field that has a bit of a word.
static OWNERS: [[Field; 64]; WORDS] = {
    let mut owners = [[Field::ALL[0]; 64]; WORDS];
    let mut i = 0;
    while i < Field::COUNT {
        let (word, bit) = LAYOUT.0[i];
        let mut n = 0;
        while n < Field::ALL[i].row().bits as usize {
            let at = bit as usize + n;
            owners[word as usize + at / 64][at % 64] = Field::ALL[i];
            n += 1;
        }
        i += 1;
    }
    owners
};

const _: () = assert!(Field::COUNT <= 128, "a bit for every field");

/// Words in a key.
pub const WORDS: usize = LAYOUT.1;

/// The value of every field; also used for masks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u64; WORDS]);

impl Key {
    /// All fields 0.
    pub const ZERO: Key = Key([0; WORDS]);

    /// Sets a word, as it is packed.
    #[inline]
    pub(super) fn set_word(&mut self, word: usize, value: u64) {
        self.0[word] = value;
    }

    /// The field's value in words that are packed as a key's.
    #[inline]
    pub(super) fn pick(field: Field, words: impl Fn(usize) -> u64) -> u128 {
        let (word, bit, bits) = PLACES[field as usize];
        let word = word as usize;
        if bits > 64 {
            (words(word) as u128) << 64 | words(word + 1) as u128
        } else {
            (words(word) >> bit & u64::MAX >> (64 - bits)).into()
        }
    }

    /// The field's value.
    #[inline]
    pub fn get(&self, field: Field) -> u128 {
        Key::pick(field, |word| self.0[word])
    }

    /// Sets the field; bits beyond its width are ignored.
    #[inline]
    pub fn set(&mut self, field: Field, value: u128) {
        let (word, bit, bits) = PLACES[field as usize];
        let word = word as usize;
        if bits > 64 {
            self.0[word] = (value >> 64) as u64;
            self.0[word + 1] = value as u64;
        } else {
            let ones = (u64::MAX >> (64 - bits)) << bit;
            self.0[word] = self.0[word] & !ones | ((value as u64) << bit) & ones;
        }
    }

    /// This key with the field set.
    pub fn with(mut self, field: Field, value: u128) -> Key {
        self.set(field, value);
        self
    }

    /// The bits that both have.
    pub fn and(&self, mask: &Key) -> Key {
        let mut out = *self;
        for (o, m) in out.0.iter_mut().zip(&mask.0) {
            *o &= m;
        }
        out
    }

    /// Whether this key and `other` agree in every bit of `mask`.
    pub fn agrees(&self, other: &Key, mask: &Key) -> bool {
        let mut differ = 0;
        for i in 0..WORDS {
            differ |= (self.0[i] ^ other.0[i]) & mask.0[i];
        }
        differ == 0
    }

    /// The key as it is packed: for what looks at many keys and at no field in particular.
    pub fn words(&self) -> &[u64; WORDS] {
        &self.0
    }

    /// The key with these words, in the packing of [`words`](Key::words).
    pub fn from_words(words: [u64; WORDS]) -> Key {
        Key(words)
    }

    /// The fields that are not 0.
    pub fn fields(&self) -> impl Iterator<Item = (Field, u128)> + '_ {
        // They do not lie in the table's order: first which, a bit each.
        let mut which = 0u128;
        for (word, &bits) in self.0.iter().enumerate() {
            let mut left = bits;
            while left != 0 {
                let field = OWNERS[word][left.trailing_zeros() as usize];
                let (_, bit, bits) = PLACES[field as usize];
                which |= 1 << field as u8;
                left = if bits > 64 { 0 } else { left & !((u64::MAX >> (64 - bits)) << bit) };
            }
        }
        std::iter::from_fn(move || {
            let field = *Field::ALL.get(which.trailing_zeros() as usize)?;
            which &= which - 1;
            Some((field, self.get(field)))
        })
    }

    /// Whether one of these fields is not 0.
    #[inline]
    pub fn any(&self, fields: &Fields) -> bool {
        fields.words().any(|(word, bits)| self.0[word] & bits != 0)
    }

    /// Sets all bits of these fields. Whether one of them was not set before.
    #[inline]
    pub fn fill(&mut self, fields: &Fields) -> bool {
        fields.words().fold(false, |new, (word, bits)| {
            let new = new | (bits & !self.0[word] != 0);
            self.0[word] |= bits;
            new
        })
    }

    /// Sets these fields to 0.
    pub fn clear(&mut self, fields: &Fields) {
        fields.words().for_each(|(word, bits)| self.0[word] &= !bits);
    }

    /// Whether every field is 0.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|&w| w == 0)
    }
}

/// Some fields, by the words of a key that have them: for what is said of all of them at once.
pub struct Fields {
    words: [(u8, u64); Fields::MOST],
    count: usize,
}

impl Fields {
    /// Most words of a key that they can be in.
    const MOST: usize = 20;

    /// These fields.
    pub const fn new(fields: &[Field]) -> Fields {
        let mut all = Fields { words: [(0, 0); Fields::MOST], count: 0 };
        let mut i = 0;
        while i < fields.len() {
            let (word, bit) = LAYOUT.0[fields[i] as usize];
            let bits = fields[i].row().bits;
            if bits > 64 {
                all = all.with(word as u8, u64::MAX).with(word as u8 + 1, u64::MAX);
            } else {
                all = all.with(word as u8, (u64::MAX >> (64 - bits)) << bit);
            }
            i += 1;
        }
        all
    }

    const fn with(mut self, word: u8, bits: u64) -> Fields {
        let mut i = 0;
        while i < self.count && self.words[i].0 != word {
            i += 1;
        }
        self.words[i] = (word, self.words[i].1 | bits);
        if i == self.count {
            self.count += 1;
        }
        self
    }

    #[inline]
    fn words(&self) -> impl Iterator<Item = (usize, u64)> {
        self.words[..self.count].iter().map(|&(word, bits)| (word as usize, bits))
    }
}

impl Default for Key {
    fn default() -> Key {
        Key::ZERO
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.fields().map(|(k, v)| (k, format!("{v:#x}")))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_disturb_each_other() {
        for &f in Field::ALL {
            let mut full = Key::ZERO;
            for &g in Field::ALL {
                full.set(g, u128::MAX);
            }
            full.set(f, 0);
            for &g in Field::ALL {
                assert_eq!(full.get(g), if f == g { 0 } else { g.ones() }, "{f} {g}");
            }
            let one = Key::ZERO.with(f, u128::MAX);
            assert_eq!(one.fields().collect::<Vec<_>>(), [(f, f.ones())]);
            let low = Key::ZERO.with(f, 1);
            assert_eq!(low.fields().collect::<Vec<_>>(), [(f, 1)]);
        }
    }

    #[test]
    fn fields_at_once_are_the_fields_one_by_one() {
        for some in
            [&Field::TUNNEL[..], Field::MPLS.as_flattened(), &[Field::Ipv6Dst], &[Field::VlanId, Field::Spi], &[]]
        {
            let all = Fields::new(some);
            let mut one_by_one = Key::ZERO;
            some.iter().for_each(|&f| one_by_one.set(f, u128::MAX));
            let mut at_once = Key::ZERO;
            assert_eq!((at_once.fill(&all), at_once.fill(&all)), (!some.is_empty(), false));
            assert_eq!(at_once, one_by_one);
            assert!(at_once.fields().eq(Field::ALL.iter().filter(|f| some.contains(f)).map(|f| (*f, f.ones()))));
            for &f in Field::ALL {
                assert_eq!(Key::ZERO.with(f, 1).any(&all), some.contains(&f), "{f}");
            }
            let mut others = Key::ZERO;
            Field::ALL.iter().for_each(|&f| others.set(f, u128::MAX));
            others.clear(&all);
            assert!(others.fields().all(|(f, value)| !some.contains(&f) && value == f.ones()));
            assert!(!others.any(&all));
        }
    }
}
