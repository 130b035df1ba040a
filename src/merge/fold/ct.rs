//! `ct` in a walk: pins the connection's tuple, sets the state that later filters compare, writes the translation.

use super::{Current, Fold, Met};
use crate::{
    conntrack::{Connection, Direction, TCP_BYPASS, Tuple, proto, tuple::address_bits},
    flower::{
        Field, FilterId,
        action::{CsumFlags, Ct},
        ethertype,
        field::{addr_type, ct_state, ip_flags},
    },
    merge::{
        program::To,
        refusal::Refusal,
        state::{State, Want},
        symbol::{Param, Part, Value},
        template::{Condition, Is},
    },
};

impl<'a> Fold<'a> {
    pub(super) fn ct(&mut self, filter: FilterId, ct: &Ct, met: Option<Met<'a>>) -> Result<(), Refusal> {
        if ct.clear {
            for &field in Field::ALL.iter().filter(|f| f.is_conntrack()) {
                self.state.set(field, Value::known(0));
            }
            self.current = None;
            return Ok(());
        }
        self.state.must_read_ip(filter, "ct")?;
        let family = self.state.network(filter)?;
        if !matches!(family, ethertype::IPV4 | ethertype::IPV6) {
            let why = "it drops what is not IP";
            return Err(Refusal::unfit(filter, "ct", why));
        }
        let met = met.ok_or(Refusal::NoConnection { filter })?;
        met.connection.qualifies().map_err(|why| Refusal::NotQualified { filter, why })?;
        if met.connection.zone != ct.zone {
            return Err(Refusal::Broken { filter });
        }
        self.state.program.trim();
        let parts = Parts::new(family);
        let cached = self.current.filter(|c| c.zone == ct.zone);
        match cached {
            Some(c) if ct.force && c.direction == Direction::Reply => {
                let why = "with force it ends the connection that the packet belongs to";
                return Err(Refusal::unfit(filter, "ct", why));
            }
            Some(c) if (c.index, c.direction) != (met.index, met.direction) => return Err(Refusal::Broken { filter }),
            Some(_) => {}
            None => {
                let l4 = match met.connection.original.proto {
                    proto::TCP => CsumFlags::TCP,
                    _ => CsumFlags::UDP,
                };
                if self.state.stale.intersects(l4 | CsumFlags::IPV4) {
                    let why = "pedit left a checksum stale before it, which conntrack takes for invalid";
                    return Err(Refusal::unfit(filter, "ct", why));
                }
                self.pin(filter, &met, &parts)?;
            }
        }
        let pinned = cached.map_or_else(|| parts.all.map(|(field, ..)| self.state.view(field)), |c| c.pinned);
        self.current = Some(Current { zone: ct.zone, index: met.index, direction: met.direction, pinned });
        let reply = if met.direction == Direction::Reply { ct_state::REPLY } else { 0 };
        let state = ct_state::TRACKED | ct_state::ESTABLISHED | reply;
        self.state.set(Field::CtState, Value::known(state));
        self.state.set(Field::CtZone, Value::known(ct.zone as u128));
        let part = |part| Param { connection: met.index, direction: met.direction, part };
        self.state.set(Field::CtMark, Value::param(part(Part::Mark), Field::CtMark));
        self.state.set(Field::CtLabels, Value::param(part(Part::Labels), Field::CtLabels));
        if ct.nat.is_some() {
            self.translate(&met, &parts, &pinned);
        }
        if ct.commit {
            self.commit(filter, ct, &met)?;
        }
        Ok(())
    }

