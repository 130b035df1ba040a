//! What a merged filter does: the fewest actions that send the frames that the walk sends.
//!
//! The fold reports what happens to the packet in the order of the walk; nothing is emitted until something is sent. Then
//! the changes since the last send come out in one canonical order: tags off, words rewritten (writes to one word joined,
//! overwritten ones dropped), checksums, tags on. What is never sent is never done.

use super::symbol::{Param, Value};
use crate::{
    conntrack::{Connection, proto},
    flower::{
        Action, ActionKind, Control, Field, Port,
        action::{CsumFlags, Mirred, Mpls, Pedit, PeditHeader, PeditKey, Police, Skbedit, TunnelKey, Vlan},
        field::{Header, Place},
    },
    packet::apply::Trim,
};

/// One step of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// An action that is the same for every connection.
    Fixed(ActionKind, Control),
    /// A policer, by the index that it is shared by.
    Policed(Action),
    /// Rewrites fields as NAT does, checksums mended.
    Translate {
        /// What becomes what.
        fields: Vec<(Field, To)>,
        /// Checksums that were stale before it: computing them anew would right them.
        stale: CsumFlags,
    },
}

/// What a translation writes to a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// A part of a connection, whose protocol says which checksum covers it.
    Param(Param),
    /// Known bits.
    Known {
        /// The bits.
        mask: u128,
        /// Their value.
        value: u128,
        /// The checksums that cover them.
        covered: CsumFlags,
    },
}

impl To {
    /// Whether nothing is left of what the field held.
    fn is_whole(self, field: Field) -> bool {
        match self {
            To::Param(_) => true,
            To::Known { mask, .. } => mask == field.ones(),
        }
    }
}

/// A rewrite or checksum since the last send.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Write {
    Key(PeditKey),
    Mended(PeditKey),
    Translate(Field, To),
    Csum(CsumFlags),
}

/// Collects what the walk does, and emits it when something is sent.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    done: Vec<Instruction>,
    pops: usize,
    modified: Option<(u16, u16, Option<u8>)>,
    pushes: Vec<(u16, u16, u8)>,
    writes: Vec<Write>,
    edits: Vec<Skbedit>,
    trim: Option<usize>,
    /// Whether the tunnel that the packet came through is to be forgotten, and the one that it is to go through.
    decap: bool,
    encap: Option<TunnelKey>,
    /// How many instructions are behind the last send or policer: what follows is for nothing if nothing else is sent.
    wanted: usize,
    /// Checksums that what was emitted leaves stale.
    stale: CsumFlags,
}

/// What a merged filter does, before a connection's values are filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// In order.
    pub instructions: Vec<Instruction>,
    /// Before which of them software cuts off what follows the IP datagram: a `ct` stood there.
    pub trim: Option<usize>,
}

impl Builder {
    /// A word is rewritten; `key.header` names the real header. `mend`: checksums are mended for what changes.
    pub fn rewrite(&mut self, key: PeditKey, mend: bool) {
        self.writes.push(if mend { Write::Mended(key) } else { Write::Key(key) });
    }

    /// A field is translated, checksums mended.
    pub fn translate(&mut self, field: Field, to: To) {
        self.writes.push(Write::Translate(field, to));
    }

    /// Checksums are computed anew.
    pub fn checksum(&mut self, flags: CsumFlags) {
        self.writes.push(Write::Csum(flags));
    }

    /// A tag comes off.
    pub fn pop(&mut self) {
        if self.pushes.pop().is_none() {
            self.modified = None;
            self.pops += 1;
        }
    }

    /// A tag goes on.
    pub fn push(&mut self, protocol: u16, id: u16, prio: u8) {
        self.pushes.push((protocol, id, prio));
    }

    /// The outer tag, which is there, changes.
    pub fn modify(&mut self, protocol: u16, id: u16, prio: Option<u8>) {
        match self.pushes.last_mut() {
            Some(tag) => *tag = (protocol, id, prio.unwrap_or(tag.2)),
            None => {
                let before = self.modified.and_then(|(_, _, prio)| prio);
                self.modified = Some((protocol, id, prio.or(before)));
            }
        }
    }

    /// A header comes off, goes on or changes whose place no other can take: what was done before it is done before it.
    pub fn reshape(&mut self, kind: ActionKind) {
        self.flush_bytes();
        self.fixed(kind);
    }

    /// The label that was pushed last comes off, and shows what was there before it. If nobody saw it, it was for nothing.
    pub fn unlabel(&mut self, protocol: u16) {
        let unseen = self.done.len() > self.wanted && self.is_flushed();
        match self.done.last() {
            Some(Instruction::Fixed(ActionKind::Mpls(Mpls::Push { .. }), _)) if unseen => drop(self.done.pop()),
            _ => self.reshape(ActionKind::Mpls(Mpls::Pop { protocol })),
        }
    }

