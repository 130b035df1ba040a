//! `police`: rates, and bursts of so much time as so many bytes or packets.

use crate::flower::action::Police;

/// The kernel's ticks in a second: of 64 ns.
const TICKS: u128 = 15_625_000;

/// A policer's words, with what becomes of what exceeds its rate and of what conforms.
pub(super) fn police(police: &Police, exceed: String, conform: String) -> Vec<String> {
    let mut words = Vec::new();
    if police.rate != 0 {
        words.push(format!("rate {}", bits(police.rate)));
        words.push(format!("burst {}b", at_once(police.rate, police.burst.into())));
    }
    words.push(format!("mtu {}b", police.mtu));
    if police.peak_rate != 0 {
        words.push(format!("peakrate {}", bits(police.peak_rate)));
    }
    if police.packet_rate != 0 {
        words.push(format!("pkts_rate {}", police.packet_rate));
        words.push(format!("pkts_burst {}", at_once(police.packet_rate, police.packet_burst)));
    }
    if police.average_rate != 0 {
        words.push(format!("avrate {}", bits(police.average_rate.into())));
    }
    words.push(format!("conform-exceed {exceed}/{conform}"));
    if police.overhead != 0 {
        words.push(format!("overhead {}", police.overhead));
    }
    // Of one layer, Ethernet, tc says nothing, either.
    if police.link_layer > 1 {
        let layer = if police.link_layer == 2 { "atm".to_owned() } else { police.link_layer.to_string() };
        words.push(format!("linklayer {layer}"));
    }
    words
}

/// A rate of bytes a second, in the largest unit of bits that says all of it.
fn bits(rate: u64) -> String {
    let units = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1000, "K")];
    let bits = 8 * u128::from(rate);
    match units.iter().find(|&(unit, _)| bits.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}bit", bits / unit),
        None => format!("{bits}bit"),
    }
}

/// What passes in so many ticks at this rate, to the nearest.
fn at_once(rate: u64, ticks: u64) -> u128 {
    (u128::from(rate) * u128::from(ticks) + TICKS / 2) / TICKS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_say_all_of_a_rate() {
        let rates = [125, 125_000, 1_250_000_000, 1, 1234, 125_000_000_000].map(bits);
        assert_eq!(rates, ["1Kbit", "1Mbit", "10Gbit", "8bit", "9872bit", "1Tbit"]);
        assert_eq!(bits(u64::MAX), "147573952589676412920bit");
    }

    /// As tc shows what the kernel tells of `rate 1mbit burst 10k` and of `pkts_rate 1000 pkts_burst 500`.
    #[test]
    fn a_burst_is_what_passes_in_its_time() {
        assert_eq!(at_once(125_000, 1_280_000), 10240);
        assert_eq!(at_once(1000, 7_812_500), 500);
        assert_eq!(at_once(u64::MAX, u64::MAX) >> 64, u128::from(u64::MAX) / TICKS);
    }
}
