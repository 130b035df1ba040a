//! The model beside the merger: filters, connections and accounts in plain maps, each entry of the hardware with what it came from
//! and what it has counted, and after each call a comparison of everything with everything.

use super::{
    faulty::Faulty,
    universe::{self, OUT, Packet, Way, World},
};
use flowmerge::{
    conntrack::{Connection, ConnectionId, Tuple},
    flower::{Cookie, Counters, Filter, Hook, Port},
    hardware::MergedId,
    merger::{MergedView, Merger, Removed, Snapshot, Worth},
    packet::{
        self,
        apply::{End, apply_through},
    },
    table::life::State,
};
use std::collections::{BTreeMap, BTreeSet};

/// A filter's account: its number in [`Model::accounts`].
pub type Number = usize;

/// A merged filter.
#[derive(Clone, Debug)]
pub struct Track {
    pub id: MergedId,
    pub port: Port,
    pub parents: Vec<(Cookie, Number)>,
    /// What they were then.
    pub filters: Vec<Filter>,
    pub connections: Vec<(ConnectionId, Connection)>,
    pub state: State,
    /// It is a `skip_sw` filter's.
    pub alone: bool,
    /// What the hardware has counted, and how much of that the parents were told.
    pub counted: Counters,
    pub told: Counters,
    /// When it was made, or last used as far as was read.
    pub used: u64,
}

pub struct Model {
    pub filters: BTreeMap<Cookie, Filter>,
    pub account: BTreeMap<Cookie, Number>,
    pub retired: BTreeMap<Cookie, Number>,
    /// What parents were told, by action; `None`: closed.
    pub accounts: Vec<Option<Vec<Counters>>>,
    /// The sides of ports at which the block is.
    pub bound: BTreeSet<Hook>,
    pub down: BTreeSet<Port>,
    pub connections: BTreeMap<ConnectionId, Connection>,
    pub held: BTreeSet<ConnectionId>,
    /// Walks of a connection that were merged or refused, at most.
    pub seen: BTreeMap<ConnectionId, u32>,
    pub tracks: BTreeMap<MergedId, Track>,
    pub stuck: BTreeMap<MergedId, Track>,
    /// A `skip_sw` filter that was offered just now, and refused: what is left of it nobody counts for. Whether it may have been
    /// installed at more ports than the first.
    pub refused: Option<(Filter, bool)>,
    /// What `drain` has to tell.
    pub left: Vec<Removed>,
    pub packets: Vec<Packet>,
}

/// What a call may take out of hardware.
pub struct Going<'a> {
    pub must: &'a dyn Fn(&Track) -> bool,
    pub may: &'a dyn Fn(&Track) -> bool,
    /// Walks were worked on.
    pub worked: bool,
}

fn since(counted: Counters, told: Counters) -> Counters {
    let (packets, bytes) = (counted.packets - told.packets, counted.bytes - told.bytes);
    Counters { packets, bytes, last_used: counted.last_used }
}

impl Model {
    pub fn new() -> Model {
        Model {
            filters: BTreeMap::new(),
            account: BTreeMap::new(),
            retired: BTreeMap::new(),
            accounts: Vec::new(),
            bound: BTreeSet::new(),
            down: BTreeSet::new(),
            connections: BTreeMap::new(),
            held: BTreeSet::new(),
            seen: BTreeMap::new(),
            tracks: BTreeMap::new(),
            stuck: BTreeMap::new(),
            refused: None,
            left: Vec::new(),
            packets: universe::packets(),
        }
    }

