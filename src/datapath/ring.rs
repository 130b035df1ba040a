//! The words on their way from one datapath to the workers: a ring that one side writes and one side reads, without a lock.
//!
//! A walk is a run of words, as many as it needs: most of a key is 0. The writer stores them, then moves the tail over them; the reader
//! loads them, then moves the head. Each side keeps the other's position as it last saw it, and looks again only when that is not
//! enough. Positions only grow; the ring's length is a power of two.
//!
//! The tail is moved by a read-modify-write where a store would do. It is what makes [`is_empty`](Ring::is_empty), which is one too, a
//! safe question before going to sleep: of two read-modify-writes of one word one is first. If the writer's is, the reader sees
//! the words. If the reader's is, the writer sees all that the reader did before it, [`Bell`](super::Bell) for one, and rings. A full
//! fence behind a plain store would do as well and takes as long, ten times a plain store (`benches/datapath.rs`).

use crate::sync::{
    Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// On lines of the cache of their own, two of which processors fetch at once.
#[repr(align(128))]
#[derive(Debug)]
struct Apart<T>(T);

/// The shared part.
#[derive(Debug)]
pub(super) struct Ring {
    tail: Apart<AtomicUsize>,
    head: Apart<AtomicUsize>,
    /// The reader's side: its position, for whichever worker reads.
    reader: Mutex<usize>,
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
    /// A ring with room for at least so many words.
    pub(super) fn new(words: usize) -> Ring {
        Ring {
            tail: Apart(AtomicUsize::new(0)),
            head: Apart(AtomicUsize::new(0)),
            reader: Mutex::new(0),
            words: (0..words.next_power_of_two()).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    #[inline]
    fn word(&self, position: usize) -> &AtomicU64 {
        &self.words[position & (self.words.len() - 1)]
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
            let first = self.word(head).load(Ordering::Relaxed);
            // A run has a first word, and lies before the tail: the writer moves it by whole runs.
            let words = length(first).clamp(1, tail.wrapping_sub(head));
            let (at, load) = (head & (self.words.len() - 1), |word: &AtomicU64| word.load(Ordering::Relaxed));
            // It may go round the end.
            let before = words.min(self.words.len() - at);
            out.extend(self.words[at..at + before].iter().map(load));
            out.extend(self.words[..words - before].iter().map(load));
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

    /// Whether there is room for so many words.
    #[inline]
    pub(super) fn has_room(&mut self, ring: &Ring, words: usize) -> bool {
        let free = |head: usize| ring.words.len() - self.tail.wrapping_sub(head);
        if free(self.head) < words {
            self.head = ring.head.0.load(Ordering::Acquire);
        }
        let free = ring.words.len() - self.tail.wrapping_sub(self.head);
        free >= words
    }

    /// Puts the `n`-th word behind the tail. There must be room.
    #[inline]
    pub(super) fn put(&self, ring: &Ring, n: usize, word: u64) {
        ring.word(self.tail.wrapping_add(n)).store(word, Ordering::Relaxed);
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

    /// Runs of two and three words through a ring of four, so that it is full and goes round: all come out, in order.
    #[test]
    fn all_come_out_in_order() {
        let runs = if cfg!(any(feature = "loom", feature = "shuttle")) { 3 } else { 100_000 };
        check(move || {
            let ring = Arc::new(Ring::new(4));
            let shared = Arc::clone(&ring);
            let writer = thread::spawn(move || {
                let mut writer = Writer::new();
                let mut n = 0;
                while n < runs {
                    let length = 2 + n as usize % 2;
                    if !writer.has_room(&shared, length) {
                        thread::yield_now();
                        continue;
                    }
                    (0..length).for_each(|i| writer.put(&shared, i, length as u64 | n << 8));
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
            let expected = (0..runs).flat_map(|n| vec![(2 + n % 2) | n << 8; 2 + n as usize % 2]);
            assert_eq!(out, expected.collect::<Vec<_>>());
        });
    }
}
