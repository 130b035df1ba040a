//! `nat` (`net/sched/act_nat.c`): the stateless one. Whatever the packet is, the network header is read as IPv4's.

use crate::{
    bytes::{array, be16, byte, put},
    checksum::mend,
    skb::Skb,
};
use flowmerge::{conntrack::proto, flower::action::StatelessNat};

/// Length of an IPv4 header without options.
const IPV4: usize = 20;

/// Translates the packet. False if it is to be dropped: a header that is to change is cut off.
pub(super) fn run(skb: &mut Skb, nat: &StatelessNat) -> bool {
    let before = skb.packet().to_vec();
    let done = translate(skb, nat).is_some();
    skb.summed.keep(&before, skb.bytes.get(skb.data..).unwrap_or_default());
    done
}

/// The bytes up to `end`, in one piece; `None` if there are not so many.
fn need(skb: &mut Skb, end: usize) -> Option<()> {
    skb.pull(end);
    (end <= skb.bytes.len()).then_some(())
}

fn translate(skb: &mut Skb, nat: &StatelessNat) -> Option<()> {
    let network = skb.network;
    need(skb, network + IPV4)?;
    let header: [u8; IPV4] = array(&skb.bytes, network)?;
    let (is_later, number) = (be16(&header, 6)? & 0x1fff != 0, header[9]);
    let change = replace(&mut skb.bytes, network + if nat.egress { 12 } else { 16 }, nat)?;
    match change {
        Some((from, to)) => mend_at(&mut skb.bytes, network + 10, from, to)?,
        None if is_later || number != proto::ICMP => return Some(()),
        None => {}
    }
    if is_later {
        return Some(());
    }
    let l4 = network + usize::from(header[0] & 0xf) * 4;
    match (number, change) {
        (proto::TCP, Some((from, to))) => {
            need(skb, l4 + 20)?;
            mend_at(&mut skb.bytes, l4 + 16, from, to)
        }
        (proto::UDP, Some((from, to))) => {
            need(skb, l4 + 8)?;
            if be16(&skb.bytes, l4 + 6)? == 0 {
                return Some(());
            }
            mend_at(&mut skb.bytes, l4 + 6, from, to)?;
            match be16(&skb.bytes, l4 + 6)? {
                0 => put(&mut skb.bytes, l4 + 6, &[0xff, 0xff]),
                _ => Some(()),
            }
        }
        (proto::ICMP, _) => {
            need(skb, l4 + 8)?;
            if !matches!(byte(&skb.bytes, l4)?, 3 | 4 | 5 | 11 | 12) {
                return Some(());
            }
            // An error: the packet inside it went the other way. Its own checksums stay.
            let inner = l4 + 8;
            need(skb, inner + IPV4)?;
            match replace(&mut skb.bytes, inner + if nat.egress { 16 } else { 12 }, nat)? {
                Some((from, to)) => mend_at(&mut skb.bytes, l4 + 2, from, to),
                None => Some(()),
            }
        }
        _ => Some(()),
    }
}

/// Replaces the address at `at` if it is the one looked for: what it was and what it is.
fn replace(bytes: &mut [u8], at: usize, nat: &StatelessNat) -> Option<Option<([u8; 4], [u8; 4])>> {
    let from: [u8; 4] = array(bytes, at)?;
    let address = u32::from_be_bytes(from);
    if (nat.old ^ address) & nat.mask != 0 {
        return Some(None);
    }
    let to = (nat.new & nat.mask | address & !nat.mask).to_be_bytes();
    put(bytes, at, &to)?;
    Some(Some((from, to)))
}

