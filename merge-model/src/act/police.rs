//! `police` (`net/sched/act_police.c`): packets within a rate go one way, those beyond it another.
//!
//! What a policer has seen is not in the packet. So its verdict is known where it does not matter, where the packet alone decides -
//! it is too long, or costs more than there can ever be, or nothing at all -, and where the model was told
//! ([`Model::set_policer`]).

use super::After;
use crate::{Model, skb::Skb, walk::Walk};
use flowmerge::flower::{Action, action::Police};

/// The longest that a packet is made out to be (`mpu`), which no filter's dump tells.
const LONGEST: u64 = 0xffff;

/// Link layer of ATM: 48 bytes of payload in 53.
const ATM: u8 = 2;

impl Model {
    /// Says how a policer, by its index, judges packets from now on, where the packet does not decide that.
    pub fn set_policer(&mut self, index: u32, conforms: bool) {
        self.policers.insert(index, conforms);
    }
}

impl Walk<'_> {
    pub(super) fn police(&self, skb: &Skb, police: &Police, action: &Action) -> After {
        let (conform, exceed) = (police.conform, action.control);
        let conforms = decided(skb, police).or_else(|| self.model.policers.get(&action.index).copied());
        match conforms {
            Some(true) => After::Control(conform),
            Some(false) => After::Control(exceed),
            None if conform == exceed => After::Control(exceed),
            None => After::Unknown(format!("what its policer {} has seen is not known", action.index)),
        }
    }
}

/// Whether the packet conforms, as far as it says that itself (`tcf_police_act`).
fn decided(skb: &Skb, police: &Police) -> Option<bool> {
    let len = skb.pkt_len as u64;
    let link = if skb.at_ingress { skb.mac_len } else { 0 };
    if police.mtu != 0 && len + link as u64 > u64::from(police.mtu) {
        return Some(false);
    }
    let free = |rate| cost(police, rate, LONGEST.max(len)) == 0;
    let is_averaged = police.average_rate != 0;
    // Nanoseconds of a rate, and the most that are saved up.
    let ticks = |ticks: u64| ticks.saturating_mul(64);
    let mut is_free = !is_averaged;
    if police.rate != 0 {
        if cost(police, police.rate, len) > ticks(police.burst.into()) {
            return Some(false);
        }
        is_free &= free(police.rate) && (police.peak_rate == 0 || free(police.peak_rate));
    } else if police.packet_rate != 0 {
        let cost = nanoseconds(police.packet_rate, 1);
        if cost > ticks(police.packet_burst) {
            return Some(false);
        }
        is_free &= cost == 0;
    }
    is_free.then_some(true)
}

/// How long the link takes for a packet, nanoseconds (`psched_l2t_ns`).
fn cost(police: &Police, rate: u64, len: u64) -> u64 {
    let len = len + u64::from(police.overhead);
    nanoseconds(rate, if police.link_layer == ATM { len.div_ceil(48) * 53 } else { len })
}

/// `psched_ratecfg_precompute`: how long so many take at that rate, as a product and a shift.
fn nanoseconds(rate: u64, count: u64) -> u64 {
    if rate == 0 {
        return count;
    }
    let (mut factor, mut shift) = (1_000_000_000u64, 0);
    loop {
        let times = (factor / rate) as u32;
        if times >> 31 != 0 || factor >> 63 != 0 {
            return count.wrapping_mul(times.into()) >> shift;
        }
        factor <<= 1;
        shift += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Outcome, Verdict,
        testing::{LINK, Tracker, action, add, gact, model, receive, to},
    };
    use flowmerge::flower::{ActionKind, Control, Hook, Match, Port};

    /// Nothing limits.
    fn open() -> Police {
        Police { shared: true, conform: Control::Pipe, link_layer: 1, ..Police::default() }
    }

    /// A packet of a hundred bytes, without its Ethernet header.
    fn policed(police: Police, exceed: Control, said: Option<bool>) -> Outcome {
        let mut model = model();
        let police = Action { index: 7, ..action(ActionKind::Police(police), exceed) };
        add(&mut model, Hook::Ingress(Port(1)), 0, 1, Match::default(), vec![police, gact(Control::Pipe), to(2)]);
        said.into_iter().for_each(|conforms| model.set_policer(7, conforms));
        receive(&mut model, &mut Tracker::default(), &format!("{LINK}1234{}", "61".repeat(100)))
    }

    /// Whether it conforms, if that is known.
    fn judged(police: Police) -> Option<bool> {
        let outcome = policed(police, Control::Shot, None);
        assert_eq!(outcome.counted[0].bytes, 100);
        match outcome.verdict {
            Verdict::Undecidable { why, .. } => {
                assert!(why.contains("policer 7"));
                None
            }
            _ => Some(outcome.sent.len() == 1),
        }
    }

    #[test]
    fn what_the_packet_decides() {
        assert_eq!(judged(open()), Some(true));
        // The length is with the Ethernet header.
        assert_eq!(judged(Police { mtu: 114, ..open() }), Some(true));
        assert_eq!(judged(Police { mtu: 113, ..open() }), Some(false));
        // 100 bytes at 1,000,000 a second take 100 us, which are 1562.5 ticks of 64 ns.
        let rate = Police { rate: 1_000_000, burst: 1563, ..open() };
        assert_eq!(judged(rate), None);
        assert_eq!(judged(Police { burst: 1562, ..rate }), Some(false));
        assert_eq!(judged(Police { overhead: 1, ..rate }), Some(false));
        assert_eq!(judged(Police { mtu: 50, ..rate }), Some(false));
        // 53 bytes for every 48: 159.
        assert_eq!(judged(Police { link_layer: 2, burst: 2484, ..rate }), Some(false));
        assert_eq!(judged(Police { link_layer: 2, burst: 2485, ..rate }), None);
        // So fast that it takes no time.
        let free = Police { rate: 1 << 50, ..open() };
        assert_eq!(judged(free), Some(true));
        assert_eq!(judged(Police { peak_rate: 1 << 50, ..free }), Some(true));
        assert_eq!(judged(Police { peak_rate: 1 << 20, ..free }), None);
        assert_eq!(judged(Police { average_rate: 1, ..free }), None);
        // A packet takes 1 ms, 15625 ticks.
        let packets = Police { packet_rate: 1000, packet_burst: 15_625, ..open() };
        assert_eq!(judged(packets), None);
        assert_eq!(judged(Police { packet_burst: 15_624, ..packets }), Some(false));
    }

    #[test]
    fn what_is_said_or_does_not_matter() {
        let rate = Police { rate: 1000, burst: 1 << 30, ..open() };
        assert_eq!(policed(rate, Control::Shot, Some(true)).sent.len(), 1);
        assert_eq!(policed(rate, Control::Shot, Some(false)).verdict, Verdict::Decided(crate::Terminal::Drop));
        assert_eq!(policed(rate, Control::Pipe, None).sent.len(), 1);
        // The packet has the last word.
        assert_eq!(policed(Police { mtu: 50, ..rate }, Control::Shot, Some(true)).sent.len(), 0);
    }
}
