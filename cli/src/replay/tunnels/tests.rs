use super::*;
use flowmerge::{
    flower::tunnel::{Erspan, GeneveOption},
    netlink::{Envelope, Link, ROUTE},
};

const VXLAN: Encapsulation = Encapsulation::Vxlan { port: 4789, policy: true };
const GENEVE: Encapsulation = Encapsulation::Geneve { port: 6081 };
const GRE: Encapsulation = Encapsulation::Gre { ipv6: false };
/// The tunnel device, and the port beneath.
const T1: Port = Port(7);
const U1: Port = Port(8);

fn link(encapsulation: Encapsulation, collects_metadata: bool) -> Message {
    Message::Link(Link {
        index: T1.0,
        name: "t1".to_owned(),
        kind: None,
        master: None,
        tunnel: Some(TunnelDevice { encapsulation, collects_metadata }),
        up: true,
        carrier: true,
        link_layer: 1,
        address: vec![],
        mtu: 1450,
    })
}

/// A frame with this type of service and number in it, under a tag or not.
fn inner(tos: u8, number: u8, tag: &[u8]) -> Vec<u8> {
    let mut frame = [&[2; 12][..], tag, &[8, 0, 0x45, tos, 0, 20, 0, number]].concat();
    frame.resize(frame.len() + 14, 0);
    frame
}

/// What a tunnel's end sends.
struct Outside {
    tos: u8,
    ttl: u8,
    bits: u16,
    protocol: u8,
    header: Vec<u8>,
}

/// VXLAN with this identifier.
fn vxlan(id: u8) -> Outside {
    Outside { tos: 0, ttl: 64, bits: 0, protocol: 17, header: vec![8, 0, 0, 0, 0, 0, id, 0] }
}

