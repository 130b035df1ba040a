//! A walk as a run of words: a first word that tells how much of each there is, which words of the key are not 0, when the walk began, then filters, connections,
//! what was found (a byte each), and those words of the key.

use super::ring::{Ring, Writer};
use crate::{
    conntrack::ConnectionHandle,
    flower::{Key, Port, key::WORDS},
    sync::atomic::Ordering,
    walk::{
        Recorded, Steps,
        record::{CONNECTIONS, FOUND, Findings, HITS},
    },
};

/// The words that the longest walk takes.
pub(super) const LONGEST: usize = 3 + HITS + CONNECTIONS + FOUND / 8 + WORDS;

const _: () = assert!(WORDS <= 64, "a word says which words of a key are not 0");
const _: () = assert!(LONGEST <= 0xff, "a byte says how many words a walk takes");

/// The words of a key that are looked at one by one. Behind them there is mostly nothing, and one look at all of them tells.
const USUAL: usize = 8;

/// How many words the run has that begins with this one.
pub(super) fn length(first: u64) -> usize {
    (first & 0xff) as usize
}

/// Writes a walk that is not too long, if there is room. Gives where it stands.
#[inline]
pub(super) fn write(writer: &mut Writer, ring: &Ring, port: Port, key: &Key, steps: &Steps) -> Option<usize> {
    let room = writer.room::<LONGEST>(ring)?;
    let (filters, findings) = (steps.filters(), steps.findings());
    // The longest fits, so that none is ever left out.
    let put = |at: &mut usize, word: u64| {
        if let Some(to) = room.get(*at) {
            to.store(word, Ordering::Relaxed);
            *at += 1;
        }
    };
    let mut at = 3;
    filters.iter().for_each(|filter| put(&mut at, filter.0));
    steps.connections().for_each(|connection| put(&mut at, connection.bits()));
    findings.words().iter().take(findings.len().div_ceil(8)).for_each(|&word| put(&mut at, word));
    let mut there = 0u64;
    let mut put_of_key = |n: usize, word: u64| {
        if word != 0 {
            there |= 1 << n;
            put(&mut at, word);
        }
    };
    let (usual, rest) = key.words().split_at(USUAL);
    usual.iter().enumerate().for_each(|(n, &word)| put_of_key(n, word));
    if rest.iter().fold(0, |any, word| any | word) != 0 {
        rest.iter().enumerate().for_each(|(n, &word)| put_of_key(USUAL + n, word));
    }
    let counts = (steps.connection_count() as u64) << 24 | (findings.len() as u64) << 16 | (filters.len() as u64) << 8;
    room[0].store(u64::from(port.0) << 32 | counts | at as u64, Ordering::Relaxed);
    room[1].store(there, Ordering::Relaxed);
    room[2].store(steps.epoch(), Ordering::Relaxed);
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
            let ring = Ring::new(LONGEST, LONGEST);
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
