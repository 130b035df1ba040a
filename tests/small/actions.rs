//! The actions of random filters: each changes one of the few bits that filters compare, or sends, or decides.

use crate::{
    connections::ZONES,
    rng::Rng,
    universe::{PORT, VID},
};
use flowmerge::flower::{
    Action, ActionKind, Control, Port,
    action::{CsumFlags, Ct, Mirred, Nat, Pedit, PeditHeader, PeditKey, Random, Skbedit, Vlan},
};

/// Where packets come in.
pub const IN: Port = Port(1);
/// Where most go out.
pub const OUT: Port = Port(2);
/// Another one.
pub const OTHER: Port = Port(3);
/// It has filters of its own.
pub const INNER: Port = Port(4);
/// It has filters at its egress hook.
pub const GUARDED: Port = Port(5);
/// It is down.
pub const DOWN: Port = Port(6);

/// One word: of the byte at `at` the bits of `bits` become `value`, or (`flip`) are flipped by it.
fn byte(header: PeditHeader, at: i32, bits: u8, value: u8, flip: bool) -> PeditKey {
    let mut key = PeditKey { header, offset: at & !3, mask: [0xff; 4], value: [0; 4], add: false, dynamic: None };
    let i = (at & 3) as usize;
    key.mask[i] = if flip { 0xff } else { !bits };
    key.value[i] = value & bits;
    key
}

fn added(key: PeditKey, n: u8) -> PeditKey {
    let value = key.mask.map(|m| if m == 0xff { 0 } else { n & !m });
    PeditKey { value, add: true, ..key }
}

/// What most packets of a filter are, so that most of its rewrites find what they rewrite.
#[derive(Clone, Copy, Debug)]
pub struct Fits {
    pub v6: bool,
    pub ip: bool,
    pub tcp: bool,
    pub tagged: bool,
}

/// A rewrite of one of the fields.
fn pedit(rng: &mut Rng, Fits { v6, ip, tcp, .. }: Fits) -> ActionKind {
    // Now and then what the filter's packets do not have.
    let (v6, ip, tcp) = (v6 ^ rng.chance(3), ip || rng.chance(10), tcp ^ rng.chance(5));
    let network = match rng.below(16) {
        0 => PeditHeader::Network,
        _ if v6 => PeditHeader::Ipv6,
        _ => PeditHeader::Ipv4,
    };
    let transport = if tcp { PeditHeader::Tcp } else { PeditHeader::Udp };
    let v = rng.below(8) as u8;
    let bits = rng.pick(&[0xff, 0xff, 3, 1, 2]);
    let flip = rng.chance(20);
    let ttl = if v6 { 7 } else { 8 };
    let key = match if ip { rng.below(9) } else { 7 } {
        0 | 1 => byte(network, if v6 { 39 } else { 19 }, bits, v & 3, flip),
        2 => byte(network, if v6 { 23 } else { 15 }, bits, v & 3, flip),
        3 | 4 => {
            let n = rng.pick(&[255, 255, 255, 254, 1, 2, 253]);
            added(byte(network, ttl, 0xff, 0, false), n)
        }
        5 => byte(network, ttl, rng.pick(&[0xff, 7, 4, 3]), v, flip),
        6 if !v6 => byte(network, 1, rng.pick(&[0xff, 5, 4, 1]), v & 5, flip),
        6 => byte(network, 1, 0x10, v << 4, flip),
        7 => byte(PeditHeader::Ethernet, 5, rng.pick(&[0xff, 1]), 2 | v & 1, flip && bits == 1),
        _ => {
            let at = rng.pick(&[1, 3]);
            let key = byte(transport, at, rng.pick(&[0xff, 7, 1, 4]), PORT as u8 | v, flip);
            // Half of a port, which no mask of the arrived one tells.
            if rng.chance(6) { added(key, 1) } else { key }
        }
    };
    let mut keys = vec![key];
    match rng.below(20) {
        0 | 1 => keys.push(byte(network, ttl, 3, v, false)),
        2 if ip => keys = vec![byte(network, ttl, 3, v, false), added(byte(network, ttl, 0xff, 0, false), 255)],
        _ => {}
    }
    ActionKind::Pedit(Pedit { keys, mend: false })
}

/// Sets the last bit of the Ethernet destination.
pub fn turn_mac(to: u8) -> Action {
    let keys = vec![byte(PeditHeader::Ethernet, 5, 1, to, false)];
    Action::new(ActionKind::Pedit(Pedit { keys, mend: false }), Control::Pipe)
}

