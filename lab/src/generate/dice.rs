//! Dice: all randomness of a run comes from one seed through these few throws.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A source of choices that a seed reproduces.
#[derive(Clone, Debug)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The dice of a seed.
    pub fn new(seed: u64) -> Dice {
        Dice(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Dice of their own, which later throws of these do not touch.
    pub fn split(&mut self) -> Dice {
        Dice::new(self.number())
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.random()
    }

    /// Any number under this mask.
    pub fn bits(&mut self, mask: u128) -> u128 {
        self.0.random::<u128>() & mask
    }

    /// 0 to `n - 1`; 0 where there is nothing to choose from.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { self.0.random_range(0..n) }
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, n: usize) -> bool {
        self.below(100) < n
    }

    /// One of these, which are not none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// One of these, by weight.
    pub fn weighted<T: Copy>(&mut self, from: &[(usize, T)]) -> T {
        let mut at = self.below(from.iter().map(|(weight, _)| weight).sum());
        for &(weight, what) in from {
            if at < weight {
                return what;
            }
            at -= weight;
        }
        from[0].1
    }

    /// Changes the order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_throws() {
        let throws = |seed| {
            let mut dice = Dice::new(seed);
            (0..20).map(|_| dice.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(throws(7), throws(7));
        assert_ne!(throws(7), throws(8));
        assert_eq!(throws(1)[..3], throws(1)[..3]);
    }

    #[test]
    fn a_weight_of_nothing_is_never_chosen() {
        let mut dice = Dice::new(1);
        assert!((0..100).all(|_| dice.weighted(&[(0, 'a'), (3, 'b')]) == 'b'));
        assert_eq!(dice.below(0), 0);
    }
}
