//! A table in memory, searched by tuple space: entries of one port and one mask share a hash map, and a frame is looked
//! up in each. Port ranges are compared behind that, within the entries of one key.

use super::{Abilities, Capabilities, Counts, Entry, Hardware, HardwareError, MergedId, Offer, Reading};
use crate::{
    flower::{Action, ActionKind, Field, Key, Match, Port, Tunnel, action::Police},
    merge::structure,
    packet::{
        self,
        apply::{Applied, End, Sent, Trim, apply_through},
        dissect::ETHERNET,
    },
    sync::Mutex,
};
use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};

/// A table in memory that handles frames itself.
#[derive(Debug)]
pub struct Memory {
    capabilities: Capabilities,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<MergedId, Slot, RandomState>,
    /// The masks in use at each port, in the order in which they came.
    ports: HashMap<Port, Vec<Masked>, RandomState>,
    install_fails: Option<String>,
    removals_fail: Option<String>,
    /// The policers, by index, whose rate all packets exceed; to all others they conform.
    exceeded: HashSet<u32, RandomState>,
}

#[derive(Debug)]
struct Slot {
    entry: Entry,
    reading: Reading,
}

/// The entries of one mask.
#[derive(Debug)]
struct Masked {
    mask: Key,
    /// Several of one key differ in their ranges.
    entries: HashMap<Key, Vec<MergedId>, RandomState>,
}

/// What the table did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handled {
    /// The merged filter that matched.
    pub id: MergedId,
    /// What was sent, in order.
    pub sent: Vec<Sent>,
    /// What became of the frame itself.
    pub end: End,
}

/// Two entries that overlap and do not do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Overlap {
    /// The one with the lower name.
    pub first: MergedId,
    /// The other.
    pub second: MergedId,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new(Capabilities::all())
    }
}

impl Memory {
    /// An empty table. It can do everything that a merged filter can hold; `capabilities` narrow what it accepts, and
    /// say what it counts and how many entries it holds.
    pub fn new(capabilities: Capabilities) -> Memory {
        Memory { capabilities, inner: Mutex::default() }
    }

    /// A frame arrives at a port at a time in nanoseconds. `None` if no entry matches: the frame goes to software.
    pub fn receive(&self, port: Port, frame: &[u8], now: u64) -> Option<Handled> {
        self.receive_through(port, frame, None, now)
    }

    /// The same for a frame that a tunnel device took out of an outer packet.
    pub fn receive_through(&self, port: Port, frame: &[u8], tunnel: Option<&Tunnel>, now: u64) -> Option<Handled> {
        let key = Tunnel::tell(tunnel, packet::arrived(frame)).with(Field::Indev, port.0.into());
        let mut inner = self.inner.lock();
        let Inner { slots, exceeded, ports, .. } = &mut *inner;
        let id = lookup(ports, slots, port, &key)?;
        let slot = slots.get_mut(&id)?;
        let actions = &slot.entry.actions;
        let exceeds = |a: &Action| match &a.kind {
            ActionKind::Police(police) => exceeded.contains(&a.index) || is_too_long(police, frame),
            _ => false,
        };
        let dropped = actions.iter().position(exceeds);
        let done = &actions[..dropped.unwrap_or(actions.len())];
        // `install` refused what cannot be applied.
        let Applied { sent, mut end } = apply_through(done, slot.entry.trim, frame, tunnel).ok()?;
        let bytes = self.capabilities.counts.bytes(frame);
        slot.reading.packets += 1;
        slot.reading.bytes += bytes;
        if dropped.is_some() {
            end = End::Dropped;
            slot.reading.policed.packets += 1;
            slot.reading.policed.bytes += bytes;
        }
        slot.reading.last_used = slot.reading.last_used.max(now);
        Some(Handled { id, sent, end })
    }

    /// The entry that a packet with this key matches at this port, without counting. Of several any: they do the same.
    pub fn lookup(&self, port: Port, key: &Key) -> Option<MergedId> {
        let inner = self.inner.lock();
        lookup(&inner.ports, &inner.slots, port, key)
    }

    /// How many entries are installed.
    pub fn len(&self) -> usize {
        self.inner.lock().slots.len()
    }

    /// Whether nothing is installed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An entry that is installed.
    pub fn entry(&self, id: MergedId) -> Option<Entry> {
        Some(self.inner.lock().slots.get(&id)?.entry.clone())
    }