/// A `ct`, mostly plain or with `nat`.
pub fn ct(rng: &mut Rng) -> ActionKind {
    let what = rng.below(24);
    ActionKind::Ct(Ct {
        zone: rng.pick(&ZONES),
        nat: rng.chance(60).then(Nat::default),
        clear: what == 0,
        force: what == 1,
        commit: matches!(what, 2..=5),
        mark: (what == 2).then(|| (rng.below(4), 3)),
        labels: (what == 3).then(|| (u128::from(rng.below(4)) << 4, 0x30)),
        ..Ct::default()
    })
}

fn mirred(rng: &mut Rng, mirror: bool) -> ActionKind {
    let (port, ingress) = match rng.below(16) {
        0..9 => (OUT, false),
        9..11 => (OTHER, false),
        11 => (OTHER, true),
        12..14 => (INNER, true),
        14 => (GUARDED, false),
        _ => (DOWN, false),
    };
    ActionKind::Mirred(Mirred { port, ingress, mirror })
}

fn vlan(rng: &mut Rng) -> ActionKind {
    let protocol = rng.pick(&[0x8100, 0x8100, 0x88a8]);
    let (id, prio) = (VID | rng.below(4) as u16, rng.below(2) as u8);
    ActionKind::Vlan(match rng.below(4) {
        0 | 1 => Vlan::Pop,
        2 => Vlan::Push { protocol, id, prio },
        _ => Vlan::Modify { protocol, id, prio: rng.chance(50).then_some(prio) },
    })
}

/// Some actions before the last: few of them where the filter is only a link of a line.
pub fn middle(rng: &mut Rng, fits: Fits, plain: bool, connections: bool) -> Vec<Action> {
    let mut out = Vec::new();
    if connections && rng.chance(if plain { 50 } else { 12 }) {
        out.push(ct(rng));
    }
    for _ in 0..rng.below(if plain { 2 } else { 3 }) {
        match rng.below(20) {
            0..9 => {
                out.push(pedit(rng, fits));
                if rng.chance(70) {
                    out.push(ActionKind::Csum(CsumFlags::IPV4 | CsumFlags::TCP | CsumFlags::UDP));
                }
            }
            9..12 => out.push(vlan(rng)),
            12..14 if fits.tagged => out.push(vlan(rng)),
            12..15 => out.push(mirred(rng, true)),
            15 => out.push(ActionKind::Csum(CsumFlags::from_bits_truncate(rng.below(32)))),
            16 => out.push(ActionKind::Skbedit(Skbedit { priority: Some(rng.below(3)), ..Skbedit::default() })),
            17 if connections => out.push(ct(rng)),
            18 => out.push(mirred(rng, false)),
            _ => out.push(ActionKind::Gact { random: None }),
        }
    }
    // A jump starts again at the first action: over itself, or for ever.
    let control = |(i, kind): (usize, ActionKind)| match kind {
        ActionKind::Gact { .. } if rng.chance(60) => {
            let back = rng.chance(8);
            Action::new(kind, Control::Jump(if back { rng.below(2) } else { i as u32 + 1 + rng.below(2) }))
        }
        _ => Action::new(kind, Control::Pipe),
    };
    out.into_iter().enumerate().map(control).collect()
}

/// The last action, if there is one: where the packet goes, or where classification goes on.
pub fn last(rng: &mut Rng, chain: u32, chains: u32, plain: bool) -> Option<Action> {
    let on = |rng: &mut Rng| Action::gact(Control::Goto(chain + 1 + rng.below(chains - chain - 1)));
    if chain + 1 < chains && rng.chance(if plain { 75 } else { 35 }) {
        return Some(on(rng));
    }
    if plain || rng.chance(45) {
        let out = if rng.chance(40) { mirred(rng, false) } else { Action::redirect(OUT).kind };
        return Some(Action::new(out, Control::Stolen));
    }
    let random = Some(Random { kind: 1, value: 2, control: Control::Shot });
    match rng.below(60) {
        0..14 => Some(Action::gact(Control::Shot)),
        14..22 => Some(Action::gact(Control::Ok)),
        22..28 => Some(Action::gact(Control::Trap)),
        28..43 => Some(Action::gact(Control::Continue)),
        43 | 44 => Some(Action::gact(Control::Reclassify)),
        45 => Some(Action::gact(Control::Goto(rng.below(chains + 1)))),
        46 => Some(Action::gact(Control::Queued)),
        47 => Some(Action::gact(Control::Repeat)),
        48 => Some(Action::new(ActionKind::Gact { random }, Control::Ok)),
        49 => Some(Action::new(mirred(rng, true), Control::Shot)),
        50 => Some(Action::new(mirred(rng, true), Control::Goto(chain + 1))),
        51 => Some(Action::new(ct(rng), Control::Ok)),
        _ => None,
    }
}
