//! Labels: what `mpls` does to the fields.
//!
//! The dissector looks at labels, and never behind them: a label that goes on hides the headers behind it, which then read 0; one that
//! the packet arrived with and that comes off uncovers headers that the arrived packet's key does not hold. Only what a push
//! hid a pop can bring back.

use super::{State, TAGS, Value, lies_behind_tags};
use crate::{
    flower::{
        ActionKind, Field, FilterId,
        action::{Mpls, MplsEntry},
        ethertype,
    },
    merge::{refusal::Refusal, shadow::Shadow},
};

const BEHIND: &str = "it lies behind an MPLS label that the packet arrived with, and flower does not look there";

const NO_BOTTOM: &str = "it is read from what is no label, behind one that is not the bottom of the stack";

/// What a label that was pushed hides.
#[derive(Clone, Debug)]
pub(super) struct Hidden {
    /// The ethertype of the network header.
    network: u16,
    fields: Vec<(Field, Value)>,
}

impl State<'_> {
    /// Runs an `mpls` action (`net/sched/act_mpls.c`).
    pub fn mpls(&mut self, filter: FilterId, mpls: Mpls) -> Result<(), Refusal> {
        self.must_read_ip(filter, "mpls")?;
        let network = self.network(filter)?;
        match mpls {
            Mpls::PushMac { .. } => {
                let why = "it puts a label in front of the Ethernet header";
                return Err(Refusal::action(filter, "mpls", why));
            }
            Mpls::Push { .. } if ethertype::is_vlan(network) => {
                let why = "it puts a label between the tags";
                return Err(Refusal::unfit(filter, "mpls", why));
            }
            Mpls::Push { protocol, entry } => self.push_label(network, protocol, entry),
            Mpls::Pop { .. } if !ethertype::is_mpls(network) => {}
            Mpls::Pop { protocol } => self.pop_label(filter, protocol)?,
            Mpls::Modify(entry) => self.modify_label(filter, entry)?,
            Mpls::DecTtl => self.count_down(filter)?,
        }
        Ok(())
    }

    /// Refuses what drops a packet without a whole label.
    pub fn must_have_label(&mut self, filter: FilterId, action: &str) -> Result<(), Refusal> {
        let network = self.network(filter)?;
        if !ethertype::is_mpls(network) || self.decide(filter, Field::Mpls1)? == 0 {
            let why = "it drops a packet without an MPLS label, or does nothing to it";
            return Err(Refusal::unfit(filter, action, why));
        }
        Ok(())
    }

    fn push_label(&mut self, network: u16, protocol: u16, entry: MplsEntry) {
        let fields = Field::ALL.iter().copied().filter(|&f| lies_behind_tags(f));
        self.hidden.push(Hidden { network, fields: fields.map(|f| (f, self.held(f))).collect() });
        self.labels_more += 1;
        let entry = MplsEntry { bos: Some(entry.bos.unwrap_or(!ethertype::is_mpls(network))), ..entry };
        self.program.reshape(ActionKind::Mpls(Mpls::Push { protocol, entry }));
        if ethertype::is_mpls(network) {
            for depth in (1..Field::MPLS.len()).rev() {
                self.move_entry(depth - 1, depth);
            }
        } else {
            // Nothing behind the label is seen.
            let hidden = Field::ALL.iter().copied().filter(|&f| lies_behind_tags(f));
            hidden.for_each(|field| self.set(field, Value::known(0)));
        }
        let [present, label, tc, bottom, ttl] = Field::MPLS[0];
        let (_, new) = entry.write();
        let new = u128::from(new);
        for (field, value) in [(present, 1), (label, new >> 12), (tc, new >> 9), (bottom, new >> 8), (ttl, new)] {
            self.set(field, Value::known(value & field.ones()));
        }
        // At the bottom the dissector stops, whatever is behind; else it reads on, also what is no label.
        match entry.bos {
            Some(true) => self.set_entries_from(1, |_| Value::known(0)),
            _ if ethertype::is_mpls(network) => {}
            _ => self.set_entries_from(1, |field| Value::hidden(NO_BOTTOM, field)),
        }
        self.set_network(protocol, Value::known(protocol.into()));
    }

    fn pop_label(&mut self, filter: FilterId, protocol: u16) -> Result<(), Refusal> {
        self.must_have_label(filter, "mpls")?;
        if ethertype::carries(protocol) && !ethertype::is_mpls(protocol) {
            let why = "what it says is behind the label carries something else";
            return Err(Refusal::unfit(filter, "mpls", why));
        }
        let bottom = self.decide(filter, Field::MplsBos)?;
        self.labels_more -= 1;
        let below = self.hidden.pop();
        match &below {
            Some(hidden) if hidden.network == protocol => self.program.unlabel(protocol),
            _ => self.program.reshape(ActionKind::Mpls(Mpls::Pop { protocol })),
        }
        match below {
            Some(Hidden { network, fields }) if network == protocol => {
                fields.into_iter().for_each(|(field, value)| self.set(field, value));
                let innermost = self.held(Field::EthType);
                self.set_network(protocol, innermost);
            }
            below => {
                let hidden = Field::ALL.iter().copied().filter(|&f| lies_behind_tags(f));
                let was_seen = below.is_none() && bottom == 0 && ethertype::is_mpls(protocol);
                if was_seen {
                    (1..Field::MPLS.len()).for_each(|depth| self.move_entry(depth, depth - 1));
                    self.set_entries_from(Field::MPLS.len() - 1, |field| Value::hidden(BEHIND, field));
                    self.set_network(protocol, Value::known(protocol.into()));
                } else {
                    hidden.for_each(|field| self.set(field, Value::hidden(BEHIND, field)));
                    self.set_network(protocol, Value::hidden(BEHIND, Field::EthType));
                    self.hidden.clear();
                }
            }
        }
        Ok(())
    }

    fn modify_label(&mut self, filter: FilterId, entry: MplsEntry) -> Result<(), Refusal> {
        self.must_have_label(filter, "mpls")?;
        if let Some(bottom) = entry.bos {
            let was = self.decide(filter, Field::MplsBos)? == 1;
            match (was, bottom) {
                (false, true) => self.set_entries_from(1, |_| Value::known(0)),
                (true, false) => self.set_entries_from(1, |field| Value::hidden(BEHIND, field)),
                _ => {}
            }
        }
        let (kept, written) = entry.write();
        let [_, label, tc, bottom, ttl] = Field::MPLS[0];
        for (field, shift) in [(label, 12), (tc, 9), (bottom, 8), (ttl, 0)] {
            let part = |word: u32| u128::from(word >> shift) & field.ones();
            self.set(field, self.view(field).written(part(kept), part(written)));
        }
        self.program.reshape(ActionKind::Mpls(Mpls::Modify(entry)));
        Ok(())
    }

    fn count_down(&mut self, filter: FilterId) -> Result<(), Refusal> {
        self.must_have_label(filter, "mpls")?;
        let ttl = self.view(Field::MplsTtl);
        if self.now(ttl) == 1 {
            self.decide(filter, Field::MplsTtl)?;
            let why = "it drops a packet of which it counts the TTL down to nothing";
            return Err(Refusal::unfit(filter, "mpls", why));
        }
        self.shadows.extend(Shadow::value(self, filter, Field::MplsTtl, 1, 0xff));
        self.set(Field::MplsTtl, ttl.plus(255));
        self.program.reshape(ActionKind::Mpls(Mpls::DecTtl));
        Ok(())
    }

    fn move_entry(&mut self, from: usize, to: usize) {
        for (from, to) in std::iter::zip(Field::MPLS[from], Field::MPLS[to]) {
            self.set(to, self.held(from));
        }
    }

    fn set_entries_from(&mut self, depth: usize, value: impl Fn(Field) -> Value) {
        for &field in Field::MPLS[depth..].as_flattened() {
            self.set(field, value(field));
        }
    }

    /// The network header is of this ethertype now; there is one tag in front of it at most.
    fn set_network(&mut self, ethertype: u16, innermost: Value) {
        let tagged = ethertype::is_vlan(self.now(self.held(TAGS[0])) as u16);
        let field = if tagged { Field::VlanEthType } else { Field::Protocol };
        self.set(field, Value::known(ethertype.into()));
        self.set(Field::EthType, innermost);
    }
}