    /// The entries that are installed, by name.
    pub fn entries(&self) -> Vec<Entry> {
        let mut all: Vec<Entry> = self.inner.lock().slots.values().map(|slot| slot.entry.clone()).collect();
        all.sort_by_key(|entry| entry.id);
        all
    }

    /// Pairs of entries that some packet matches both of while their actions differ: there should be none. It compares
    /// all pairs of a port, and actions as they are written, not what they come to.
    pub fn overlaps(&self) -> Vec<Overlap> {
        let mut entries = self.entries();
        entries.sort_by_key(|e| (e.port, e.id));
        let mut found = Vec::new();
        for (i, a) in entries.iter().enumerate() {
            let same_port = entries[i + 1..].iter().take_while(|b| b.port == a.port);
            for b in same_port {
                if structure::meet(&a.matches, &b.matches) && (&a.actions, a.trim) != (&b.actions, b.trim) {
                    found.push(Overlap { first: a.id, second: b.id });
                }
            }
        }
        found
    }

    /// From now on all packets exceed the rate of the policer with this index, or all conform to it, as at first. The table measures
    /// no rates.
    pub fn police(&self, index: u32, conforms: bool) {
        let exceeded = &mut self.inner.lock().exceeded;
        match conforms {
            true => exceeded.remove(&index),
            false => exceeded.insert(index),
        };
    }

    /// Lets the next install fail for this reason.
    pub fn fail_next_install(&self, reason: &str) {
        self.inner.lock().install_fails = Some(reason.to_string());
    }

    /// Lets every removal fail for this reason, until called with `None`.
    pub fn fail_removals(&self, reason: Option<&str>) {
        self.inner.lock().removals_fail = reason.map(str::to_string);
    }

    /// Loses all entries, and what they counted, as a device does that is reset.
    pub fn lose_all(&self) {
        let mut inner = self.inner.lock();
        inner.slots.clear();
        inner.ports.clear();
    }

    /// Installs an entry, which need not come from a merge.
    ///
    /// # Errors
    /// The table cannot take it.
    pub fn put(&self, entry: Entry) -> Result<(), HardwareError> {
        let id = entry.id;
        let mut inner = self.inner.lock();
        if inner.slots.contains_key(&id) {
            return Err(HardwareError::Exists { id });
        }
        if let Some(size) = self.capabilities.size.filter(|&size| inner.slots.len() >= size) {
            return Err(HardwareError::Full { id, size });
        }
        let matches = self.capabilities.check_match(&entry.matches);
        let actions = matches.and_then(|()| self.capabilities.check_actions(&entry.actions));
        actions.map_err(|lacking| HardwareError::Unsupported { id, lacking })?;
        if let Some(reason) = inner.install_fails.take() {
            return Err(HardwareError::Failed { id, reason });
        }
        let Match { key, mask, .. } = entry.matches;
        let port = inner.ports.entry(entry.port).or_default();
        let at = port.iter().position(|m| m.mask == mask).unwrap_or_else(|| {
            let entries = HashMap::default();
            port.push(Masked { mask, entries });
            port.len() - 1
        });
        port[at].entries.entry(key.and(&mask)).or_default().push(id);
        let trim = if self.capabilities.abilities.contains(Abilities::TRIM) { entry.trim } else { Trim::Never };
        inner.slots.insert(id, Slot { entry: Entry { trim, ..entry }, reading: Reading::default() });
        Ok(())
    }
}

impl Hardware for Memory {
    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    fn install(&self, offer: &Offer<'_>) -> Result<(), HardwareError> {
        self.put(offer.entry())
    }

    fn remove(&self, id: MergedId) -> Result<Reading, HardwareError> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if !inner.slots.contains_key(&id) {
            return Err(HardwareError::Missing { id });
        }
        if let Some(reason) = inner.removals_fail.clone() {
            return Err(HardwareError::Failed { id, reason });
        }
        let Slot { entry, reading } = inner.slots.remove(&id).ok_or(HardwareError::Missing { id })?;
        let Match { key, mask, .. } = entry.matches;
        if let Some(port) = inner.ports.get_mut(&entry.port) {
            if let Some(masked) = port.iter_mut().find(|m| m.mask == mask) {
                let key = key.and(&mask);
                if let Some(ids) = masked.entries.get_mut(&key) {
                    ids.retain(|&other| other != id);
                    if ids.is_empty() {
                        masked.entries.remove(&key);
                    }
                }
            }
            port.retain(|m| !m.entries.is_empty());
            if port.is_empty() {
                inner.ports.remove(&entry.port);
            }
        }
        Ok(reading)
    }

    fn read(&self, ids: &[MergedId], each: &mut dyn FnMut(MergedId, Result<Reading, HardwareError>)) {
        let inner = self.inner.lock();
        for &id in ids {
            each(id, inner.slots.get(&id).map(|slot| slot.reading).ok_or(HardwareError::Missing { id }));
        }
    }
}