    /// The packet is to go through a tunnel, or through none.
    pub fn tunnel(&mut self, key: TunnelKey) {
        self.decap |= key == TunnelKey::Unset;
        self.encap = Some(key).filter(|key| *key != TunnelKey::Unset);
    }

    /// A policer that others share takes its part of the packets.
    pub fn police(&mut self, police: Police, index: u32) {
        let kind = ActionKind::Police(police);
        self.done.push(Instruction::Policed(Action { kind, control: Control::Shot, index, cookie: Vec::new() }));
        self.wanted = self.done.len();
    }

    /// A `ct` cuts off what follows the IP datagram.
    pub fn trim(&mut self) {
        self.trim.get_or_insert(self.done.len());
    }

    /// Metadata changes.
    pub fn edit(&mut self, edit: Skbedit) {
        self.edits.push(edit);
    }

    /// A copy goes out of the port, or into it.
    pub fn send(&mut self, port: Port, ingress: bool) {
        self.flush(ingress);
        self.fixed(ActionKind::Mirred(Mirred { port, ingress, mirror: true }));
        self.wanted = self.done.len();
    }

    /// The end: with `Ok` what is left of the packet goes to the stack as it is now, with `Shot` nothing does, with `Trap`
    /// it goes to the stack of the switch.
    pub fn finish(mut self, control: Control) -> Program {
        if control == Control::Shot {
            self.done.truncate(self.wanted);
            if let Some(Instruction::Fixed(ActionKind::Mirred(last), control)) = self.done.last_mut() {
                last.mirror = false;
                *control = Control::Stolen;
                return Program { instructions: self.done, trim: self.trim };
            }
        } else {
            self.flush(true);
        }
        self.done.push(Instruction::Fixed(ActionKind::Gact { random: None }, control));
        Program { instructions: self.done, trim: self.trim }
    }

    fn fixed(&mut self, kind: ActionKind) {
        self.done.push(Instruction::Fixed(kind, Control::Pipe));
    }

    /// Whether the packet's bytes are up to date.
    fn is_flushed(&self) -> bool {
        !self.decap && self.pops == 0 && self.modified.is_none() && self.writes.is_empty() && self.pushes.is_empty()
    }

    /// Brings the packet's bytes up to date.
    fn flush_bytes(&mut self) {
        if std::mem::take(&mut self.decap) {
            self.fixed(ActionKind::TunnelKey(TunnelKey::Unset));
        }
        for _ in 0..std::mem::take(&mut self.pops) {
            self.fixed(ActionKind::Vlan(Vlan::Pop));
        }
        if let Some((protocol, id, prio)) = self.modified.take() {
            self.fixed(ActionKind::Vlan(Vlan::Modify { protocol, id, prio }));
        }
        self.done.extend(fewest(std::mem::take(&mut self.writes), &mut self.stale));
        for (protocol, id, prio) in std::mem::take(&mut self.pushes) {
            self.fixed(ActionKind::Vlan(Vlan::Push { protocol, id, prio }));
        }
    }

    /// Brings all up to date, for somebody to see it.
    fn flush(&mut self, to_stack: bool) {
        self.flush_bytes();
        // The packet type matters to the stack alone, and waits for the first that sees the packet.
        let mut edit = Skbedit::default();
        for e in std::mem::take(&mut self.edits) {
            edit = Skbedit {
                queue: e.queue.or(edit.queue),
                priority: e.priority.or(edit.priority),
                mark: e.mark.or(edit.mark),
                ptype: e.ptype.or(edit.ptype),
                inherit_dsfield: e.inherit_dsfield || edit.inherit_dsfield,
            };
        }
        if !to_stack && edit.ptype.is_some() {
            let ptype = edit.ptype.take();
            self.edits.push(Skbedit { ptype, ..Skbedit::default() });
        }
        if edit != Skbedit::default() {
            self.fixed(ActionKind::Skbedit(edit));
        }
        if let Some(key) = self.encap.take() {
            self.fixed(ActionKind::TunnelKey(key));
        }
    }
}

