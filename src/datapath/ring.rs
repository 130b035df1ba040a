//! The words on their way from one datapath to the workers: a ring that one side writes and one side reads, without a lock.
//!
//! A walk is a run of words, as many as it needs: most of a key is 0. The writer stores them, then moves the tail over them; the reader
//! loads them, then moves the head. Each side keeps the other's position as it last saw it, and looks again only when that is not
//! enough. Positions only grow; the ring's length is a power of two. A run lies in one piece: behind the ring's end there is
//! room for the longest, so that one which begins before the end need not be cut in two. Where the next begins goes by positions alone.
//!
//! The tail is moved by a read-modify-write where a store would do. It is what makes [`is_empty`](Ring::is_empty), which is one too, a
//! safe question before going to sleep: of two read-modify-writes of one word one is first. If the writer's is, the reader sees
//! the words. If the reader's is, the writer sees all that the reader did before it, [`Bell`](super::Bell) for one, and rings. A full
//! fence behind a plain store would do as well and takes as long, ten times a plain store (`benches/datapath.rs`).

use crate::sync::{
    Apart, Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// The shared part.
#[derive(Debug)]
pub(super) struct Ring {
    tail: Apart<AtomicUsize>,
    head: Apart<AtomicUsize>,
    /// The reader's side: its position, for whichever worker reads.
    reader: Mutex<usize>,
    /// One less than the ring's length.
    mask: usize,
    /// The ring, and behind it room for the rest of a run.
    words: Box<[AtomicU64]>,
}

/// The writing side. There is one of a ring.
#[derive(Debug)]
pub(super) struct Writer {
    tail: usize,
    /// As last seen.
    head: usize,
}

impl Ring {
    /// A ring with room for at least so many words, in runs of up to `longest`.
    pub(super) fn new(words: usize, longest: usize) -> Ring {
        let length = words.max(longest).next_power_of_two();
        Ring {
            tail: Apart(AtomicUsize::new(0)),
            head: Apart(AtomicUsize::new(0)),
            reader: Mutex::new(0),
            mask: length - 1,
            words: (0..length + longest - 1).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The words from this position on, as many as a run may have, or more.
    #[inline]
    fn from(&self, position: usize) -> &[AtomicU64] {
        self.words.get(position & self.mask..).unwrap_or_default()
    }

    /// Whether all that was written was read. For the reader, before it sleeps.
    pub(super) fn is_empty(&self) -> bool {
        let head = self.head.0.load(Ordering::Relaxed);
        self.tail.0.fetch_add(0, Ordering::AcqRel) == head
    }

    /// Reads up to so many runs of words into `out`. The first word of each tells by `length` how many they are. Gives
    /// the number of runs; `None` if another worker is at it.
    pub(super) fn read(&self, out: &mut Vec<u64>, runs: usize, length: impl Fn(u64) -> usize) -> Option<usize> {
        let mut reader = self.reader.try_lock()?;
        let (tail, mut head, mut read) = (self.tail.0.load(Ordering::Acquire), *reader, 0);
        while head != tail && read < runs {
            let run = self.from(head);
            let first = run.first().map_or(0, |word| word.load(Ordering::Relaxed));
            // A run has a first word, and lies before the tail: the writer moves it by whole runs.
            let words = length(first).clamp(1, tail.wrapping_sub(head));
            out.extend(run.iter().take(words).map(|word| word.load(Ordering::Relaxed)));
            head = head.wrapping_add(words);
            read += 1;
        }
        *reader = head;
        self.head.0.store(head, Ordering::Release);
        Some(read)
    }

    /// Where the reader is, as far as is known.
    #[inline]
    pub(super) fn head(&self) -> usize {
        self.head.0.load(Ordering::Relaxed)
    }
}

impl Writer {
    pub(super) fn new() -> Writer {
        Writer { tail: 0, head: 0 }
    }

    /// Where the next run of up to `N` words goes, no more than the ring's longest, if there is room for so many.
    #[inline]
    pub(super) fn room<'r, const N: usize>(&mut self, ring: &'r Ring) -> Option<&'r [AtomicU64; N]> {
        // What was written and not read, as far as is known, and this run.
        if self.tail.wrapping_sub(self.head) + N > ring.mask + 1 {
            self.head = ring.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head) + N > ring.mask + 1 {
                return None;
            }
        }
        ring.from(self.tail).first_chunk()
    }

    /// Moves the tail over so many words. Gives where it was.
    #[inline]
    pub(super) fn publish(&mut self, ring: &Ring, words: usize) -> usize {
        let was = self.tail;
        self.tail = was.wrapping_add(words);
        ring.tail.0.swap(self.tail, Ordering::AcqRel);
        was
    }
}

#[cfg(test)]
mod interleaved {
    use super::*;
    use crate::sync::{Arc, check, thread};

    /// Runs of two words and one through a ring of four, so that it is full and goes round, one run over its end: all come out, in order.
    #[test]
    fn all_come_out_in_order() {
        let runs = if cfg!(any(feature = "loom", feature = "shuttle")) { 3 } else { 100_000 };
        check(move || {
            let ring = Arc::new(Ring::new(4, 2));
            let shared = Arc::clone(&ring);
            let writer = thread::spawn(move || {
                let mut writer = Writer::new();
                let mut n = 0;
                while n < runs {
                    let length = 2 - n as usize % 2;
                    let Some(room) = writer.room::<2>(&shared) else {
                        thread::yield_now();
                        continue;
                    };
                    room[..length].iter().for_each(|word| word.store(length as u64 | n << 8, Ordering::Relaxed));
                    writer.publish(&shared, length);
                    n += 1;
                }
            });
            let (mut out, mut read) = (Vec::new(), 0);
            while read < runs {
                match ring.read(&mut out, 2, |first| first as usize & 0xff) {
                    Some(0) | None => thread::yield_now(),
                    Some(n) => read += n as u64,
                }
            }
            writer.join().expect("ends");
            assert!(ring.is_empty());
            let expected = (0..runs).flat_map(|n| vec![(2 - n % 2) | n << 8; 2 - n as usize % 2]);
            assert_eq!(out, expected.collect::<Vec<_>>());
        });
    }
}