impl Outside {
    fn around(&self, inner: &[u8]) -> Vec<u8> {
        let payload = [&self.header[..], inner].concat();
        let port: u16 = if self.header[2..4] == [0x65, 0x58] { 6081 } else { 4789 };
        let segment = match self.protocol {
            17 => {
                let words = [9999, port, 8 + payload.len() as u16, 1].map(u16::to_be_bytes);
                [&words.concat()[..], &payload].concat()
            }
            _ => payload,
        };
        let [a, b] = (20 + segment.len() as u16).to_be_bytes();
        let [c, d] = self.bits.to_be_bytes();
        let header = [0x45, self.tos, a, b, 0, 0, c, d, self.ttl, self.protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        [&[0xaa; 12][..], &[8, 0], &header, &segment].concat()
    }
}

fn at(stamp: u64, what: What) -> Step {
    Step { number: stamp, time: stamp, stamp, what }
}

fn tunnels(encapsulation: Encapsulation, steps: &[Step]) -> Tunnels {
    Tunnels::new([&link(encapsulation, true)].into_iter(), steps)
}

/// The identifiers with which frames were received, by position.
fn ids(tunnels: &Tunnels, positions: std::ops::Range<usize>) -> Vec<Option<Option<u32>>> {
    positions.map(|at| tunnels.received(at).map(|known| known.and_then(|tunnel| tunnel.id))).collect()
}

#[test]
fn a_received_frame_has_the_metadata_of_the_outer_packet_at_its_time() {
    let (one, two) = (inner(0, 1, &[]), inner(0, 2, &[]));
    let outer = |id, frame: &[u8]| What::Received(U1, vxlan(id).around(frame));
    let steps = [
        at(1000, outer(7, &one)),
        at(1000, What::Received(T1, one.clone())),
        // The other file order.
        at(2000, What::Received(T1, two.clone())),
        at(2000, outer(8, &two)),
        // The same frame twice at a time, and once without.
        at(3000, outer(9, &one)),
        at(3000, outer(10, &one)),
        at(3000, What::Received(T1, one.clone())),
        at(3000, What::Received(T1, one.clone())),
        at(3000, What::Received(T1, one.clone())),
    ];
    let got = ids(&tunnels(VXLAN, &steps), 0..9);
    let some = |id| Some(Some(id));
    assert_eq!(got, [None, some(7), some(8), None, None, None, some(9), some(10), Some(None)]);
}

#[test]
fn another_frame_or_another_time_is_no_outer_packet() {
    let frame = inner(0, 1, &[]);
    let outer = |stamp| at(stamp, What::Received(U1, vxlan(7).around(&frame)));
    let received = |stamp| at(stamp, What::Received(T1, frame.clone()));
    let known = |steps: &[Step]| tunnels(VXLAN, steps).received(1).unwrap().is_some();
    let second = 1_000_000_000;
    assert!(known(&[outer(second), received(second)]));
    assert!(known(&[outer(second), received(second + 9000)]), "it was stamped anew");
    assert!(!known(&[outer(second), received(second - 1)]), "it came later");
    assert!(!known(&[outer(second), received(2 * second)]), "it came long before");
    let other = at(second, What::Received(U1, vxlan(7).around(&inner(0, 2, &[]))));
    assert!(!known(&[other, received(second)]));
    let sent = at(second, What::Sent(U1, vxlan(7).around(&frame)));
    assert!(!known(&[sent, received(second)]), "it went the other way");
    let geneve = tunnels(GENEVE, &[outer(second), received(second)]);
    assert_eq!(geneve.received(1), Some(None), "of another kind");
}

#[test]
fn congestion_marks_may_have_gone_over_to_the_frame() {
    let (mut before, mut after) = (inner(2, 1, &[]), inner(3, 1, &[]));
    // The checksum changes with the mark, whatever it was.
    (before[25], after[25]) = (9, 8);
    let outside = Outside { tos: 3, ..vxlan(7) };
    let steps = [at(5, What::Received(U1, outside.around(&before))), at(5, What::Received(T1, after))];
    assert_eq!(ids(&tunnels(VXLAN, &steps), 1..2), [Some(Some(7))]);
}

#[test]
fn a_device_is_a_tunnels_end_for_as_long_as_it_is_told_so() {
    let frame = inner(0, 1, &[]);
    let told = |message| What::Told(Envelope { family: ROUTE, flags: 0, sequence: 0, port_id: 0, message });
    let both = || [at(5, What::Received(U1, vxlan(7).around(&frame))), at(5, What::Received(T1, frame.clone()))];
    let Message::Link(device) = link(VXLAN, true) else { unreachable!() };
    let mut steps = Vec::from(both());
    steps.push(at(5, told(link(VXLAN, true))));
    steps.extend(both());
    steps.push(at(5, told(link(VXLAN, false))));
    steps.extend(both());
    steps.push(at(5, told(link(VXLAN, true))));
    steps.push(at(5, told(Message::LinkGone(device))));
    steps.extend(both());
    let tunnels = Tunnels::new([].into_iter(), &steps);
    let known: Vec<_> = (0..steps.len()).filter(|&at| tunnels.received(at).is_some()).collect();
    assert_eq!(known, [4]);
}

/// A frame that goes to a tunnel device, and leaves in this; what differs from the metadata, if anything.
fn leaves(encapsulation: Encapsulation, metadata: &Tunnel, frame: &[u8], outside: &Outside) -> Option<Box<Said>> {
    let steps = [at(1, What::Sent(T1, frame.to_vec())), at(9, What::Sent(U1, outside.around(frame)))];
    let tunnels = tunnels(encapsulation, &steps);
    assert!(tunnels.is_outer(1) && !tunnels.is_outer(0));
    tunnels.sent(0).expect("its outer packet is there").differs(metadata, frame)
}

/// What `tunnel_key set id 7 src_ip 10.0.0.1 dst_ip 10.0.0.2` says.
fn metadata() -> Tunnel {
    Tunnel {
        id: Some(7),
        src: [10, 0, 0, 1].into(),
        dst: [10, 0, 0, 2].into(),
        src_port: 0,
        dst_port: 0,
        tos: 0,
        ttl: 0,
        flags: TunnelFlags::CSUM,
        options: TunnelOptions::None,
    }
}

#[test]
fn whatever_metadata_says_is_compared() {
    let frame = inner(0, 1, &[]);
    let differs = |metadata: Tunnel| leaves(VXLAN, &metadata, &frame, &vxlan(7)).is_some();
    let same = metadata();
    assert!(!differs(same.clone()));
    assert!(!differs(Tunnel { ttl: 64, dst_port: 4789, src: [0; 4].into(), ..same.clone() }));
    for other in [
        Tunnel { id: Some(8), ..same.clone() },
        Tunnel { id: None, ..same.clone() },
        Tunnel { src: [10, 0, 0, 9].into(), ..same.clone() },
        Tunnel { dst: [10, 0, 0, 9].into(), ..same.clone() },
        Tunnel { dst_port: 4790, ..same.clone() },
        Tunnel { tos: 4, ..same.clone() },
        Tunnel { ttl: 63, ..same.clone() },
        Tunnel { flags: TunnelFlags::empty(), ..same.clone() },
        Tunnel { flags: TunnelFlags::CSUM | TunnelFlags::DONT_FRAGMENT, ..same.clone() },
        Tunnel { options: TunnelOptions::Vxlan { gbp: 1 }, ..same.clone() },
    ] {
        assert!(differs(other.clone()), "{other:?}");
    }
    let said = leaves(VXLAN, &Tunnel { id: Some(8), ..same.clone() }, &frame, &vxlan(7)).unwrap();
    assert_eq!((said.kernel.id, said.model.id), (Some(7), Some(8)));
    let firm = Outside { bits: 0x4000, ..vxlan(7) };
    assert!(leaves(VXLAN, &same, &frame, &firm).is_some());
}

#[test]
fn a_device_makes_its_own_of_some_metadata() {
    let frame = inner(0, 1, &[]);
    let none = Tunnel { options: TunnelOptions::Vxlan { gbp: 0 }, ..metadata() };
    assert_eq!(leaves(VXLAN, &none, &frame, &vxlan(7)), None, "a policy of nothing");
    let plain = Encapsulation::Vxlan { port: 4789, policy: false };
    let policy = Tunnel { options: TunnelOptions::Vxlan { gbp: 5 }, ..metadata() };
    assert_eq!(leaves(plain, &policy, &frame, &vxlan(7)), None, "a device that writes no policy");
    // Geneve: the device's port, whatever is asked for; options and flags as asked for.
    let header = vec![1, 0xc0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 0x80, 0];
    let geneve = Outside { header, ..vxlan(7) };
    let option = GeneveOption { class: 0x102, kind: 0x80, data: vec![] };
    let flags = TunnelFlags::CSUM | TunnelFlags::OAM | TunnelFlags::CRITICAL;
    let with = |kind| {
        let options = TunnelOptions::Geneve(vec![GeneveOption { kind, ..option.clone() }]);
        Tunnel { options, dst_port: 4444, flags, ..metadata() }
    };
    assert_eq!(leaves(GENEVE, &with(0x80), &frame, &geneve), None);
    assert!(leaves(GENEVE, &with(0x81), &frame, &geneve).is_some());
    assert!(leaves(GENEVE, &Tunnel { flags: TunnelFlags::CSUM, ..with(0x80) }, &frame, &geneve).is_some());
}

#[test]
fn gre_and_erspan_have_what_fits_into_them() {
    let frame = inner(0x2a, 1, &[]);
    // The mark is the frame's own.
    let gre = Outside { tos: 2, protocol: 47, header: vec![0x20, 0, 0x65, 0x58, 0, 0, 0, 7], ..vxlan(7) };
    let plain = Tunnel { flags: TunnelFlags::empty(), dst_port: 5, ..metadata() };
    assert_eq!(leaves(GRE, &plain, &frame, &gre), None);
    assert!(leaves(GRE, &Tunnel { id: None, ..plain.clone() }, &frame, &gre).is_some(), "a key of none is no key");
    let inherits = Tunnel { tos: 1, ..plain.clone() };
    assert_eq!(leaves(GRE, &inherits, &frame, &Outside { tos: 0x2a, ..gre }), None);
    let tagged = inner(0x2a, 1, &[0x81, 0, 0, 5]);
    let unmarked = |tos| Outside { tos, protocol: 47, header: vec![0x20, 0, 0x65, 0x58, 0, 0, 0, 7], ..vxlan(7) };
    assert_eq!(leaves(GRE, &plain, &tagged, &unmarked(0)), None, "nobody knows the mark");
    assert!(leaves(GRE, &plain, &tagged, &unmarked(4)).is_some());
    let header = vec![0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, 7, 0, 0, 0, 9];
    let erspan = Outside { tos: 2, protocol: 47, header, ..vxlan(7) };
    let with = |index| {
        let options = TunnelOptions::Erspan(Erspan::Index(index));
        // Ten bits of the identifier are sent.
        Tunnel { id: Some(0x407), options, ..metadata() }
    };
    let device = Encapsulation::Erspan { ipv6: false };
    assert_eq!(leaves(device, &with(9), &frame, &erspan), None);
    assert!(leaves(device, &with(8), &frame, &erspan).is_some());
}

#[test]
fn congestion_marks_stand_outside_too() {
    for (inside, outside) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
        let got = |tos| leaves(VXLAN, &metadata(), &inner(inside, 1, &[]), &Outside { tos, ..vxlan(7) });
        assert_eq!(got(outside), None, "{inside}");
        assert!(got(outside ^ 1).is_some(), "{inside}");
    }
}
