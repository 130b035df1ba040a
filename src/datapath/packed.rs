//! A walk as a run of words: a first word that tells how much of each there is, which words of the key are not 0, when the walk began, then filters, connections,
//! what was found (a byte each), and those words of the key.

use super::ring::{Ring, Writer};
use crate::{
    conntrack::ConnectionHandle,
    flower::{Key, Port, key::WORDS},
    walk::{
        Recorded, Steps,
        record::{CONNECTIONS, FOUND, Findings, HITS},
    },
};

/// The words that the longest walk takes.
pub(super) const LONGEST: usize = 3 + HITS + CONNECTIONS + FOUND / 8 + WORDS;

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
    let findings = steps.findings();
    let filters = steps.filters();
    let mut at = 3;
    let mut put = |word| {
        writer.put(ring, at, word);
        at += 1;
    };
    filters.iter().for_each(|filter| put(filter.0));
    steps.connections().for_each(|connection| put(connection.bits()));
    findings.words().iter().take(findings.len().div_ceil(8)).for_each(|&word| put(word));
    let mut there = 0u64;
    let (groups, rest) = key.words().as_chunks::<GROUP>();
    let mut word = |n: usize, word: u64| {
        if word != 0 {
            there |= 1 << n;
            put(word);
        }
    };
    for (n, group) in groups.iter().enumerate() {
        if group.iter().fold(0, |any, word| any | word) != 0 {
            group.iter().enumerate().for_each(|(i, &w)| word(n * GROUP + i, w));
        }
    }
    rest.iter().enumerate().for_each(|(i, &w)| word(groups.len() * GROUP + i, w));
    let counts = (steps.connection_count() as u64) << 24 | (findings.len() as u64) << 16 | (filters.len() as u64) << 8;
    writer.put(ring, 0, u64::from(port.0) << 32 | counts | at as u64);
    writer.put(ring, 1, there);
    writer.put(ring, 2, steps.epoch());
    Some(writer.publish(ring, at))
}

/// Reads what [`write`] wrote. `None` if the words are no walk.
pub(super) fn read(words: &[u64], into: &mut Recorded) -> Option<()> {
    let (&[first, mut there, epoch], words) = words.split_first_chunk()?;
    let count = |shift: u32| (first >> shift & 0xff) as usize;
    let (filters, words) = words.split_at_checked(count(8))?;
    let (connections, words) = words.split_at_checked(count(24))?;
    let (findings, words) = words.split_at_checked(count(16).div_ceil(8))?;
    let steps = &mut into.steps;
    steps.clear();
    steps.set_epoch(epoch);
    steps.set_filters(filters);
    for &connection in connections {
        steps.meet(ConnectionHandle::from_bits(connection)?);
    }
    let mut found = [0; FOUND / 8];
    found.get_mut(..findings.len())?.copy_from_slice(findings);
    steps.set_findings(Findings::from_words(found, count(16)));
    let mut key = [0; WORDS];
    for &word in words {
        key[there.trailing_zeros() as usize % WORDS] = word;
        there &= there.wrapping_sub(1);
    }
    into.port = Port((first >> 32) as u32);
    into.key = Key::from_words(key);
    Some(())
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use super::*;
    use crate::{
        conntrack::Direction,
        flower::{Cookie, Field},
    };

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
            steps.set_epoch(hits as u64);
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