/// The fewest instructions that leave the same bytes as these writes. `stale`: checksums that are not right before, and after.
fn fewest(mut writes: Vec<Write>, stale: &mut CsumFlags) -> Vec<Instruction> {
    // A checksum that a later one computes again is for nothing, unless somebody wrote to what that one depends on.
    let mut later = CsumFlags::empty();
    for write in writes.iter_mut().rev() {
        match write {
            Write::Csum(flags) => {
                let all = *flags;
                *flags = all - later;
                later |= all;
            }
            Write::Key(key) | Write::Mended(key) if decides_checksum(key) => later = CsumFlags::empty(),
            _ => {}
        }
    }
    // One is left of those that compute nothing, if nothing else is computed: what is cut off is dropped all the same.
    let computed = |w: &Write| matches!(w, Write::Csum(flags) if !flags.is_empty());
    let drops = !writes.iter().any(computed) && writes.contains(&Write::Csum(CsumFlags::empty()));
    writes.retain(|w| *w != Write::Csum(CsumFlags::empty()));
    // No checksum covers the Ethernet header, so its rewrites can all come first.
    let is_ethernet = |key: &PeditKey| key.header == PeditHeader::Ethernet;
    writes.sort_by_key(|w| !matches!(w, Write::Key(key) | Write::Mended(key) if is_ethernet(key)));

    let mut out = Vec::new();
    let mut group = Group::default();
    for write in writes {
        if !group.takes(&write) {
            out.extend(std::mem::take(&mut group).instructions(stale));
        }
        group.add(write);
    }
    out.extend(group.instructions(stale));
    if drops {
        out.push(Instruction::Fixed(ActionKind::Csum(CsumFlags::empty()), Control::Pipe));
    }
    out
}

/// Writes that need no more than three actions: what is mended, what is not, checksums.
///
/// Mending adds the difference that a write makes, so it does not matter whether other words were written before it. And where
/// a table can only compute checksums anew, what is left stale must be written after that.
#[derive(Default)]
struct Group {
    mended: Vec<Write>,
    plain: Vec<PeditKey>,
    csum: CsumFlags,
}

impl Group {
    /// Whether a write can still go into its place.
    fn takes(&self, write: &Write) -> bool {
        let apart = |overlaps: &dyn Fn(&PeditKey) -> bool| {
            self.csum.is_empty() && !self.plain.iter().any(|key| overlaps(key) || decides_checksum(key))
        };
        match write {
            Write::Csum(_) | Write::Key(_) => self.csum.is_empty(),
            Write::Mended(new) => apart(&|key| (key.header, key.offset) == (new.header, new.offset)),
            Write::Translate(field, _) => apart(&|key| overlaps(key, *field)),
        }
    }

    fn add(&mut self, write: Write) {
        match write {
            Write::Csum(flags) => self.csum |= flags,
            Write::Key(key) => join(&mut self.plain, key),
            _ => self.mended.push(write),
        }
    }

    /// In order. `stale`: checksums that earlier writes left stale, and these do.
    fn instructions(self, stale: &mut CsumFlags) -> Vec<Instruction> {
        let mut out = Vec::new();
        for write in self.mended {
            match (out.last_mut(), write) {
                (Some(Instruction::Translate { fields, .. }), Write::Translate(field, to)) => {
                    fields.retain(|&(f, _)| f != field || !to.is_whole(field));
                    fields.push((field, to));
                }
                (_, Write::Translate(field, to)) => {
                    out.push(Instruction::Translate { fields: vec![(field, to)], stale: *stale });
                }
                (Some(Instruction::Fixed(ActionKind::Pedit(pedit), _)), Write::Mended(key)) => {
                    join(&mut pedit.keys, key);
                }
                (_, Write::Mended(key) | Write::Key(key)) => out.push(pedit(vec![key], true)),
                (_, Write::Csum(_)) => {}
            }
        }
        if !self.plain.is_empty() {
            *stale |= self.plain.iter().fold(CsumFlags::empty(), |all, key| all | left_stale(key));
            out.push(pedit(self.plain, false));
        }
        if !self.csum.is_empty() {
            *stale -= self.csum;
            out.push(Instruction::Fixed(ActionKind::Csum(self.csum), Control::Pipe));
        }
        out
    }
}

fn pedit(keys: Vec<PeditKey>, mend: bool) -> Instruction {
    Instruction::Fixed(ActionKind::Pedit(Pedit { keys, mend }), Control::Pipe)
}

/// The checksums that a write leaves stale, unless it mends them.
pub fn left_stale(key: &PeditKey) -> CsumFlags {
    let writes = |bytes: std::ops::Range<i32>| {
        (0..4)
            .any(|i| bytes.contains(&(key.offset + i)) && (key.mask[i as usize] != 0xff || key.value[i as usize] != 0))
    };
    let addresses = CsumFlags::TCP | CsumFlags::UDP;
    match key.header {
        PeditHeader::Ipv4 if writes(12..20) => CsumFlags::IPV4 | addresses,
        PeditHeader::Ipv4 if writes(0..12) => CsumFlags::IPV4,
        PeditHeader::Ipv6 if writes(8..40) => addresses,
        PeditHeader::Tcp if writes(0..20) => CsumFlags::TCP,
        PeditHeader::Udp if writes(0..8) => CsumFlags::UDP,
        _ => CsumFlags::empty(),
    }
}

