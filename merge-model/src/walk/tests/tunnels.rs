//! What goes beside the bytes: a tunnel's key.

use super::*;
use crate::Arrival;
use flowmerge::flower::{
    Tunnel,
    action::{Mirred, Sample, TunnelKey},
    tunnel::{TunnelFlags, TunnelOptions},
};

fn tunnel(id: u32) -> Tunnel {
    let [src, dst] = [1, 2].map(|n| [10, 9, 0, n].into());
    let (options, flags) = (TunnelOptions::Vxlan { gbp: 7 }, TunnelFlags::empty());
    Tunnel { id: Some(id), src, dst, src_port: 0, dst_port: 4789, tos: 0, ttl: 9, flags, options }
}

fn set(id: u32) -> Action {
    action(ActionKind::TunnelKey(TunnelKey::Set(Box::new(tunnel(id)))), Control::Pipe)
}

fn unset() -> Action {
    action(ActionKind::TunnelKey(TunnelKey::Unset), Control::Pipe)
}

fn arrive(model: &mut Model, tunnel: Option<&Tunnel>, frame: &str) -> Outcome {
    let frame = hex(frame);
    model.arrive(Arrival { port: Port(1), frame: &frame, tunnel, now: 1 }, &mut Tracker::default())
}

/// The tunnels that the frames sent are to go through, by identifier; 0 for none.
fn tunnels(outcome: &Outcome) -> Vec<(u32, u32)> {
    let id = |sent: &Sent| sent.tunnel.as_ref().map_or(0, |tunnel| tunnel.id.unwrap());
    outcome.sent.iter().map(|sent| (sent.port.0, id(sent))).collect()
}

#[test]
fn filters_see_the_tunnel_that_a_packet_came_through_and_the_one_it_is_to_go_through() {
    let mut model = model();
    let hook = Hook::Ingress(Port(1));
    let of = |id| Match::default().exact(Field::EncKeyId, id).exact(Field::EncIpv4Dst, 0x0a09_0002);
    let none = Match::default().exact(Field::EncAddrType, 0).exact(Field::EncOptsLen, 0);
    add(&mut model, hook, 0, 1, of(5), vec![set(6), gact(Control::Goto(1))]);
    add(&mut model, hook, 0, 2, none, vec![gact(Control::Goto(1))]);
    let policy = Match::default().exact(Field::EncOpts0, 7 << 96);
    add(&mut model, hook, 1, 1, of(6), vec![mirred(3, false, true), unset(), gact(Control::Goto(2))]);
    add(&mut model, hook, 1, 2, policy, vec![gact(Control::Shot)]);
    add(&mut model, hook, 1, 3, none, vec![to(2)]);
    add(&mut model, hook, 2, 1, none, vec![to(2)]);
    let outcome = arrive(&mut model, Some(&tunnel(5)), &frame("0800"));
    assert_eq!(tunnels(&outcome), [(3, 6), (2, 0)]);
    // The key is that of the arrival.
    assert_eq!((outcome.key.get(Field::EncKeyId), outcome.key.get(Field::EncTtl)), (5, 9));
    let outcome = arrive(&mut model, None, &frame("0800"));
    assert_eq!((tunnels(&outcome), outcome.key.get(Field::EncKeyId)), (vec![(2, 0)], 0));
    let other = arrive(&mut model, Some(&tunnel(4)), &frame("0800"));
    assert_eq!(other.verdict, Verdict::Missed { port: Port(1), chain: 0 });
}

/// From ingress to ingress it stays; from an egress hook to ingress it is dropped, and from there back out stays so.
#[test]
fn a_redirect_from_egress_to_ingress_drops_it() {
    let mut model = model();
    all(&mut model, Hook::Ingress(Port(1)), vec![mirred(2, true, false)]);
    all(&mut model, Hook::Ingress(Port(2)), vec![to(3)]);
    let seen = add(
        &mut model,
        Hook::Egress(Port(3)),
        0,
        1,
        Match::default().exact(Field::EncKeyId, 5),
        vec![
            action(ActionKind::Mirred(Mirred { port: Port(1), ingress: false, mirror: true }), Control::Pipe),
            mirred(4, true, true),
        ],
    );
    model.set_port(Port(4), PortState { up: true, mtu: 1500 });
    all(&mut model, Hook::Ingress(Port(4)), vec![to(2)]);
    let outcome = arrive(&mut model, Some(&tunnel(5)), &frame("0800"));
    assert_eq!(tunnels(&outcome), [(2, 5), (1, 5), (4, 0), (3, 5), (2, 0)]);
    assert_eq!(outcome.hits[2].filter, seen);
}

/// A reassembled packet has the tunnel of the fragment that came last, and so have the fragments made of it.
#[test]
fn the_last_fragment_says_which_tunnel() {
    let mut model = model();
    all(&mut model, Hook::Ingress(Port(1)), vec![ct(Ct { zone: 5, ..Ct::default() }, Control::Pipe), to(2)]);
    arrive(&mut model, Some(&tunnel(1)), FRAGMENTS[0]);
    arrive(&mut model, None, FRAGMENTS[1]);
    let last = arrive(&mut model, Some(&tunnel(3)), FRAGMENTS[2]);
    assert_eq!(tunnels(&last), [(2, 3), (2, 3), (2, 3)]);
    for fragment in &FRAGMENTS[..2] {
        arrive(&mut model, Some(&tunnel(1)), fragment);
    }
    assert_eq!(tunnels(&arrive(&mut model, None, FRAGMENTS[2])), [(2, 0), (2, 0), (2, 0)]);
}

#[test]
fn a_sample_does_nothing_to_the_packet() {
    let sample = Sample { rate: 1, group: 5, truncate: Some(10) };
    let outcome = run(vec![action(ActionKind::Sample(sample), Control::Pipe), to(2)], &frame("81000001 0800"));
    assert_eq!((out(&outcome), outcome.counted.len()), (vec![(2, "810000010800".to_string())], 2));
}
