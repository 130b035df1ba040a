//! `mpls` (`net/sched/act_mpls.c`, `net/core/skbuff.c`, `skb_mpls_*`): entries of a label stack go on and off.
//!
//! All of it is reckoned from the end of the link header, as long as the kernel has that on record (`mac_len`); an accelerated tag is
//! beside the bytes and stays outermost. Of tags in the bytes a push knows nothing: it writes its ethertype where the first tag's
//! stands, while a pop writes the new one in front of what is uncovered.

use crate::{
    bytes::{be32, put},
    skb::{Refused, Skb, insert_tag},
};
use flowmerge::{
    flower::{
        action::{Mpls, MplsEntry},
        ethertype::is_mpls,
    },
    packet::dissect::ETHERNET,
};

/// Length of an entry.
const ENTRY: usize = 4;

/// The bit of an entry that says that it is the bottom of the stack.
const BOTTOM: u32 = 1 << 8;

impl Skb {
    /// The `mpls` action's work (`tcf_mpls_act`). Refused: to be dropped.
    pub(super) fn mpls(&mut self, mpls: &Mpls) -> Result<(), Refused> {
        let before = self.packet().to_vec();
        if self.at_ingress {
            self.data = self.data.checked_sub(self.mac_len).ok_or(Refused)?;
        }
        let link = if self.at_ingress { self.mac_len } else { self.network };
        match *mpls {
            Mpls::Pop { protocol } => self.mpls_pop(protocol, link)?,
            Mpls::Push { protocol, entry } => {
                let entry = fresh(&entry, !is_mpls(self.inner_protocol()));
                self.mpls_push(entry, protocol, link)?;
                if link >= ETHERNET {
                    put(&mut self.bytes, ETHERNET - 2, &protocol.to_be_bytes());
                }
            }
            Mpls::PushMac { protocol, entry } => {
                if let Some(tag) = self.tag {
                    self.writable(ETHERNET)?;
                    insert_tag(&mut self.bytes, tag);
                    self.protocol = tag.protocol;
                    self.tag = None;
                }
                let entry = fresh(&entry, link > 0 || !is_mpls(self.protocol));
                self.mpls_push(entry, protocol, 0)?;
            }
            Mpls::Modify(entry) => {
                self.writable(self.network + ENTRY)?;
                let (kept, written) = entry.write();
                self.mpls_update(|old| Some(old & kept | written))?;
            }
            Mpls::DecTtl => self.mpls_update(|old| match old as u8 {
                1 => None,
                ttl => Some(old & !0xff | u32::from(ttl.wrapping_sub(1))),
            })?,
        }
        if self.at_ingress {
            self.data += self.mac_len;
        }
        self.summed.keep(&before, self.bytes.get(self.data..).unwrap_or_default());
        Ok(())
    }

    /// The bytes up to `end` are there, and in one piece (`skb_ensure_writable`).
    fn writable(&mut self, end: usize) -> Result<(), Refused> {
        self.pull(end);
        if end <= self.bytes.len() { Ok(()) } else { Err(Refused) }
    }

    /// `skb_mpls_push`, but for the ethertype in the bytes: the network header starts with the entry.
    fn mpls_push(&mut self, entry: u32, protocol: u16, link: usize) -> Result<(), Refused> {
        if !is_mpls(protocol) || link > self.bytes.len() {
            return Err(Refused);
        }
        self.bytes.splice(link..link, entry.to_be_bytes());
        self.network = link;
        self.mac_len = link;
        self.protocol = protocol;
        Ok(())
    }

    /// `skb_mpls_pop`: what is no label stack stays as it is. The entry is taken from behind the link header, wherever the
    /// network header is.
    fn mpls_pop(&mut self, protocol: u16, link: usize) -> Result<(), Refused> {
        if !is_mpls(self.protocol) {
            return Ok(());
        }
        self.writable(link + ENTRY)?;
        self.bytes.drain(link..link + ENTRY);
        self.network = link;
        if link >= ETHERNET {
            put(&mut self.bytes, link - 2, &protocol.to_be_bytes());
        }
        self.protocol = protocol;
        Ok(())
    }

