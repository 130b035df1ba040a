//! How few bits of a number make sure of something that masks cannot express: that it is in a range, or out of one.

/// A mask of few bits, none of which can be spared, for which `enough` holds. `asked` are bits that cost nothing. If all bits are
/// not enough, all. High bits are spared first, and low ones first: the smaller result counts.
pub fn fewest(bits: u32, asked: u128, enough: impl Fn(u128) -> bool) -> u128 {
    let spare = |order: &mut dyn Iterator<Item = u32>| {
        order.fold(u128::MAX >> (128 - bits), |mask, bit| {
            let less = mask & !(1 << bit);
            if asked & 1 << bit == 0 && enough(less) { less } else { mask }
        })
    };
    let both = [spare(&mut (0..bits).rev()), spare(&mut (0..bits))];
    both.map(|mask| mask & !asked).into_iter().min_by_key(|mask| mask.count_ones()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flower::Range;

    #[test]
    fn no_bit_can_be_spared() {
        // 12 to be kept out of 1 to 10: the bits 8 and 4 are enough, whatever the others are.
        let range = Range { min: 1, max: 10 };
        let out = |mask: u128| !range.meets(mask as u16, 12 & mask as u16);
        assert_eq!(fewest(16, 0, out), 0x000c);
        assert_eq!(fewest(16, 0x0008, out), 0x0004);
        // The high half of n - 1 for n = 0x31: every bit counts, as 0x30 and 0x41 are others.
        let sum = |mask: u128| (0..256u128).all(|x| (x ^ 0x31) & mask != 0 || x.wrapping_sub(1) & 0xf0 == 0x30);
        assert!(sum(fewest(8, 0, sum)));
        assert_eq!(fewest(8, 0, sum).count_ones(), 5);
        assert_eq!(fewest(8, 0, |_| true), 0);
        // Now the one order needs fewer, now the other; of two that need as many the first counts.
        let above = |mask: u128| !Range { min: 130, max: 137 }.meets(mask as u16, 253 & mask as u16);
        assert_eq!(fewest(16, 0, above), 0x40);
        let sum = |mask: u128| {
            !(0..256u128).any(|x| (x ^ 188) & mask == 0 && u128::from((x as u8).wrapping_add(169)) & 0x45 == 4)
        };
        assert_eq!(fewest(8, 0, sum), 1);
        // What is asked for anyway is not spared for the sake of others.
        let far = |mask: u128| !Range { min: 122, max: 142 }.meets(mask as u16, 95 & mask as u16);
        assert_eq!(fewest(8, 0x10, |mask| far(mask | 0xff00)), 0x20);
        let below = |mask: u128| !Range { min: 15, max: 16 }.meets(mask as u16, 13 & mask as u16);
        assert_eq!(fewest(16, 0, below), 0b11);
    }
}