/// Adds a word's rewrite to those before it: two sets of one word become one, and what a set overwrites is dropped.
fn join(keys: &mut Vec<PeditKey>, key: PeditKey) {
    let same = |k: &PeditKey| (k.header, k.offset) == (key.header, key.offset);
    if key.mask == [0xff; 4] && key.value == [0; 4] {
        return; // leaves the word as it is
    }
    if !key.add {
        // What it writes, whatever was there.
        let fresh: [u8; 4] = key.mask.map(|m| !m);
        keys.retain(|k| !(same(k) && k.add && std::iter::zip(k.mask, fresh).all(|(m, f)| !m & !f == 0)));
        if let Some(before) = keys.iter().rposition(same).filter(|&i| !keys[i].add) {
            let k = &mut keys[before];
            for i in 0..4 {
                k.value[i] = k.value[i] & key.mask[i] ^ key.value[i];
                k.mask[i] &= key.mask[i];
            }
            // What flips bits back leaves nothing to do.
            if k.mask == [0xff; 4] && k.value == [0; 4] {
                keys.remove(before);
            }
            return;
        }
    }
    keys.push(key);
}

impl Program {
    /// Whether a table that cannot mend checksums, but only compute them anew, would send other frames: it would right one that
    /// was left stale before a translation.
    pub fn must_mend(&self) -> bool {
        let rights = |i: &Instruction| matches!(i, Instruction::Translate { stale, .. } if !stale.is_empty());
        self.instructions.iter().any(rights)
    }
}

/// Whether a write changes a checksum itself, or a length that decides what `csum` does.
fn decides_checksum(key: &PeditKey) -> bool {
    let bytes: std::ops::Range<i32> = match key.header {
        PeditHeader::Tcp => 16..18,
        PeditHeader::Udp => 4..8,
        PeditHeader::Ipv4 => 10..12,
        _ => return false,
    };
    (0..4).any(|i| bytes.contains(&(key.offset + i)) && (key.mask[i as usize] != 0xff || key.value[i as usize] != 0))
}

fn overlaps(key: &PeditKey, field: Field) -> bool {
    field.row().places.iter().any(|place| {
        pedit_header(place.header) == Some(key.header)
            && key.offset * 8 < (place.bit + field.row().bits as u16) as i32
            && (place.bit as i32) < key.offset * 8 + 32
    })
}

/// The pedit header for a header of the field table.
pub fn pedit_header(header: Header) -> Option<PeditHeader> {
    Some(match header {
        Header::Ethernet => PeditHeader::Ethernet,
        Header::Ipv4 => PeditHeader::Ipv4,
        Header::Ipv6 => PeditHeader::Ipv6,
        Header::Tcp => PeditHeader::Tcp,
        Header::Udp => PeditHeader::Udp,
        Header::Arp | Header::Mpls => PeditHeader::Network,
        Header::Sctp | Header::Icmp => return None,
    })
}

/// The effect of a set of one word on a field: `(old & mask) ^ value`, both over the field's width.
pub fn effect(key: &PeditKey, field: Field, place: Place) -> Option<(u128, u128)> {
    let (word_from, word_to) = (key.offset * 8, key.offset * 8 + 32);
    let (from, to) = (place.bit as i32, place.bit as i32 + field.row().bits as i32);
    if word_to <= from || to <= word_from {
        return None;
    }
    // Align the last bit of the word with the last bit of the field.
    let align = |word: [u8; 4]| {
        let word = u32::from_be_bytes(word) as u128;
        match to - word_to {
            left if left >= 0 => word << left,
            right => word >> -right,
        }
    };
    let cleared = align(key.mask.map(|m| !m)) & field.ones();
    Some((field.ones() & !cleared, align(key.value) & field.ones()))
}