type Slotted = HashMap<MergedId, Slot, RandomState>;

fn lookup(ports: &HashMap<Port, Vec<Masked>, RandomState>, slots: &Slotted, port: Port, key: &Key) -> Option<MergedId> {
    ports.get(&port)?.iter().find_map(|masked| {
        let ids = masked.entries.get(&key.and(&masked.mask))?;
        ids.iter().copied().find(|id| slots.get(id).is_some_and(|slot| in_ranges(&slot.entry.matches, key)))
    })
}

/// Whether a packet is longer than a policer lets pass at any time (`net/sched/act_police.c`, `tcf_police_mtu_check`): TC counts it with
/// the Ethernet header, and without the outer tag.
fn is_too_long(police: &Police, frame: &[u8]) -> bool {
    police.mtu != 0 && Counts::Ingress.bytes(frame) + ETHERNET as u64 > police.mtu.into()
}

fn in_ranges(matches: &Match, key: &Key) -> bool {
    matches.ranges().all(|(field, r)| r.contains(key.get(field) as u16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flower::Range;
    use proptest::prelude::*;

    fn redirect(port: u32) -> Action {
        Action::redirect(Port(port))
    }

    /// UDP over IPv4 from 10.0.0.1:1000 to this port.
    fn udp(port: u16) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        f.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 3, 0xe8]);
        f.extend(port.to_be_bytes());
        f.extend([0, 8, 0, 0]);
        f
    }

    fn entry(id: u64, matches: Match, out: u32) -> Entry {
        Entry { id: MergedId(id), port: Port(1), matches, actions: vec![redirect(out)], trim: Trim::Never }
    }

    fn ipv4() -> Match {
        Match::default().exact(Field::EthType, 0x0800)
    }

    fn ranged(min: u16, max: u16) -> Match {
        Match { dst_range: Some(Range { min, max }), ..ipv4().exact(Field::IpProto, 17) }
    }

    fn read(table: &Memory, id: u64) -> Result<Reading, HardwareError> {
        let mut read = Vec::new();
        table.read(&[MergedId(id)], &mut |id, reading| read.push((id, reading)));
        let (of, reading) = read.remove(0);
        assert_eq!((of, read.len()), (MergedId(id), 0));
        reading
    }

    fn out(table: &Memory, port: u16) -> Option<u32> {
        let handled = table.receive(Port(1), &udp(port), u64::from(port))?;
        assert_eq!(handled.sent[0].frame, udp(port));
        Some(handled.sent[0].port.0)
    }

    #[test]
    fn what_cannot_cut_off_sends_all() {
        let longer = [udp(10), vec![9; 4]].concat();
        let sent = |abilities| {
            let table = Memory::new(Capabilities { abilities, ..Capabilities::all() });
            table.put(Entry { trim: Trim::Before(0), ..entry(1, ipv4(), 2) }).expect("fits");
            table.receive(Port(1), &longer, 0).expect("matches").sent.remove(0).frame
        };
        assert_eq!(sent(Abilities::all()), udp(10));
        assert_eq!(sent(Abilities::all() - Abilities::TRIM), longer);
    }

    #[test]
    fn finds_by_mask_and_range_and_counts() {
        let table = Memory::default();
        table.put(entry(1, ranged(10, 20), 2)).expect("fits");
        table.put(entry(2, ranged(21, 30), 3)).expect("fits");
        let exact = ipv4().exact(Field::IpProto, 17).exact(Field::DstPort, 80);
        table.put(entry(3, exact.exact(Field::Indev, 1), 4)).expect("fits");
        assert_eq!([10, 21, 80, 81].map(|p| out(&table, p)), [Some(2), Some(3), Some(4), None]);
        assert_eq!(table.receive(Port(2), &udp(10), 1), None);
        let counted = Reading { packets: 1, bytes: 28, last_used: 21, ..Reading::default() };
        assert_eq!(read(&table, 2), Ok(counted));
        assert_eq!(table.remove(MergedId(2)), Ok(counted));
        assert_eq!(table.remove(MergedId(2)), Err(HardwareError::Missing { id: MergedId(2) }));
        assert_eq!((out(&table, 21), out(&table, 10)), (None, Some(2)));
        for id in [1, 3] {
            table.remove(MergedId(id)).expect("there");
        }
        assert!(table.is_empty() && table.inner.lock().ports.is_empty());
    }

    #[test]
    fn refuses_by_name() {
        let table =
            Memory::new(Capabilities { size: Some(1), ranges: false, counts: Counts::Frame, ..Capabilities::all() });
        let say = |r: Result<(), HardwareError>| r.expect_err("refused").to_string();
        assert_eq!(
            say(table.put(entry(7, ranged(1, 2), 2))),
            "merged filter 7 not installed: a range of dst_port cannot be matched"
        );
        table.fail_next_install("no memory");
        let e = entry(7, ipv4(), 2);
        assert_eq!(say(table.put(e.clone())), "merged filter 7: the device failed: no memory");
        table.put(e.clone()).expect("the next one does not fail");
        assert_eq!(say(table.put(e.clone())), "merged filter 7 not installed: there is one of this name");
        assert_eq!(say(table.put(entry(8, ipv4(), 2))), "merged filter 8 not installed: the table is full, 1 entries");
        table.fail_removals(Some("timeout"));
        assert!(table.remove(MergedId(7)).is_err());
        assert_eq!(out(&table, 5), Some(2), "still there");
        table.fail_removals(None);
        assert_eq!(table.remove(MergedId(7)).map(|r| r.bytes), Ok(42), "frames are counted whole");
    }

    #[test]
    fn overlaps_that_disagree_are_found() {
        let table = Memory::default();
        let http = ipv4().exact(Field::DstPort, 80);
        for (id, matches, out) in [
            (1, ranged(10, 90), 2),
            (2, http, 3),                                    // with 1 and 6
            (3, http.exact(Field::IpProto, 6), 4),           // with 2 and 6, not with 1: other protocol
            (4, ranged(91, 99), 5),                          // with 6
            (5, ipv4().with(Field::DstPort, 64, 0xffe0), 3), // with 1, 3, 4 (64 to 95), 6; the same as 2
            (6, ipv4(), 9),
        ] {
            table.put(entry(id, matches, out)).expect("fits");
        }
        let found: Vec<_> = table.overlaps().iter().map(|o| (o.first.0, o.second.0)).collect();
        assert_eq!(found, [(1, 2), (1, 5), (1, 6), (2, 3), (2, 6), (3, 5), (3, 6), (4, 5), (4, 6), (5, 6)]);
    }

    /// A match of few bits, so that packets meet several.
    fn narrow() -> impl Strategy<Value = Match> {
        let range = (0u16..4, 0u16..4).prop_map(|(a, b)| Range { min: a.min(b), max: a.max(b) });
        let fields = [Field::IpProto, Field::IpTos, Field::DstPort];
        let values = prop::array::uniform3((0u128..4, 0u128..4));
        (values, prop::option::of(range)).prop_map(move |(values, dst_range)| {
            let terms = fields.into_iter().zip(values);
            let matches = terms.fold(Match::default(), |m, (field, (value, mask))| m.with(field, value, mask));
            Match { dst_range, ..matches }
        })
    }

    proptest! {
        #[test]
        fn finds_what_a_scan_finds(
            installed in prop::collection::vec((narrow(), 1u32..3), 1..20),
            removed in prop::collection::vec(0u64..20, 0..15),
            packets in prop::collection::vec(prop::array::uniform3(0u128..4), 20),
        ) {
            let table = Memory::default();
            let mut scanned = Vec::new();
            for (id, (matches, port)) in (0..).zip(installed) {
                let entry = Entry { port: Port(port), ..entry(id, matches, 9) };
                table.put(entry.clone()).expect("fits");
                scanned.push(entry);
            }
            for id in removed {
                let there = scanned.iter().any(|e| e.id == MergedId(id));
                prop_assert_eq!(table.remove(MergedId(id)).is_ok(), there);
                scanned.retain(|e| e.id != MergedId(id));
            }
            for [proto, tos, dst] in packets {
                let key = Key::ZERO.with(Field::IpProto, proto).with(Field::IpTos, tos).with(Field::DstPort, dst);
                for port in [Port(1), Port(2)] {
                    let fit = |e: &&Entry| e.port == port && e.matches.fits(&key);
                    let fitting: Vec<_> = scanned.iter().filter(fit).map(|e| e.id).collect();
                    match table.lookup(port, &key) {
                        Some(id) => prop_assert!(fitting.contains(&id)),
                        None => prop_assert!(fitting.is_empty()),
                    }
                }
            }
        }
    }
}