    /// `skb_mpls_update_lse`: the entry at the network header becomes another.
    fn mpls_update(&mut self, change: impl Fn(u32) -> Option<u32>) -> Result<(), Refused> {
        if !is_mpls(self.protocol) {
            return Err(Refused);
        }
        self.writable(self.network + ENTRY)?;
        let old = be32(&self.bytes, self.network).ok_or(Refused)?;
        let new = change(old).ok_or(Refused)?;
        self.writable(self.mac_len + ENTRY)?;
        put(&mut self.bytes, self.network, &new.to_be_bytes()).ok_or(Refused)
    }
}

/// A new entry; `bottom` where the action does not say whether it is that of the stack.
fn fresh(entry: &MplsEntry, bottom: bool) -> u32 {
    let (_, written) = entry.write();
    written | if bottom && entry.bos.is_none() { BOTTOM } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{LINK, Tracker, action, add, dropped, model, receive, sent, through, to};
    use flowmerge::flower::{ActionKind, Control, Field, Hook, Match, Port, action::Vlan};

    const IP: &str = "45000018000900004063667a0a0000010a00000261626364";

    fn entry(label: u32) -> MplsEntry {
        MplsEntry { label: Some(label), tc: None, bos: None, ttl: Some(64) }
    }

    fn push(label: u32) -> ActionKind {
        let entry = MplsEntry { tc: Some(3), ..entry(label) };
        ActionKind::Mpls(Mpls::Push { protocol: 0x8847, entry })
    }

    fn pop(protocol: u16) -> ActionKind {
        ActionKind::Mpls(Mpls::Pop { protocol })
    }

    fn push_vlan(id: u16) -> ActionKind {
        ActionKind::Vlan(Vlan::Push { protocol: 0x8100, id, prio: 0 })
    }

    #[track_caller]
    fn becomes(actions: &[ActionKind], frame: &str, expected: &str) {
        let plain = |text: &str| text.replace(' ', "");
        let outcome = through(actions.to_vec(), &plain(&format!("{frame}{IP}")));
        assert_eq!(sent(&outcome), plain(&format!("{expected}{IP}")));
    }

    #[test]
    fn entries_go_behind_the_link_header() {
        becomes(&[push(5)], "0800", "8847 00005740");
        becomes(&[push(5), push(6)], "0800", "8847 00006640 00005740");
        becomes(&[push(5)], "81000007 0800", "81000007 8847 00005740");
        becomes(&[push(5), push_vlan(7)], "0800", "81000007 8847 00005740");
        becomes(&[push_vlan(7), push(5), ActionKind::Vlan(Vlan::Pop)], "0800", "8847 00005740");
        let given = MplsEntry { bos: Some(false), ..entry(5) };
        becomes(&[ActionKind::Mpls(Mpls::Push { protocol: 0x8848, entry: given })], "0800", "8848 00005040");
    }

    /// The arrived frame's second tag is in the bytes, and its ethertype gives way to that of the labels.
    #[test]
    fn of_tags_in_the_bytes_a_push_knows_nothing() {
        becomes(&[push(5)], "88a80001 81000002 0800", "88a80001 8847 00005740 0002 0800");
        // Pushed tags are part of the link header. The pop writes in front of what it uncovers: the other mistake stays.
        let tags = [push_vlan(5), push_vlan(6)];
        let all = [&tags[..], &[push(9)]].concat();
        becomes(&all, "0800", "81000006 8847 0005 0800 00009740");
        becomes(&[&all[..], &[pop(0x86dd)]].concat(), "0800", "81000006 8847 0005 86dd");
    }

    #[test]
    fn entries_come_off() {
        becomes(&[pop(0x0800)], "8847 00005740", "0800");
        becomes(&[pop(0x8847)], "8848 00006640 00005740", "8847 00005740");
        becomes(&[pop(0x0800)], "81000007 8847 00005740", "81000007 0800");
        becomes(&[pop(0x86dd)], "0800", "0800");
        // What is behind a tag in the bytes is not found.
        becomes(&[pop(0x0800)], "88a80001 81000002 8847 00005740", "88a80001 81000002 8847 00005740");
        assert!(dropped(&through(vec![pop(0x0800)], "8847000057")));
    }

    #[test]
    fn the_outer_entry_changes() {
        let modify = |entry| ActionKind::Mpls(Mpls::Modify(entry));
        let label = MplsEntry { label: Some(9), ..MplsEntry::default() };
        becomes(&[modify(label)], "8847 00006640 00005740", "8847 00009640 00005740");
        let rest = MplsEntry { tc: Some(0), bos: Some(true), ttl: Some(1), label: None };
        becomes(&[modify(rest)], "8847 00006640", "8847 00006101");
        let count = ActionKind::Mpls(Mpls::DecTtl);
        becomes(&[count.clone(), count.clone()], "8847 00006640", "8847 0000663e");
        becomes(std::slice::from_ref(&count), "8847 00006600", "8847 000066ff");
        for kind in [modify(label), count] {
            for bad in ["0800", "8847000066", "8100000288470000"] {
                assert!(dropped(&through(
                    vec![kind.clone()],
                    &format!("{bad}{}", if bad == "0800" { IP } else { "" })
                )));
            }
        }
        assert!(dropped(&through(vec![ActionKind::Mpls(Mpls::DecTtl)], "884700006601")));
    }

    /// The whole frame is carried: an accelerated tag is in it then, and what was the link header is none any more.
    #[test]
    fn an_entry_in_front_of_the_ethernet_header() {
        let push_mac = ActionKind::Mpls(Mpls::PushMac { protocol: 0x8847, entry: entry(5) });
        let plain = through(vec![push_mac.clone()], &format!("0800{IP}"));
        assert_eq!(sent(&plain), format!("00005140{LINK}0800{IP}"));
        let tagged = through(vec![push_mac.clone(), push_mac.clone()], &format!("810000070800{IP}"));
        assert_eq!(sent(&tagged), format!("0000504000005140{LINK}810000070800{IP}"));
        let off = through(vec![push_mac.clone(), pop(0x0800)], &format!("0800{IP}"));
        assert_eq!(sent(&off), format!("0800{IP}"));
        // Counted is what came in; a later filter sees the entry, and its bytes as addresses.
        let mut model = model();
        let hook = Hook::Ingress(Port(1));
        let into = vec![action(push_mac, Control::Goto(1))];
        add(&mut model, hook, 0, 1, Match::default(), into);
        let sees = Match::default().exact(Field::Protocol, 0x8847).exact(Field::MplsLabel, 5).exact(Field::MplsBos, 1);
        add(&mut model, hook, 1, 1, sees.exact(Field::EthDst, 0x0000_5140_0200), vec![to(2)]);
        let outcome = receive(&mut model, &mut Tracker::default(), &format!("{LINK}0800{IP}"));
        assert_eq!(outcome.sent.len(), 1);
        assert_eq!(outcome.counted.iter().map(|c| c.bytes).collect::<Vec<_>>(), [24, 24]);
    }

    /// At egress the link header ends where the network header is.
    #[test]
    fn at_an_egress_hook() {
        let mut model = model();
        add(&mut model, Hook::Ingress(Port(1)), 0, 1, Match::default(), vec![to(2)]);
        add(
            &mut model,
            Hook::Egress(Port(2)),
            0,
            1,
            Match::default(),
            vec![
                action(push(5), Control::Pipe),
                action(push(6), Control::Pipe),
                action(ActionKind::Mpls(Mpls::DecTtl), Control::Pipe),
                action(pop(0x8848), Control::Ok),
            ],
        );
        let mut through = |frame: &str| receive(&mut model, &mut Tracker::default(), &format!("{LINK}{frame}{IP}"));
        assert_eq!(sent(&through("0800")), format!("884800005740{IP}"));
        assert_eq!(sent(&through("810000070800")), format!("81000007884800005740{IP}"));
    }
}