/// The words that set bits of a field, at this place, to a value.
pub fn words(field: Field, place: Place, header: PeditHeader, value: u128, bits_set: u128) -> Vec<PeditKey> {
    let (from, bits) = (place.bit as u32, field.row().bits as u32);
    let (first, last) = (from / 32, (from + bits - 1) / 32);
    (first..=last)
        .map(|word| {
            let end = (word + 1) * 32;
            let align = |v: u128| {
                let v = match from + bits >= end {
                    true => v >> (from + bits - end),
                    false => v << (end - from - bits),
                };
                (v as u32).to_be_bytes()
            };
            let mask = align(bits_set).map(|m| !m);
            PeditKey {
                header,
                offset: word as i32 * 4,
                mask,
                value: align(value & bits_set),
                add: false,
                dynamic: None,
            }
        })
        .filter(|key: &PeditKey| key.mask != [0xff; 4])
        .collect()
}

/// The actions of a merged filter for these connections, and when to trim.
pub fn actions(program: &Program, connections: &[&Connection], mend: bool) -> (Vec<Action>, Trim) {
    let mut out = Vec::new();
    let mut trim = Trim::Never;
    // Checksums to be computed with those that come next.
    let mut owed = CsumFlags::empty();
    // Whether the instruction has been done with the one before.
    let mut done = false;
    for (i, instruction) in program.instructions.iter().enumerate() {
        if program.trim == Some(i) {
            trim = Trim::Before(out.len());
        }
        if std::mem::take(&mut done) {
            continue;
        }
        let mut push = |kind, control| out.push(Action { kind, control, index: 0, cookie: Vec::new() });
        match instruction {
            Instruction::Fixed(ActionKind::Csum(flags), control) => {
                push(ActionKind::Csum(*flags | std::mem::take(&mut owed)), *control);
            }
            Instruction::Fixed(kind, control) => push(kind.clone(), *control),
            Instruction::Policed(action) => out.push(action.clone()),
            Instruction::Translate { fields, .. } => {
                let mut keys = Vec::new();
                let mut csum = CsumFlags::empty();
                for &(field, to) in fields {
                    let (value, mask, covered) = match to {
                        To::Known { value, mask, covered } => (value, mask, covered),
                        To::Param(param) => {
                            let proto = connections[param.connection as usize].original.proto;
                            let covered = if proto == proto::TCP { CsumFlags::TCP } else { CsumFlags::UDP };
                            (param.value(connections), field.ones(), covered)
                        }
                    };
                    let l4 = if covered.contains(CsumFlags::TCP) { Header::Tcp } else { Header::Udp };
                    csum |= covered;
                    let places = field.row().places;
                    let place = places.iter().find(|p| p.header == l4).or(places.first());
                    let place = *place.expect("addresses and ports have places");
                    if place.header == Header::Ipv4 {
                        csum |= CsumFlags::IPV4;
                    }
                    let header = pedit_header(place.header).expect("IP, TCP and UDP have a pedit header");
                    for key in words(field, place, header, value, mask) {
                        join(&mut keys, key);
                    }
                }
                // What is written behind it and that no checksum here covers can be written with it.
                let rest = &program.instructions[i + 1..];
                let covered = |key: &PeditKey| match mend {
                    true => !left_stale(key).is_empty(),
                    false => left_stale(key).intersects(csum),
                };
                let (plain, rest) = match rest {
                    [Instruction::Fixed(ActionKind::Pedit(p), _), rest @ ..] if !p.mend => (&p.keys[..], rest),
                    _ => (&[][..], rest),
                };
                done = !plain.is_empty();
                let (late, mut early): (Vec<_>, Vec<_>) = plain.iter().partition(|key| covered(key));
                for key in keys {
                    join(&mut early, key);
                }
                push(ActionKind::Pedit(Pedit { keys: early, mend }), Control::Pipe);
                let again = match rest {
                    // What adds to a checksum must find it as it is there.
                    _ if late.iter().any(|key| key.add && decides_checksum(key)) => None,
                    [Instruction::Fixed(ActionKind::Csum(flags), _), ..] => Some(*flags),
                    _ => None,
                };
                let stale = late.iter().fold(CsumFlags::empty(), |all, key| all | left_stale(key));
                match again {
                    _ if mend => {}
                    // What is written in between must stay stale where it is not computed anew.
                    Some(again) if !stale.intersects(csum - again) => owed = csum,
                    again => push(ActionKind::Csum(csum - again.unwrap_or(CsumFlags::empty())), Control::Pipe),
                }
                if !late.is_empty() {
                    push(ActionKind::Pedit(Pedit { keys: late, mend: false }), Control::Pipe);
                }
            }
        }
    }
    (out, trim)
}

/// A value after a write to a field, for callers that hold a place.
pub fn write(value: Value, key: &PeditKey, field: Field, place: Place) -> Value {
    match effect(key, field, place) {
        Some((mask, xor)) => value.written(mask, xor),
        None => value,
    }
}

#[cfg(test)]
mod tests;