fn mend_at(bytes: &mut [u8], at: usize, from: [u8; 4], to: [u8; 4]) -> Option<()> {
    let check = mend(be16(bytes, at)?, &from, &to);
    put(bytes, at, &check.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{dropped, sent, through};
    use flowmerge::flower::ActionKind;

    // Checksums by a program that computes them from nothing: 10.0.0.1 > 10.0.0.2, and 192.0.2.9 in place of the former.
    const TCP: &str = "4500002c00050000400666c50a0000010a00000203e800500000000100000002501020009ed0000064617461";
    const TCP_OUT: &str = "4500002c000500004006aebcc00002090a00000203e80050000000010000000250102000e6c7000064617461";
    const TCP_IN: &str = "4500002c000500004006aebd0a000001c000020903e80050000000010000000250102000e6c8000064617461";
    const UDP: &str = "4500001e00050000401166c80a0000010a00000200070008000a835f6869";
    const UDP_OUT: &str = "4500001e000500004011aebfc00002090a00000200070008000acb566869";
    const ERROR: &str = "4500003800050000400166be0a0000010a0000020301f8c5000000004500002c00050000400666c5\
                         0a0000020a00000103e8005000000001";
    const ERROR_OUT: &str = "45000038000500004001aeb5c00002090a000002030140bd000000004500002c00050000400666c5\
                             0a000002c000020903e8005000000001";

    fn nat(egress: bool, old: [u8; 4], mask: u32) -> ActionKind {
        let new = u32::from_be_bytes([192, 0, 2, 9]);
        ActionKind::Nat(StatelessNat { old: u32::from_be_bytes(old) & mask, new: new & mask, mask, egress })
    }

    fn out() -> ActionKind {
        nat(true, [10, 0, 0, 1], u32::MAX)
    }

    #[track_caller]
    fn becomes(nat: ActionKind, ip: &str, expected: &str) {
        assert_eq!(sent(&through(vec![nat], &format!("0800{ip}"))), format!("0800{expected}"));
    }

    #[test]
    fn an_address_is_replaced_and_checksums_mended() {
        becomes(out(), TCP, TCP_OUT);
        becomes(out(), UDP, UDP_OUT);
        becomes(nat(false, [10, 0, 0, 2], u32::MAX), TCP, TCP_IN);
        becomes(nat(true, [10, 0, 0, 2], u32::MAX), TCP, TCP);
        // Without a checksum UDP stays so.
        let none = UDP.replace("835f", "0000");
        becomes(out(), &none, &UDP_OUT.replace("cb56", "0000"));
        // A prefix: the rest of the address stays.
        becomes(
            nat(true, [10, 0, 0, 0], 0xff00_0000),
            UDP,
            &UDP.replace("66c80a00", "b0c7c000").replace("835f", "cd5e"),
        );
    }

    /// An error's own address, and the one of the packet that it is about, whose checksums stay.
    #[test]
    fn errors_are_translated_inside_and_out() {
        becomes(out(), ERROR, ERROR_OUT);
        // From another host: only what is inside.
        let other = |text: &str| format!("{}0a000007{}", &text[..24], &text[32..]);
        let inside = format!("{}{}", &other(ERROR)[..40], &ERROR_OUT[40..]);
        becomes(out(), &other(ERROR), &inside);
        // An echo has nothing inside.
        let echo = |text: &str| format!("{}08{}", &text[..40], &text[42..]);
        becomes(out(), &echo(ERROR), &echo(&format!("{}{}", &ERROR_OUT[..40], &ERROR[40..])));
    }

    #[test]
    fn fragments_have_an_address_alone() {
        let later = |text: &str| text.replacen("00050000", "00050001", 1);
        let expected = later(&format!("{}{}", &TCP_OUT[..40], &TCP[40..]));
        becomes(out(), &later(TCP), &expected);
        let error = later(ERROR);
        becomes(out(), &error, &format!("{}{}", &later(ERROR_OUT)[..40], &ERROR[40..]));
    }

    /// What is cut off is dropped, and of what is no IPv4 the kernel reads whatever is there.
    #[test]
    fn headers_that_are_not_there() {
        let cut = |ip: &str, len: usize| through(vec![out()], &format!("0800{}", &ip[..2 * len]));
        for (ip, header) in [(TCP, 40), (UDP, 28), (ERROR, 48)] {
            assert!(dropped(&cut(ip, header - 1)), "{ip}");
            assert!(!dropped(&cut(ip, header)), "{ip}");
        }
        assert!(dropped(&cut(TCP, 19)));
        let of_none = sent(&through(vec![nat(true, [0x61; 4], u32::MAX)], &format!("1234{}", "61".repeat(20))));
        // At 12 the address, at 10 what would be its checksum: 0x6161 + 2 * 0x6161 - 0xc000 - 0x0209, ends around: 0x621a.
        assert_eq!(of_none, format!("1234{}621ac0000209{}", "61".repeat(10), "61".repeat(4)));
    }
}
