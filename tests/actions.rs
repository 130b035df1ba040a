//! A merged filter's actions in the table against the same actions in the model of TC: the same frames leave.
//!
//! With one tag at most, that is: with two, TC looks for the network header where the inner tag is, hardware behind it.

use flowmerge::{
    conntrack::Connection,
    flower::{
        Action, ActionKind, Control, Filter, FilterId, Hook, Match, Port,
        action::{CsumFlags, Mirred, Nat, Pedit, PeditHeader, PeditKey, Vlan},
    },
    packet::apply::{Trim, apply},
};
use merge_model::{
    Model, PortState,
    conntrack::{Conntrack, EntryId, Shown, Tracked},
};
use proptest::prelude::*;

/// No action here asks for it.
struct NoConntrack;

impl Conntrack for NoConntrack {
    fn track(&mut self, _: u16, _: &Shown) -> Tracked {
        Tracked::Invalid
    }
    fn connection(&self, _: EntryId) -> &Connection {
        unreachable!("nothing is tracked")
    }
    fn is_confirmed(&self, _: EntryId) -> bool {
        false
    }
    fn translate(&mut self, _: EntryId, _: &Nat) {}
    fn commit(&mut self, _: EntryId, _: Option<(u32, u32)>, _: Option<(u128, u128)>) -> Option<EntryId> {
        None
    }
    fn kill(&mut self, _: EntryId) {}
}

fn action() -> impl Strategy<Value = Action> {
    use PeditHeader::*;
    let header = prop::sample::select(vec![Network, Ethernet, Ipv4, Ipv6, Tcp, Udp]);
    let key = (header, 0i32..15, any::<[u8; 4]>(), any::<[u8; 4]>(), any::<bool>());
    let key = key.prop_map(|(header, word, mask, value, add)| PeditKey {
        header,
        // Neither the ethertype, nor the IPv4 header's length: what Linux reads behind the packet's end is not defined.
        offset: match header {
            Ethernet => word % 3,
            Tcp | Udp => word,
            Network | Ipv4 | Ipv6 => word + 1,
        } * 4,
        mask,
        value,
        add,
        dynamic: None,
    });
    let keys = prop::collection::vec(key, 1..3);
    let id = 0u16..0x1000;
    let kind = prop_oneof![
        3 => keys.prop_map(|keys| ActionKind::Pedit(Pedit { keys, mend: false })),
        2 => (0u32..128).prop_map(|bits| ActionKind::Csum(CsumFlags::from_bits_truncate(bits))),
        1 => Just(ActionKind::Vlan(Vlan::Pop)),
        1 => (id.clone(), 0u8..8).prop_map(|(id, prio)| ActionKind::Vlan(Vlan::Push { protocol: 0x8100, id, prio })),
        1 => (id, prop::option::of(0u8..8)).prop_map(|(id, prio)| ActionKind::Vlan(Vlan::Modify { protocol: 0x88a8, id, prio })),
        1 => Just(ActionKind::Mirred(Mirred { port: Port(2), ingress: false, mirror: true })),
    ];
    kind.prop_map(|kind| Action { kind, control: Control::Pipe, index: 1, cookie: Vec::new() })
}

/// A frame whose headers are mostly whole.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let proto = prop::sample::select(vec![1u8, 2, 6, 17, 58, 132, 136, 0, 43, 44, 60]);
    let bytes = prop::collection::vec(any::<u8>(), 0..80);
    (any::<bool>(), any::<bool>(), proto, bytes, 0usize..4, 0usize..4).prop_map(
        |(tagged, v6, proto, mut body, cut, tail)| {
            let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
            if tagged {
                f.extend([0x81, 0, 0x20, 5]);
            }
            let length = body.len();
            // UDP's length, right as often as not, and headers behind an option header.
            if body.len() > 8 && body[7] & 1 == 0 {
                body[4..6].copy_from_slice(&(length as u16).to_be_bytes());
                if matches!(proto, 0 | 43 | 60) {
                    body[..2].copy_from_slice(&[17, 0]);
                }
            }
            if v6 {
                f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                f.extend((length as u16).to_be_bytes());
                f.extend([proto, 64]);
                f.extend([7; 32]);
            } else {
                let fragment = if proto == 44 { 1 } else { 0 };
                f.extend([8, 0, 0x45, 0]);
                f.extend((20 + length as u16).to_be_bytes());
                f.extend([0, 1, 0, fragment, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            }
            f.extend(body);
            f.truncate(f.len() - cut / 3);
            f.extend(vec![0; tail]);
            f
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn the_table_sends_what_tc_sends(frame in frame(), mut actions in prop::collection::vec(action(), 0..6)) {
        let mut tagged = frame[12..14] == [0x81, 0];
        actions.retain(|action| match &action.kind {
            ActionKind::Vlan(Vlan::Push { .. }) if tagged => false,
            ActionKind::Vlan(vlan) => {
                tagged = match vlan {
                    Vlan::Pop => false,
                    Vlan::Push { .. } => true,
                    _ => tagged,
                };
                true
            }
            _ => true,
        });
        actions.push(Action::redirect(Port(3)));
        let mut model = Model::new();
        for port in 1..4 {
            model.set_port(Port(port), PortState { up: true, mtu: 1500 });
        }
        let id = FilterId { hook: Hook::Ingress(Port(1)), chain: 0, prio: 1, protocol: 3, handle: 1 };
        model.filters.replace(Filter::flower(id, Match::default(), actions.clone()));
        let software = model.receive(Port(1), &frame, 1, &mut NoConntrack);
        let software: Vec<_> = software.sent.into_iter().map(|s| (s.port, s.frame)).collect();
        let hardware = apply(&actions, Trim::Never, &frame).expect("supported");
        let hardware: Vec<_> = hardware.sent.into_iter().map(|s| (s.port, s.frame)).collect();
        prop_assert_eq!(hardware, software);
    }
}
