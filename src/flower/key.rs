//! A key: one value for every field, packed into 64-bit words so that a comparison is a handful of word operations.
//!
//! The layout follows from the field table at compile time: fields are placed one after the other, none across a word
//! boundary, 128-bit fields on two words of their own.

use super::field::Field;
use std::fmt;

const LAYOUT: ([(u16, u8); Field::COUNT], usize) = {
    let mut at = [(0u16, 0u8); Field::COUNT];
    let (mut word, mut bit, mut i) = (0u16, 0u8, 0);
    while i < Field::COUNT {
        let bits = Field::ALL[i].row().bits;
        if bits as u32 + bit as u32 > 64 && bit > 0 {
            word += 1;
            bit = 0;
        }
        at[i] = (word, bit);
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

/// Words in a key.
pub const WORDS: usize = LAYOUT.1;

/// The value of every field; also used for masks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u64; WORDS]);

impl Key {
    /// All fields 0.
    pub const ZERO: Key = Key([0; WORDS]);

    /// A key of these words, as they are packed.
    pub(super) fn of_words(words: [u64; WORDS]) -> Key {
        Key(words)
    }

    /// The field's value in words that are packed as a key's.
    pub(super) fn pick(field: Field, words: impl Fn(usize) -> u64) -> u128 {
        let (word, bit) = LAYOUT.0[field as usize];
        let word = word as usize;
        if field.row().bits > 64 {
            (words(word) as u128) << 64 | words(word + 1) as u128
        } else {
            (words(word) >> bit) as u128 & field.ones()
        }
    }

    /// The field's value.
    pub fn get(&self, field: Field) -> u128 {
        Key::pick(field, |word| self.0[word])
    }

    /// Sets the field; bits beyond its width are ignored.
    pub fn set(&mut self, field: Field, value: u128) {
        let (word, bit) = LAYOUT.0[field as usize];
        let word = word as usize;
        if field.row().bits > 64 {
            self.0[word] = (value >> 64) as u64;
            self.0[word + 1] = value as u64;
        } else {
            let ones = (field.ones() as u64) << bit;
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

    /// The fields that are not 0.
    pub fn fields(&self) -> impl Iterator<Item = (Field, u128)> + '_ {
        Field::ALL.iter().map(|&f| (f, self.get(f))).filter(|&(_, v)| v != 0)
    }

    /// Whether every field is 0.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|&w| w == 0)
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
        }
    }
}
