//! A walk as a run of words: a first word that tells how much of each there is, which words of the key are not 0, then filters, connections,
//! what was found (a byte each), and those words of the key.

use super::ring::{Ring, Writer};
use crate::{
    conntrack::ConnectionHandle,
    flower::{Cookie, Key, Port, key::WORDS},
    walk::{
        Recorded, Steps,
        record::{CONNECTIONS, FOUND, HITS},
    },
};

/// The words that the longest walk takes.
pub(super) const LONGEST: usize = 2 + HITS + CONNECTIONS + FOUND / 8 + WORDS;

const _: () = assert!(WORDS <= 64, "a word says which words of a key are not 0");
const _: () = assert!(LONGEST <= 0xff, "a byte says how many words a walk takes");

/// How many words of a key are asked at once whether one of them is not 0.
const GROUP: usize = 4;

/// How many words the run has that begins with this one.
pub(super) fn length(first: u64) -> usize {
    (first & 0xff) as usize
}

/// Writes a walk that is not too long, if there is room. Gives where it stands.
#[inline]
pub(super) fn write(writer: &mut Writer, ring: &Ring, port: Port, key: &Key, steps: &Steps) -> Option<usize> {
    if !writer.has_room(ring, LONGEST) {
        return None;
    }
    let (found, founds) = steps.found_bytes();
    let filters = steps.filters();
    let mut at = 2;
    let mut put = |word| {
        writer.put(ring, at, word);
        at += 1;
    };
    filters.iter().for_each(|filter| put(filter.0));
    steps.connections().for_each(|connection| put(connection.bits()));
    for bytes in found.chunks_exact(8).take(founds.div_ceil(8)) {
        put(bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)));
    }
    let mut there = 0u64;
    for (n, group) in key.words().chunks(GROUP).enumerate() {
        if group.iter().fold(0, |any, word| any | word) == 0 {
            continue;
        }
        for (i, &word) in group.iter().enumerate() {
            if word != 0 {
                there |= 1 << (n * GROUP + i);
                put(word);
            }
        }
    }
    let counts = (steps.connection_count() as u64) << 24 | (founds as u64) << 16 | (filters.len() as u64) << 8;
    writer.put(ring, 0, u64::from(port.0) << 32 | counts | at as u64);
    writer.put(ring, 1, there);
    Some(writer.publish(ring, at))
}

/// Reads what [`write`] wrote.
pub(super) fn read(words: &[u64], into: &mut Recorded) -> Option<()> {
    let mut words = words.iter().copied();
    let (first, mut there) = (words.next()?, words.next()?);
    let count = |shift: u32| (first >> shift & 0xff) as usize;
    let (filters, founds, connections) = (count(8), count(16), count(24));
    let mut found = [0; FOUND];
    let steps = &mut into.steps;
    steps.clear();
    words.by_ref().take(filters).for_each(|filter| steps.hit(Cookie(filter)));
    words.by_ref().take(connections).filter_map(ConnectionHandle::from_bits).for_each(|c| steps.meet(c));
    for (bytes, word) in found.chunks_exact_mut(8).zip(words.by_ref().take(founds.div_ceil(8))) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    steps.set_found(found, founds);
    let mut key = [0; WORDS];
    while there != 0 {
        key[there.trailing_zeros() as usize % WORDS] = words.next()?;
        there &= there - 1;
    }
    into.port = Port((first >> 32) as u32);
    into.key = Key::from_words(key);
    Some(())
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use super::*;
    use crate::{conntrack::Direction, flower::Field};

    #[test]
    fn walks_come_out_as_they_went_in() {
        let full = Key::from_words([u64::MAX; WORDS]);
        let tcp = Key::ZERO.with(Field::EthType, 0x800).with(Field::Spi, 7).with(Field::EthDst, 1);
        for (key, hits, founds, connections) in
            [(Key::ZERO, 1, 0, 1), (tcp, 5, 2, 2), (tcp, 3, 9, 1), (full, HITS, FOUND, CONNECTIONS)]
        {
            let ring = Ring::new(LONGEST);
            let mut writer = Writer::new();
            let mut steps = Steps::default();
            for n in 0..hits {
                steps.hit(Cookie(u64::MAX - n as u64));
                for f in (0..founds).filter(|f| f * hits / founds == n) {
                    let handle = ConnectionHandle::new(f as u8 % connections as u8, 3, 1);
                    let direction = if f % 2 == 0 { Direction::Reply } else { Direction::Original };
                    steps.found(handle.filter(|_| f != 1 || connections != 1), direction);
                }
            }
            assert!(!steps.too_long());
            assert_eq!(write(&mut writer, &ring, Port(u32::MAX), &key, &steps), Some(0));
            let mut out = Vec::new();
            assert_eq!(ring.read(&mut out, 9, length), Some(1));
            let mut walk = Recorded::default();
            read(&out, &mut walk).expect("whole");
            assert_eq!((walk.port, walk.key), (Port(u32::MAX), key));
            assert_eq!(format!("{:?}", walk.steps), format!("{steps:?}"));
        }
    }
}