    /// Pins the connection's tuple as it is at this point, and what software must go on seeing stays out.
    fn pin(&mut self, filter: FilterId, met: &Met, parts: &Parts) -> Result<(), Refusal> {
        let known = |state: &mut State, field, mask, value| state.require(filter, field, mask, Want::Known(value));
        let l4 = met.connection.original.proto;
        known(&mut self.state, Field::EthType, 0xffff, parts.family as u128)?;
        known(&mut self.state, Field::AddrType, 0xffff, parts.addr_type)?;
        if self.state.decide(filter, Field::IpProto)? != u128::from(l4) {
            let why = "flower does not see the header that conntrack sees (an authentication header stands before it)";
            return Err(Refusal::unfit(filter, "ct", why));
        }
        self.state.exclude(filter, Field::IpFlags, ip_flags::FRAG, 0)?;
        if l4 == proto::TCP {
            let (mask, value) = TCP_BYPASS;
            self.state.exclude(filter, Field::TcpFlags, mask, value)?;
        }
        for (field, part, _) in parts.all {
            let param = Param { connection: met.index, direction: met.direction, part };
            self.state.require(filter, field, field.ones(), Want::Param(param))?;
        }
        Ok(())
    }

    /// `ct nat` on a connection: writes address and port of each end that is translated. What neither the translation nor
    /// an action since the lookup changed is left alone.
    fn translate(&mut self, met: &Met, parts: &Parts, pinned: &[Value; 4]) {
        let changes = changes(met.connection, met.direction);
        for (i, (field, _, new)) in parts.all.into_iter().enumerate() {
            let end_changes = changes[i] || changes[(i + 2) % 4];
            let param = Param { connection: met.index, direction: met.direction, part: new };
            let value = Value::param(param, field);
            let now = self.state.view(field);
            if end_changes && now != value && (changes[i] || now != pinned[i]) {
                self.state.program.translate(field, To::Param(param));
                self.state.set(field, value);
            }
        }
    }

    /// `ct commit` on an established connection must leave its mark and labels as they are.
    fn commit(&mut self, filter: FilterId, ct: &Ct, met: &Met) -> Result<(), Refusal> {
        let mark = ct.mark.filter(|m| m.1 != 0).map(|(v, m)| (v as u128, (m | v) as u128));
        let labels = ct.labels.filter(|l| l.1 != 0);
        for (set, part, field) in [(mark, Part::Mark, Field::CtMark), (labels, Part::Labels, Field::CtLabels)] {
            let Some((value, mask)) = set else { continue };
            let is = Is::Bits { param: Param { connection: met.index, direction: met.direction, part }, mask, value };
            let now = match part {
                Part::Mark => met.connection.mark as u128,
                _ => met.connection.labels,
            };
            if value & !mask != 0 || now & mask != value {
                return Err(Refusal::ChangesConnection { filter, field });
            }
            self.state.template.conditions.push(Condition::Holds(is));
        }
        Ok(())
    }
}

/// The fields of a tuple, with the parts of a connection that they are before and after translation.
struct Parts {
    family: u16,
    addr_type: u128,
    all: [(Field, Part, Part); 4],
}

impl Parts {
    fn new(family: u16) -> Parts {
        let (src, dst, addr_type) = match family {
            ethertype::IPV4 => (Field::Ipv4Src, Field::Ipv4Dst, addr_type::IPV4),
            _ => (Field::Ipv6Src, Field::Ipv6Dst, addr_type::IPV6),
        };
        let all = [
            (src, Part::Src, Part::NewSrc),
            (dst, Part::Dst, Part::NewDst),
            (Field::SrcPort, Part::SrcPort, Part::NewSrcPort),
            (Field::DstPort, Part::DstPort, Part::NewDstPort),
        ];
        Parts { family, addr_type, all }
    }
}

/// Which of source address, destination address, source port and destination port `nat` changes in a direction.
pub fn changes(connection: &Connection, direction: Direction) -> [bool; 4] {
    let parts = |t: Tuple| [address_bits(t.src), address_bits(t.dst), t.src_port as u128, t.dst_port as u128];
    let (old, new) = (parts(connection.tuple(direction)), parts(connection.translated(direction)));
    std::array::from_fn(|i| old[i] != new[i])
}
