//! The actions of random filters: each changes one of the few bits that filters compare, or sends, or decides.

use crate::{
    connections::ZONES,
    outer,
    rng::Rng,
    universe::{PORT, VID, World},
};
use flowmerge::flower::{
    Action, ActionKind, Control, Port,
    action::{
        CsumFlags, Ct, Mirred, Mpls, MplsEntry, Nat, Pedit, PeditHeader, PeditKey, Police, Random, Sample, Skbedit,
        Skbmod, StatelessNat, Vlan,
    },
    ethertype,
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

/// Shared policers: one to which all packets conform at first, and one that they exceed.
pub const POLICER: u32 = 7;
/// See [`POLICER`].
pub const EXCEEDED: u32 = 8;

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
    pub world: World,
    pub network: u16,
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

/// What a filter does that is about ARP or labels: of these `pedit` has no header of their own.
fn network_word(rng: &mut Rng, network: u16) -> ActionKind {
    let v = rng.below(4) as u8;
    let flip = rng.chance(20);
    let at = |at, bits, value| byte(PeditHeader::Network, at, bits, value, flip);
    let key = match network {
        ethertype::MPLS | ethertype::MPLS_MC => match rng.below(8) {
            0..3 => at(1, 0x30, v << 4),
            3..5 => at(3, rng.pick(&[0xff, 3, 1]), v),
            5 => at(2, rng.pick(&[0xf, 1, 2]), v),
            6 => at(5, 0x30, v << 4),
            _ => added(at(3, 0xff, 0), rng.pick(&[255, 1])),
        },
        _ => match rng.below(10) {
            0 if rng.chance(20) => at(rng.pick(&[1, 3, 4, 5]), 0xff, v),
            0..2 => at(7, rng.pick(&[0xff, 3, 1]), v),
            2..5 => at(17, rng.pick(&[0xff, 3, 1]), v),
            5..8 => at(27, rng.pick(&[0xff, 3, 1]), v),
            8 => at(13, 0xff, v),
            _ => at(23, 0xff, v),
        },
    };
    ActionKind::Pedit(Pedit { keys: vec![key], mend: false })
}

fn mpls(rng: &mut Rng, network: u16) -> Mpls {
    let some = |rng: &mut Rng, percent| rng.chance(percent);
    let label = 0x10 + rng.below(4);
    let ttl = rng.pick(&[1, 2, 3, 64]);
    let protocol = rng.pick(&[0x8847, 0x8847, 0x8847, 0x8848]);
    let is_labelled = ethertype::is_mpls(network);
    match if is_labelled || rng.chance(15) { rng.below(20) } else { 19 } {
        0..8 => Mpls::Pop { protocol: rng.pick(&[0x8847, 0x8847, 0x8848, 0x800, 0x800, 0x86dd, 0x806, 0x8100]) },
        8..11 => Mpls::Modify(MplsEntry {
            label: some(rng, 50).then_some(label),
            tc: some(rng, 20).then_some(1),
            bos: some(rng, 40).then(|| some(rng, 60)),
            ttl: some(rng, 40).then_some(ttl),
        }),
        11..15 => Mpls::DecTtl,
        15 if rng.chance(10) => {
            Mpls::PushMac { protocol, entry: MplsEntry { label: Some(label), ..MplsEntry::default() } }
        }
        _ => Mpls::Push {
            protocol,
            entry: MplsEntry {
                label: Some(label),
                tc: some(rng, 20).then_some(1),
                bos: some(rng, 12).then(|| some(rng, 50)),
                ttl: Some(ttl),
            },
        },
    }
}

fn stateless(rng: &mut Rng) -> StatelessNat {
    let [old, new] = [0, 0].map(|_| 0x0a00_0000 | rng.below(4));
    let mask = rng.pick(&[u32::MAX, u32::MAX, 3, 1, 0xffff_ff00, 0]);
    StatelessNat { old: old & mask, new: new & mask, mask, egress: rng.chance(50) }
}

fn skbmod(rng: &mut Rng, ip: bool) -> Skbmod {
    let address = |rng: &mut Rng, last| rng.chance(60).then(|| [2, 0, 0, 0, 0, last | rng.below(2) as u8]);
    match rng.below(10) {
        0..3 => Skbmod::Swap,
        3..6 if ip => Skbmod::Ecn,
        _ => Skbmod::Set {
            dst: address(rng, 2),
            src: address(rng, 4),
            ethertype: rng.chance(15).then(|| rng.pick(&[0x800, 0x88cc])),
        },
    }
}

fn police(rng: &mut Rng) -> Action {
    let kind = ActionKind::Police(Police {
        shared: rng.chance(92),
        conform: if rng.chance(95) { Control::Pipe } else { Control::Ok },
        rate: 1_000_000,
        burst: 1_000_000,
        ..Police::default()
    });
    let control = if rng.chance(95) { Control::Shot } else { Control::Pipe };
    Action { index: if rng.chance(75) { POLICER } else { EXCEEDED }, ..Action::new(kind, control) }
}

/// Whether an action is the policer to which packets conform at first.
pub fn is_policer(action: &Action) -> bool {
    matches!(action.kind, ActionKind::Police(_)) && action.index == POLICER
}

/// An action that is about what the universe is about.
fn special(rng: &mut Rng, fits: Fits) -> Vec<Action> {
    let pipe = |kind| vec![Action::new(kind, Control::Pipe)];
    let has_word = fits.network == ethertype::ARP || ethertype::is_mpls(fits.network);
    match fits.world {
        World::Labels if has_word && rng.chance(15) => pipe(network_word(rng, fits.network)),
        World::Labels if rng.chance(20) => {
            // On and off again: what is behind comes back.
            let (label, ttl) = (Some(0x10 + rng.below(4)), Some(2));
            let entry = MplsEntry { label, ttl, ..MplsEntry::default() };
            let mut both = pipe(ActionKind::Mpls(Mpls::Push { protocol: 0x8847, entry }));
            if rng.chance(30) {
                both.extend(pipe(ActionKind::Mpls(mpls(rng, ethertype::MPLS))));
            }
            both.extend(pipe(ActionKind::Mpls(Mpls::Pop { protocol: fits.network })));
            both
        }
        World::Labels => pipe(ActionKind::Mpls(mpls(rng, fits.network))),
        World::Tunnels => pipe(ActionKind::TunnelKey(outer::tunnel_key(rng))),
        World::Link => match rng.below(20) {
            0..8 if has_word => pipe(network_word(rng, fits.network)),
            0..12 => pipe(ActionKind::Skbmod(skbmod(rng, fits.ip))),
            12..14 => pipe(ActionKind::Vlan(Vlan::PopEthernet)),
            14 | 15 => {
                let (dst, src) = ([2, 0, 0, 0, 0, 2 | rng.below(2) as u8], [2, 0, 0, 0, 0, 4 | rng.below(2) as u8]);
                let mut both = pipe(ActionKind::Vlan(Vlan::PopEthernet));
                if rng.chance(20) {
                    both.extend(pipe(ActionKind::Mpls(mpls(rng, fits.network))));
                }
                both.extend(pipe(ActionKind::Vlan(Vlan::PushEthernet { dst, src })));
                both
            }
            _ if rng.chance(20) => pipe(ActionKind::Sample(Sample { rate: 2, group: 1, truncate: None })),
            _ => pipe(ActionKind::Vlan(Vlan::PushEthernet { dst: [2; 6], src: [4; 6] })),
        },
        World::Rewrites => match rng.below(20) {
            0..9 if fits.ip && !fits.v6 => pipe(ActionKind::Nat(stateless(rng))),
            0..14 if fits.ip => pipe(ActionKind::Skbmod(Skbmod::Ecn)),
            14 => pipe(ActionKind::Skbmod(skbmod(rng, fits.ip))),
            _ => vec![police(rng)],
        },
        World::Ip => match rng.below(6) {
            0..2 if fits.ip && !fits.v6 => pipe(ActionKind::Nat(stateless(rng))),
            0..4 => pipe(ActionKind::Skbmod(skbmod(rng, fits.ip))),
            _ => vec![police(rng)],
        },
    }
}

/// Some actions before the last: few of them where the filter is only a link of a line.
pub fn middle(rng: &mut Rng, fits: Fits, plain: bool, connections: bool) -> Vec<Action> {
    let mut out: Vec<Action> = Vec::new();
    let then = |out: &mut Vec<Action>, kind| out.push(Action::new(kind, Control::Pipe));
    if connections && rng.chance(if plain { 50 } else { 12 }) {
        then(&mut out, ct(rng));
    }
    for _ in 0..rng.below(if plain { 2 } else { 3 }) {
        if rng.chance(if fits.world == World::Ip { 6 } else { 65 }) {
            out.extend(special(rng, fits));
            continue;
        }
        let kind = match rng.below(20) {
            0..9 => {
                then(&mut out, pedit(rng, fits));
                // Behind a label may be what is no IP header, of which nobody tells what it has for a checksum.
                match fits.world != World::Labels && rng.chance(70) {
                    true => ActionKind::Csum(CsumFlags::IPV4 | CsumFlags::TCP | CsumFlags::UDP),
                    false => continue,
                }
            }
            9..12 => vlan(rng),
            12..14 if fits.tagged => vlan(rng),
            12..15 => mirred(rng, true),
            15 if fits.world != World::Labels => ActionKind::Csum(CsumFlags::from_bits_truncate(rng.below(32))),
            16 => ActionKind::Skbedit(Skbedit { priority: Some(rng.below(3)), ..Skbedit::default() }),
            17 if connections => ct(rng),
            18 => mirred(rng, false),
            _ => ActionKind::Gact { random: None },
        };
        then(&mut out, kind);
    }
    // A jump starts again at the first action: over itself, or for ever.
    for (i, action) in out.iter_mut().enumerate() {
        if matches!(action.kind, ActionKind::Gact { .. }) && rng.chance(60) {
            let back = rng.chance(8);
            action.control = Control::Jump(if back { rng.below(2) } else { i as u32 + 1 + rng.below(2) });
        }
    }
    out
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