    fn world(&self) -> World<'_> {
        World { filters: &self.filters, bound: &self.bound, down: &self.down, connections: &self.connections }
    }

    pub fn way(&self, packet: &Packet) -> Option<Way> {
        self.world().way(packet)
    }

    /// The ports that have filters at their egress hooks.
    pub fn filtered(&self) -> BTreeSet<Port> {
        OUT.into_iter().filter(|&port| self.world().is_filtered(port)).collect()
    }

    /// Whether a `skip_sw` filter stands in front of the first that a packet hits in software: hardware should have handled it.
    pub fn is_for_hardware(&self, packet: &Packet, way: &Way) -> bool {
        let first = &self.filters[&way.hits[0].filter].id;
        let in_front = |f: &Filter| (f.id.hook, f.id.chain) == (first.hook, first.chain) && f.id.prio < first.prio;
        self.filters.values().any(|f| f.skip_sw && in_front(f) && f.matches.fits(&packet.key))
    }

    pub fn open(&mut self, cookie: Cookie, filter: &Filter) {
        self.accounts.push(Some(vec![Counters::default(); filter.actions.len()]));
        self.account.insert(cookie, self.accounts.len() - 1);
        if let Some(before) = self.retired.remove(&cookie) {
            self.accounts[before] = None;
        }
        self.filters.insert(cookie, filter.clone());
    }

    pub fn close(&mut self, number: Number) -> Vec<Counters> {
        self.accounts[number].take().unwrap_or_default()
    }

    /// The sides of ports that a hook's filters are at.
    fn sides(&self, hook: Hook) -> Vec<Hook> {
        match hook {
            Hook::Block(_) => self.bound.iter().copied().collect(),
            side => vec![side],
        }
    }

    /// The cookie of the filter of the same identity.
    pub fn same(&self, filter: &Filter) -> Option<Cookie> {
        self.filters.iter().find(|(_, f)| f.id == filter.id).map(|(&cookie, _)| cookie)
    }

    /// Its counts are read, and its parents told.
    fn tell(&mut self, track: &mut Track) {
        let more = since(track.counted, track.told);
        if more.packets == 0 {
            return;
        }
        for (_, number) in &track.parents {
            if let Some(actions) = &mut self.accounts[*number] {
                actions.iter_mut().for_each(|a| a.add(more));
            }
        }
        track.used = track.used.max(track.counted.last_used);
        track.told = track.counted;
    }

    /// All that `which` says is read.
    pub fn read(&mut self, which: impl Fn(&Track) -> bool) {
        let all: Vec<MergedId> = self.tracks.values().filter(|t| which(t)).map(|t| t.id).collect();
        for id in all {
            if let Some(mut track) = self.tracks.remove(&id) {
                self.tell(&mut track);
                self.tracks.insert(id, track);
            }
        }
    }

    /// The hardware has lost everything, and the merger was told.
    pub fn reset(&mut self) {
        for track in self.tracks.values_mut() {
            track.counted = Counters::default();
            track.told = Counters::default();
        }
        for (_, track) in std::mem::take(&mut self.stuck) {
            self.left.push(Removed { id: track.id, counters: track.told });
        }
    }

    /// The hardware has handled a packet.
    pub fn handled(&mut self, id: MergedId, bytes: u64, now: u64) {
        let track = self.tracks.get_mut(&id).or_else(|| self.stuck.get_mut(&id));
        track.expect("an entry that is known").counted.add(Counters::one(bytes, now));
    }

    /// What has left the hardware, what has come, and whether that is as it should be.
    pub fn follow(&mut self, m: &Merger<Faulty>, now: u64, going: Going<'_>) {
        let snapshot = m.snapshot();
        let views: BTreeMap<MergedId, &MergedView> = snapshot.merged.iter().map(|v| (v.id, v)).collect();
        assert_eq!(views.len(), snapshot.merged.len(), "a name is used twice");
        let still: BTreeSet<MergedId> = snapshot.stuck.iter().map(|e| e.id()).collect();
        for (id, mut track) in std::mem::take(&mut self.stuck) {
            match still.contains(&id) {
                true => drop(self.stuck.insert(id, track)),
                false => {
                    self.tell(&mut track);
                    self.left.push(Removed { id, counters: track.told });
                }
            }
        }
        for (id, mut track) in std::mem::take(&mut self.tracks) {
            let Some(view) = views.get(&id) else {
                assert!((going.may)(&track), "{track:?} left");
                if still.contains(&id) {
                    self.stuck.insert(id, track);
                } else if track.state == State::Waiting {
                    // It was not in hardware: it is told only if it came in meanwhile.
                    self.tell(&mut track);
                } else {
                    self.tell(&mut track);
                    self.left.push(Removed { id, counters: track.told });
                }
                continue;
            };
            assert!(!(going.must)(&track), "{track:?} stayed");
            track.state = view.state;
            self.tracks.insert(id, track);
        }
        for view in &snapshot.merged {
            if self.tracks.contains_key(&view.id) {
                continue;
            }
            let parents: Vec<(Cookie, Number)> =
                view.path.parents.iter().map(|p| (p.cookie, self.account[&p.cookie])).collect();
            let filters: Vec<Filter> = parents.iter().map(|(cookie, _)| self.filters[cookie].clone()).collect();
            let alone = filters.iter().any(|f| f.skip_sw);
            assert!(alone || going.worked, "{view:?} came from nowhere");
            let connections = view.connections.iter().map(|id| (*id, self.connections[id])).collect();
            let (id, state) = (view.id, view.state);
            let counters = Counters::default();
            let track = Track {
                id,
                port: view.path.port,
                parents,
                filters,
                connections,
                state,
                alone,
                counted: counters,
                told: counters,
                used: now,
            };
            self.tracks.insert(id, track);
        }
        // What is stuck was known before.
        let known: BTreeSet<MergedId> = self.stuck.keys().copied().collect();
        for id in still.difference(&known) {
            // It was installed and wanted gone in one call: the device was not sure.
            self.unsure(m, *id);
        }
    }

    /// An entry of which only its name is known: the device did not know whether it had installed it, and would not remove it.
    /// What it comes from, the packets tell that it matches. Of a refused `skip_sw` filter something is left at the first of its ports:
    /// it was offered at none behind one that failed.
    fn unsure(&mut self, m: &Merger<Faulty>, id: MergedId) {
        let counters = Counters::default();
        let memory = &m.hardware().memory;
        let packet = self.packets.iter().find(|p| memory.lookup(p.port, &p.key) == Some(id));
        let alone = |p: &Packet| {
            let mut alone = self.filters.iter().filter(|(_, f)| f.skip_sw && f.matches.fits(&p.key));
            alone.next().map(|(&cookie, _)| vec![cookie])
        };
        let refused = |p: &Packet| {
            let (refused, all) = self.refused.as_ref().filter(|(f, _)| f.matches.fits(&p.key))?;
            let offered = if *all { usize::MAX } else { 1 };
            let mut sides = self.sides(refused.id.hook).into_iter().take(offered);
            sides.any(|side| side == Hook::Ingress(p.port)).then(Vec::new)
        };
        let cookies = |p: &Packet| refused(p).or_else(|| alone(p)).or_else(|| Some(self.way(p)?.cookies()));
        let cookies = packet.and_then(cookies).unwrap_or_default();
        let track = Track {
            id,
            port: packet.map_or(Port(0), |p| p.port),
            parents: cookies.iter().map(|cookie| (*cookie, self.account[cookie])).collect(),
            filters: Vec::new(),
            connections: Vec::new(),
            state: State::Stuck,
            alone: false,
            counted: counters,
            told: counters,
            used: 0,
        };
        self.stuck.insert(id, track);
    }

    /// Compares everything.
    pub fn check(&self, m: &Merger<Faulty>, snapshot: &Snapshot) {
        let hardware = m.hardware();
        assert_eq!(hardware.wrong(), Vec::<String>::new());
        // What is in hardware: what should be, and what would not go.
        let installed = self.tracks.values().filter(|t| t.state == State::Installed).map(|t| t.id);
        let sure: BTreeSet<MergedId> = installed.collect();
        let inside: BTreeSet<MergedId> = hardware.memory.entries().iter().map(|e| e.id).collect();
        assert!(sure.is_subset(&inside), "{sure:?} should be in hardware, {inside:?} is");
        let may: BTreeSet<MergedId> = sure.iter().chain(self.stuck.keys()).copied().collect();
        assert!(inside.is_subset(&may), "{inside:?} is in hardware, {may:?} may be");
        for view in &snapshot.merged {
            assert!(matches!(view.state, State::Installed | State::Waiting), "{view:?} between two calls");
            if let Some(entry) = hardware.memory.entry(view.id) {
                assert_eq!(
                    (entry.port, &entry.matches, &entry.actions),
                    (view.path.port, &view.matches, &view.actions)
                );
            }
        }
        self.check_parents(m, snapshot);
        self.check_counters(m, snapshot);
        self.check_packets(m);
        self.check_alone(snapshot);
    }

    /// The links in both directions, and that all parents are what they were.
    fn check_parents(&self, m: &Merger<Faulty>, snapshot: &Snapshot) {
        assert_eq!(m.merged_count(), self.tracks.len());
        let mut derived: BTreeMap<Cookie, BTreeSet<MergedId>> = BTreeMap::new();
        let mut rest_on: BTreeMap<ConnectionId, usize> = BTreeMap::new();
        for track in self.tracks.values() {
            for ((cookie, number), filter) in track.parents.iter().zip(&track.filters) {
                assert_eq!(self.account.get(cookie), Some(number), "{track:?} of a filter that is gone");
                assert_eq!(&self.filters[cookie], filter, "{track:?}");
                derived.entry(*cookie).or_default().insert(track.id);
            }
            for (id, was) in &track.connections {
                let is = &self.connections[id];
                let rests = |c: &Connection| (c.zone, c.original, c.reply, c.mark, c.labels);
                assert_eq!(rests(is), rests(was), "{track:?}");
                assert!(is.qualifies().is_ok() && !self.held.contains(id), "{track:?}");
                let seen = self.seen.get(id).copied().unwrap_or_default();
                match universe::worth(is) {
                    Worth::Never(why) => panic!("{track:?}: {why}"),
                    Worth::After(walks) => assert!(seen >= walks, "{track:?} after {seen} walks"),
                }
                *rest_on.entry(*id).or_default() += 1;
            }
        }
        assert_eq!(snapshot.filters.len(), self.filters.len());
        for (cookie, filter, _) in &snapshot.filters {
            assert_eq!(&self.filters[cookie], filter);
            let ids = m.derived_from(*cookie);
            let set: BTreeSet<MergedId> = ids.iter().copied().collect();
            assert_eq!(set.len(), ids.len(), "derived twice");
            let expected = derived.remove(cookie).unwrap_or_default();
            assert_eq!(set, expected, "derived from {cookie:?}");
            let installed = expected.iter().filter(|id| self.tracks[id].state == State::Installed).count();
            assert_eq!(m.why(*cookie).merged, installed);
        }
        let ids: Vec<ConnectionId> = snapshot.connections.iter().map(|c| c.0).collect();
        assert_eq!(ids, self.connections.keys().copied().collect::<Vec<_>>());
        for (id, connection, merged, _) in &snapshot.connections {
            assert_eq!(connection, &self.connections[id]);
            assert_eq!(*merged, rest_on.get(id).copied().unwrap_or_default(), "{id:?}");
        }
        let paths: BTreeMap<_, _> = snapshot.paths.iter().map(|(id, port, parents)| (*id, (*port, parents))).collect();
        for view in &snapshot.merged {
            let track = &self.tracks[&view.id];
            let cookies: Vec<Cookie> = track.parents.iter().map(|p| p.0).collect();
            assert_eq!(paths.get(&view.path_id), Some(&(track.port, &cookies)));
            assert_eq!(view.connections, track.connections.iter().map(|c| c.0).collect::<Vec<_>>());
        }
    }

    /// Conservation: what entries counted and was read, and nothing else, their parents have.
    fn check_counters(&self, m: &Merger<Faulty>, snapshot: &Snapshot) {
        for (cookie, number) in self.account.iter().chain(&self.retired) {
            let told = self.accounts[*number].as_deref().expect("open");
            assert_eq!(m.counted(*cookie), told, "{cookie:?}");
        }
        let open = self.accounts.iter().flatten().count();
        assert_eq!((m.account_count(), self.account.len() + self.retired.len()), (open, open));
        for view in &snapshot.merged {
            assert_eq!(view.counters, self.tracks[&view.id].told, "{view:?}");
        }
    }

    /// Each packet that an entry matches goes the way that software takes.
    fn check_packets(&self, m: &Merger<Faulty>) {
        for packet in &self.packets {
            let Some(id) = m.hardware().memory.lookup(packet.port, &packet.key) else { continue };
            if self.stuck.contains_key(&id) {
                continue;
            }
            let track = &self.tracks[&id];
            let entry = m.hardware().memory.entry(id).expect("found");
            let applied = apply_through(&entry.actions, entry.trim, &packet.frame, None).expect("applies");
            let sent = applied.sent.iter().map(|s| (s.port, Tuple::of_key(&packet::arrived(&s.frame))));
            let cookies: Vec<Cookie> = track.parents.iter().map(|p| p.0).collect();
            if track.alone {
                assert!(track.filters[0].matches.fits(&packet.key), "{track:?}");
                continue;
            }
            let way = self.way(packet).unwrap_or_else(|| panic!("{track:?}: no filter decides"));
            assert_eq!(cookies, way.cookies(), "{track:?}");
            assert_eq!(track.connections.iter().map(|c| c.0).collect::<Vec<_>>(), way.connections);
            assert!(!way.excluded && !way.filtered, "{track:?}");
            assert_eq!(sent.collect::<Vec<_>>(), way.sent, "{track:?}");
            // After the last that is sent nothing is left to be dropped.
            let end = if way.sent.is_empty() { End::Dropped } else { End::Taken };
            assert_eq!(applied.end, end, "{track:?}");
        }
    }

    /// Each `skip_sw` filter is at each port of its hook once, or it is told why not.
    fn check_alone(&self, snapshot: &Snapshot) {
        for (&cookie, filter) in self.filters.iter().filter(|(_, f)| f.skip_sw) {
            for side in self.sides(filter.id.hook) {
                let at_side = |t: &&Track| t.alone && Hook::Ingress(t.port) == side && t.parents[0].0 == cookie;
                let here = self.tracks.values().filter(at_side).count();
                let told = snapshot.displaced.iter().filter(|d| d.cookie == cookie && d.side == side).count();
                assert_eq!(here + told, 1, "{cookie:?} at {side:?}: {here} in hardware, {told} told to be displaced");
            }
        }
        let all = snapshot.displaced.iter().all(|d| self.filters.get(&d.cookie).is_some_and(|f| f.skip_sw));
        assert!(all, "{:?}", snapshot.displaced);
    }
}
