//! An array that grows by pieces of one size and never moves: what it holds can be read while it grows. No piece takes long to make.

use crate::sync::OnceLock;

/// Items in a piece: 64 KiB of cells. Under the checkers fewer: they keep track of each of their atomics.
const PIECE: usize = match (cfg!(feature = "loom"), cfg!(feature = "shuttle")) {
    (true, _) => 2,
    (_, true) => 8,
    _ => 1024,
};

#[derive(Debug)]
pub(super) struct Chunks<T> {
    pieces: Box<[OnceLock<Box<[T; PIECE]>>]>,
}

impl<T: Default> Chunks<T> {
    /// Room for at least so many, none there yet.
    pub(super) fn new(limit: usize) -> Chunks<T> {
        Chunks { pieces: (0..limit.div_ceil(PIECE)).map(|_| OnceLock::new()).collect() }
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&T> {
        Some(&self.pieces.get(index / PIECE)?.get()?[index % PIECE])
    }

    /// The item, made if it is not there.
    pub(super) fn make(&self, index: usize) -> Option<&T> {
        let piece = self.pieces.get(index / PIECE)?;
        let new = || {
            let items: Box<[T]> = (0..PIECE).map(|_| T::default()).collect();
            let Ok(items) = items.try_into() else { unreachable!("they are so many") };
            items
        };
        Some(&piece.get_or_init(new)[index % PIECE])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_up_to_its_limit() {
        let chunks = Chunks::<u8>::new(PIECE + 1);
        assert_eq!((chunks.get(0), chunks.get(usize::MAX)), (None, None));
        assert_eq!(chunks.make(2 * PIECE - 1), Some(&0));
        assert_eq!((chunks.get(PIECE), chunks.get(PIECE - 1)), (Some(&0), None));
        assert_eq!(chunks.make(2 * PIECE), None);
    }
}
