//! Relays: filters that see what others made of a packet. One rewrites or retags what it matches and sends it on, and where it
//! comes to, another compares what was written; a third may stand in front of that. Filters put together by chance seldom meet so.

use super::{
    actions,
    matches::{self, Shape},
    pipeline::Planner,
    rarer,
};
use flowmerge::flower::{
    Action, ActionKind, Control, Field, Match, Tunnel,
    action::{CsumFlags, Mirred, Mpls, MplsEntry, Pedit, PeditHeader, PeditKey, TunnelKey, Vlan},
    ethertype as et,
};

/// The chains that relays send packets on in.
const CHAINS: [u32; 2] = [30, 31];

impl Planner<'_> {
    /// A relay at some port.
    pub fn relay(&mut self) {
        let port = actions::any_port(self.dice);
        let mut hook = self.hook(port);
        let mut shape = self.dressed();
        let proto = *self.dice.pick(&[0u8, 6, 17, 17]);
        let mut m = self.of(shape, proto);
        matches::refine(&mut m, self.dice, self.universe, shape, 1);
        let mut chain = 0;
        // What stands under labels that were pushed.
        let mut under = Vec::new();
        let mut wrapped = None;
        for next in CHAINS.into_iter().take(self.dice.between(1, 2)) {
            let (mut list, mut written) = (Vec::new(), Vec::new());
            let before = shape;
            for _ in 0..self.dice.between(1, 2) {
                let kind = match self.dice.below(100) {
                    0..30 => self.retag(&mut shape, &mut written),
                    30..48 => self.relabel(&mut shape, &mut under, &mut written),
                    48..60 => self.wrap(&mut wrapped),
                    _ => self.rewrite(before, proto, &mut written),
                };
                list.push(Action::new(kind, Control::Pipe));
            }
            if self.dice.percent(15) {
                let mirred = Mirred { port: actions::any_port(self.dice), ingress: false, mirror: true };
                let at = self.dice.below(list.len() + 1);
                list.insert(at, Action::new(ActionKind::Mirred(mirred), Control::Pipe));
            }
            if self.dice.percent(40) && before.is_ip() {
                let flags = CsumFlags::IPV4 | CsumFlags::TCP | CsumFlags::UDP;
                list.push(Action::new(ActionKind::Csum(flags), Control::Pipe));
            }
            let (from, at) = (hook, chain);
            if self.dice.percent(20) {
                let other = actions::any_port(self.dice);
                let mirred = Mirred { port: other, ingress: true, mirror: false };
                list.push(Action::new(ActionKind::Mirred(mirred), Control::Stolen));
                (hook, chain) = (self.hook(other), 0);
            } else {
                list.push(Action::gact(Control::Goto(next)));
                chain = next;
            }
            self.add(from, at, 3, before, m, list);
            m = self.of(shape, proto);
            if let Some(tunnel) = &wrapped
                && self.dice.percent(80)
            {
                matches::of_tunnel(&mut m, self.dice, self.universe, tunnel);
            }
            for (field, value) in written {
                if self.dice.percent(70) {
                    matches::compare(&mut m, self.dice, self.universe, field, value);
                }
            }
            if self.dice.percent(50) {
                let mut shadow = self.of(shape, 0);
                matches::refine(&mut shadow, self.dice, self.universe, shape, 3);
                let end = Action::redirect(actions::any_port(self.dice));
                self.add(hook, chain, 2, shape, shadow, vec![end]);
            }
        }
        let end = match self.dice.percent(85) {
            true => Action::redirect(actions::any_port(self.dice)),
            false => Action::gact(*self.dice.pick(&[Control::Ok, Control::Shot, Control::Trap])),
        };
        self.add(hook, chain, 3, shape, m, vec![end]);
    }

    /// IP, in many cases with tags.
    fn dressed(&mut self) -> Shape {
        let ethertype = if self.dice.percent(self.universe.v6_share) { et::IPV6 } else { et::IPV4 };
        let tag = *self.dice.pick(&[et::VLAN, et::QINQ]);
        match self.dice.below(10) {
            0..5 => Shape::plain(ethertype),
            5..8 => Shape { protocol: tag, tags: [tag, 0], ethertype },
            _ => Shape { protocol: tag, tags: [tag, et::VLAN], ethertype },
        }
    }

    fn of(&mut self, shape: Shape, proto: u8) -> Match {
        let mut m = matches::base(shape);
        if proto != 0 && shape.is_ip() {
            m.set(Field::IpProto, proto.into(), 0xff);
        }
        m
    }

    /// Rewrites something, and notes what it is then.
    fn rewrite(&mut self, shape: Shape, proto: u8, written: &mut Vec<(Field, u128)>) -> ActionKind {
        let n = self.dice.below(6) as u32;
        let l4 = if proto == 6 { PeditHeader::Tcp } else { PeditHeader::Udp };
        let port = u32::from(*self.dice.pick(&[80u16, 8000, 1000, 1001]));
        let set = |header, offset, mask: u32, value: u32| PeditKey {
            header,
            offset,
            mask: mask.to_be_bytes(),
            value: value.to_be_bytes(),
            add: false,
            dynamic: None,
        };
        let (key, field, value) = match (self.dice.below(6), shape.ethertype) {
            (0, _) | (_, et::MPLS | et::MPLS_MC) => {
                (set(PeditHeader::Ethernet, 8, 0, 0xaa00 + n), Field::EthSrc, u128::from(0xaa00 + n))
            }
            (1, _) if proto != 0 => (set(l4, 0, 0xffff_0000, port), Field::DstPort, port.into()),
            (2, _) if proto != 0 => (set(l4, 0, 0x0000_ffff, port << 16), Field::SrcPort, port.into()),
            (3, et::IPV4) => {
                (set(PeditHeader::Ipv4, 16, 0, 0x0a00_0000 + n), Field::Ipv4Dst, u128::from(0x0a00_0000 + n))
            }
            // Of packets that come with 64.
            (4, et::IPV4) => {
                let key = set(PeditHeader::Ipv4, 8, 0x00ff_ffff, 0xff00_0000);
                (PeditKey { add: true, ..key }, Field::IpTtl, 63)
            }
            (_, et::IPV4) => (set(PeditHeader::Ipv4, 0, 0xff03_ffff, 0x00b8_0000), Field::IpTos, 0xb8),
            (3, _) => (set(PeditHeader::Ipv6, 36, 0, n), Field::Ipv6Dst, 0xfd << 120 | u128::from(n)),
            (4, _) => (set(PeditHeader::Ipv6, 4, 0xffff_ff00, 63 + n), Field::IpTtl, u128::from(63 + n)),
            _ => (set(PeditHeader::Ipv6, 0, 0xf00f_ffff, 0x0b80_0000), Field::IpTos, 0xb8),
        };
        written.push((field, value));
        ActionKind::Pedit(Pedit { keys: vec![key], mend: false })
    }

    /// Puts an entry on the label stack, takes one off or changes it, and notes what the outer one is then.
    fn relabel(&mut self, shape: &mut Shape, under: &mut Vec<u16>, written: &mut Vec<(Field, u128)>) -> ActionKind {
        written.retain(|(field, _)| !Field::MPLS.iter().flatten().any(|f| f == field));
        let is_mpls = et::is_mpls(shape.ethertype);
        let (label, ttl) = (rarer::label(self.dice), *self.dice.pick(&[64u8, 255, 2]));
        let protocol = *self.dice.pick(&[et::MPLS, et::MPLS, et::MPLS_MC]);
        let entry = MplsEntry { label: Some(label), tc: None, bos: None, ttl: Some(ttl) };
        let mut now = shape.ethertype;
        let mpls = match (self.dice.below(5), under.pop()) {
            (0 | 1, Some(behind)) => {
                now = behind;
                Mpls::Pop { protocol: behind }
            }
            (2, behind) if is_mpls => {
                under.extend(behind);
                written.extend([(Field::MplsLabel, label.into()), (Field::MplsTtl, ttl.into())]);
                Mpls::Modify(MplsEntry { tc: None, ..entry })
            }
            (3, behind) if is_mpls => {
                under.extend(behind);
                written.push((Field::MplsTtl, 63));
                Mpls::DecTtl
            }
            (_, behind) => {
                under.extend(behind);
                under.push(now);
                now = protocol;
                let bottom = u128::from(!is_mpls);
                written.extend([
                    (Field::MplsLabel, label.into()),
                    (Field::MplsBos, bottom),
                    (Field::MplsTtl, ttl.into()),
                ]);
                Mpls::Push { protocol, entry }
            }
        };
        shape.ethertype = now;
        if shape.tags[0] == 0 {
            shape.protocol = now;
        }
        ActionKind::Mpls(mpls)
    }

    /// Says through which tunnel the packet is to go, or none.
    fn wrap(&mut self, wrapped: &mut Option<Tunnel>) -> ActionKind {
        let kind = rarer::tunnel_key(self.dice, self.universe);
        *wrapped = match &kind {
            ActionKind::TunnelKey(TunnelKey::Set(tunnel)) => Some((**tunnel).clone()),
            _ => None,
        };
        kind
    }

    /// Puts a tag on, takes one off or changes it, and notes what the outer one is then.
    fn retag(&mut self, shape: &mut Shape, written: &mut Vec<(Field, u128)>) -> ActionKind {
        let protocol = *self.dice.pick(&[et::VLAN, et::QINQ]);
        let id = *self.dice.pick(&[10u16, 11, 20]);
        let prio = self.dice.below(8) as u8;
        let of_tags = [Field::VlanId, Field::VlanPrio, Field::CvlanId, Field::CvlanPrio];
        let is_tagged = shape.tags[0] != 0;
        let vlan = match self.dice.below(4) {
            0 | 1 if is_tagged => Vlan::Pop,
            2 if is_tagged => Vlan::Modify { protocol, id, prio: self.dice.percent(50).then_some(prio) },
            _ => Vlan::Push { protocol, id, prio },
        };
        written.retain(|(field, _)| !of_tags.contains(field));
        shape.tags = match (vlan, shape.tags) {
            (Vlan::Pop, [_, inner]) => [inner, 0],
            (Vlan::Modify { .. }, [_, inner]) => [protocol, inner],
            (_, [outer, _]) => [protocol, outer],
        };
        shape.protocol = if shape.tags[0] == 0 { shape.ethertype } else { shape.tags[0] };
        match vlan {
            Vlan::Pop => {}
            Vlan::Push { .. } => written.extend([(Field::VlanId, id.into()), (Field::VlanPrio, prio.into())]),
            _ => written.push((Field::VlanId, id.into())),
        }
        ActionKind::Vlan(vlan)
    }
}
