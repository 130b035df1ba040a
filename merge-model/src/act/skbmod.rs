//! `skbmod` (`net/sched/act_skbmod.c`): the Ethernet header's fields, or the mark of congestion.

use crate::{
    bytes::{array, be16, put},
    checksum::fold,
    skb::Skb,
};
use flowmerge::{
    flower::{action::Skbmod, ethertype},
    packet::dissect::ETHERNET,
};

/// Congestion experienced; either bit alone says that the packet is capable of it.
const EXPERIENCED: u8 = 3;

/// Changes the packet. False if it is to be dropped: it is too short. At ingress that is reckoned from the *network* header, of
/// which there must be as many bytes as an Ethernet header has. `lenient`: that is not looked at.
pub(super) fn run(skb: &mut Skb, skbmod: &Skbmod, lenient: bool) -> bool {
    match *skbmod {
        Skbmod::Ecn => return experience(skb) || lenient,
        _ if skb.len() < ETHERNET && !lenient => return false,
        _ => {}
    }
    skb.pull(skb.data + ETHERNET);
    match *skbmod {
        Skbmod::Set { dst, src, ethertype } => {
            for (at, address) in [(0, dst), (6, src)] {
                address.map(|address| put(&mut skb.bytes, at, &address));
            }
            ethertype.map(|ethertype| put(&mut skb.bytes, 12, &ethertype.to_be_bytes()));
        }
        Skbmod::Swap => {
            if let Some((dst, src)) = skb.bytes.split_at_mut_checked(6)
                && let Some(src) = src.first_chunk_mut::<6>()
            {
                dst.swap_with_slice(src);
            }
        }
        Skbmod::Ecn => {}
    }
    true
}

fn experience(skb: &mut Skb) -> bool {
    let at = skb.network;
    let (ipv6, header) = match skb.inner_protocol() {
        ethertype::IPV4 => (false, 20),
        ethertype::IPV6 => (true, 40),
        _ => return true,
    };
    if at + header > skb.bytes.len() {
        return false;
    }
    skb.pull(at + header);
    let before = skb.packet().to_vec();
    if ipv6 {
        set_ipv6(&mut skb.bytes, at);
    } else {
        set_ipv4(&mut skb.bytes, at);
    }
    skb.summed.keep(&before, skb.bytes.get(skb.data..).unwrap_or_default());
    true
}

/// `IP_ECN_set_ce`: the type of service grows by 1 or 2, and so the checksum gets less.
fn set_ipv4(bytes: &mut [u8], at: usize) -> Option<()> {
    let [_, tos] = array(bytes, at)?;
    let less = match tos & EXPERIENCED {
        1 => 2,
        2 => 1,
        _ => return Some(()),
    };
    let check = !fold(u64::from(be16(bytes, at + 10)?) + 0xffff - less);
    put(bytes, at + 1, &[tos | EXPERIENCED])?;
    put(bytes, at + 10, &check.to_be_bytes())
}

/// `IP6_ECN_set_ce`: the bits stand in the upper half of the second byte.
fn set_ipv6(bytes: &mut [u8], at: usize) -> Option<()> {
    let [_, class] = array(bytes, at)?;
    if class >> 4 & EXPERIENCED != 0 {
        put(bytes, at + 1, &[class | EXPERIENCED << 4])?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{LINK, dropped, sent, through};
    use flowmerge::flower::ActionKind;

    const IP: &str = "45020014000500004063667e0a0000010a000002";

    fn after(skbmod: Skbmod, frame: &str) -> String {
        sent(&through(vec![ActionKind::Skbmod(skbmod)], &frame.replace(' ', "")))
    }

    #[test]
    fn the_ethernet_header_changes() {
        let dst = [0xa; 6];
        let set = Skbmod::Set { dst: Some(dst), src: None, ethertype: Some(0x1234) };
        let out = after(set, &format!("81000007 0800 {IP}"));
        assert_eq!(out, format!("0a0a0a0a0a0a020000000001{}1234{IP}", "81000007"));
        let src = Skbmod::Set { dst: None, src: Some(dst), ethertype: None };
        assert_eq!(after(src, &format!("0800{IP}")), format!("0200000000020a0a0a0a0a0a0800{IP}"));
        assert_eq!(after(Skbmod::Swap, &format!("0800{IP}")), format!("0200000000010200000000020800{IP}"));
    }

    /// Fourteen bytes must be there, counted from the network header.
    #[test]
    fn what_is_short_is_dropped() {
        let short = |len: usize| format!("1234{}", "61".repeat(len));
        assert!(dropped(&through(vec![ActionKind::Skbmod(Skbmod::Swap)], &short(13))));
        assert_eq!(after(Skbmod::Swap, &short(14)), format!("{}{}{}", &LINK[12..], &LINK[..12], short(14)));
        assert!(dropped(&through(vec![ActionKind::Skbmod(Skbmod::Ecn)], &format!("0800{}", &IP[..38]))));
    }

    #[test]
    fn congestion_is_marked_on_what_is_capable_of_it() {
        let v4 = |tos: &str, check: &str| format!("080045{tos}{}{check}{}", &IP[4..20], &IP[24..]);
        let cases = [("02", "667e", "03", "667d"), ("01", "667f", "03", "667d"), ("03", "667d", "03", "667d")];
        for (tos, check, then, mended) in cases {
            assert_eq!(after(Skbmod::Ecn, &v4(tos, check)), v4(then, mended));
        }
        assert_eq!(after(Skbmod::Ecn, &v4("00", "6680")), v4("00", "6680"));
        // A carry out of the highest bit comes back in.
        assert_eq!(after(Skbmod::Ecn, &v4("02", "0000")), v4("03", "fffe"));
        assert_eq!(after(Skbmod::Ecn, &v4("01", "0001")), v4("03", "fffe"));
        let v6 = |class: &str| format!("86dd6{class}0000000003b40{}", "00".repeat(32));
        for (class, then) in [("02", "03"), ("01", "03"), ("00", "00"), ("ff", "ff"), ("fe", "ff")] {
            assert_eq!(after(Skbmod::Ecn, &v6(class)), v6(then));
        }
        assert_eq!(after(Skbmod::Ecn, "123461"), "123461");
    }
}
