//! Random sequences of everything that the merger offers, one call after the other, each compared with the [`model`](super::model).
//!
//! A failing sequence is made smaller by proptest, and told.

use super::{
    faulty::{Faulty, Install},
    model::{Going, Model, Track},
    universe::{self, BLOCK, CONNECTIONS, FILTERS, IN, OUT, SHARED, Way},
};
use flowmerge::{
    conntrack::{Connection, ConnectionId},
    flower::{ActionKind, Capabilities, Control, Cookie, Filter, Hook, Port, action::Mirred},
    hardware::MergedId,
    merger::{ConnectionEvent, Limits, Merger, NotRemoved, ReplaceError, Settings, Ticket, Worth},
    table::{Inserted, life::State},
};
use proptest::prelude::*;
use std::collections::BTreeSet;

const COOKIES: u64 = 14;
const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Debug)]
enum Command {
    Replace { filter: usize, cookie: u64 },
    Destroy(u64),
    DestroyPriority(usize),
    DestroyHook(Hook),
    Shared(usize),
    Port { out: usize, up: bool },
    Bind(Hook),
    Unbind(Hook),
    Told { connection: u64, form: u8 },
    Gone(u64),
    GiveBack(u64),
    TakeBack(u64),
    Packet { which: usize, times: u8 },
    Drain(u64),
    Stats(u64),
    Sweep(u64),
    Reset,
    KeepAlive,
    Install(Install),
    Removals(bool),
    Reads(bool),
}

fn install() -> impl Strategy<Value = Install> {
    prop_oneof![
        3 => Just(Install::Works),
        2 => Just(Install::Fails),
        1 => Just(Install::UnsureIn),
        1 => Just(Install::UnsureOut),
        1 => Just(Install::Full),
    ]
}

/// Where the block may be: at two ports' ingress, and at one's egress.
fn side() -> impl Strategy<Value = Hook> {
    prop_oneof![Just(Hook::Ingress(IN[1])), Just(Hook::Ingress(IN[2])), Just(Hook::Egress(OUT[1]))]
}

fn command() -> impl Strategy<Value = Command> {
    use Command::*;
    let time = || prop_oneof![Just(0), 0..SECOND / 500, 0..3 * SECOND];
    prop_oneof![
        6 => (0..FILTERS, 0..COOKIES).prop_map(|(filter, cookie)| Replace { filter, cookie }),
        3 => (0..FILTERS).prop_map(|filter| Replace { filter, cookie: filter as u64 }),
        3 => (0..COOKIES).prop_map(Destroy),
        1 => (0..FILTERS).prop_map(DestroyPriority),
        1 => prop::sample::select(vec![Hook::Ingress(IN[0]), Hook::Block(BLOCK), Hook::Egress(OUT[0])]).prop_map(DestroyHook),
        2 => (0..2usize).prop_map(Shared),
        2 => (0..2usize, any::<bool>()).prop_map(|(out, up)| Port { out, up }),
        1 => side().prop_map(Bind),
        1 => side().prop_map(Unbind),
        6 => (0..CONNECTIONS, 0..9u8).prop_map(|(connection, form)| Told { connection, form }),
        2 => (0..CONNECTIONS).prop_map(Gone),
        2 => (0..CONNECTIONS).prop_map(GiveBack),
        1 => (0..CONNECTIONS).prop_map(TakeBack),
        24 => (0..64usize, 1..4u8).prop_map(|(which, times)| Packet { which, times }),
        10 => time().prop_map(Drain),
        3 => (0..COOKIES).prop_map(Stats),
        2 => time().prop_map(Sweep),
        1 => Just(Reset),
        1 => Just(KeepAlive),
        3 => install().prop_map(Command::Install),
        3 => prop_oneof![1 => Just(true), 2 => Just(false)].prop_map(Removals),
        2 => any::<bool>().prop_map(Reads),
    ]
}

/// What is chosen once.
#[derive(Clone, Debug)]
struct Chosen {
    idle: Option<u64>,
    size: Option<usize>,
    merged: usize,
    shards: u8,
    queue: usize,
    hits: usize,
}

fn chosen() -> impl Strategy<Value = Chosen> {
    let idle = prop_oneof![2 => Just(None), 1 => Just(Some(2 * SECOND))];
    let size = prop_oneof![3 => Just(None), 1 => Just(Some(3))];
    let merged = prop_oneof![4 => Just(1000), 1 => Just(4usize)];
    let shards = prop_oneof![Just(1), Just(3), Just(8)];
    let queue = prop_oneof![3 => Just(4096), 1 => Just(2usize)];
    let hits = prop_oneof![4 => Just(16), 1 => Just(2usize)];
    (idle, size, merged, shards, queue, hits).prop_map(|(idle, size, merged, shards, queue, hits)| Chosen {
        idle,
        size,
        merged,
        shards,
        queue,
        hits,
    })
}

/// A walk that was handed in.
struct Waiting {
    ticket: Ticket,
    way: Way,
    packet: usize,
    version: u64,
}

struct Machine {
    m: Merger<Faulty>,
    model: Model,
    chosen: Chosen,
    now: u64,
    waiting: Vec<Waiting>,
    /// Rises with whatever may change what becomes of a walk.
    version: u64,
    shared: Port,
    /// The ports that had filters at their egress hooks before the call.
    filtered: BTreeSet<Port>,
    /// Walks that were turned away because the queue was full.
    turned: u64,
}

fn none(_: &Track) -> bool {
    false
}

impl Machine {
    fn new(chosen: Chosen) -> Machine {
        let hardware = Faulty::new(Capabilities { size: chosen.size, ..Capabilities::all() }, 1);
        let settings = Settings {
            limits: Limits { merged: chosen.merged, queue: chosen.queue, hits: chosen.hits, ..Limits::default() },
            shards: chosen.shards,
            policy: Box::new(universe::worth),
            idle: chosen.idle,
            ..Settings::default()
        };
        let m = Merger::with(hardware, settings);
        let (model, waiting) = (Model::new(), Vec::new());
        let mut machine = Machine {
            m,
            model,
            chosen,
            now: SECOND,
            waiting,
            version: 0,
            shared: OUT[0],
            filtered: BTreeSet::new(),
            turned: 0,
        };
        for filter in [0, 1, 2, 3, 7, 8] {
            machine.run(&Command::Replace { filter, cookie: filter as u64 });
        }
        machine.run(&Command::Bind(Hook::Ingress(IN[1])));
        (0..CONNECTIONS).for_each(|connection| machine.run(&Command::Told { connection, form: 0 }));
        machine
    }

    /// Follows what a call did; `told`: what it said that is still in hardware.
    fn follow(
        &mut self,
        must: impl Fn(&Track) -> bool,
        may: impl Fn(&Track) -> bool,
        told: Option<&Result<(), NotRemoved>>,
    ) {
        let before: BTreeSet<MergedId> = self.model.tracks.keys().copied().collect();
        // What was stuck before is tried again by calls that it stands in the way of, and named by them if it stays.
        let stuck: BTreeSet<MergedId> = self.model.stuck.keys().copied().collect();
        // Where the table is full, what is little used makes room for others, of which a call may install some.
        let full = self.chosen.size.is_some() || self.m.hardware().faults().install == Install::Full;
        // What is sent past new filters leaves. What is not sent, since the port is down, may.
        let (before_it, now_filtered) = (&self.filtered, self.model.filtered());
        let down = self.model.down.clone();
        let sends = |t: &Track, port: Port| t.filters.iter().any(|f| universe::sends(f, port));
        let must = |t: &Track| {
            let mut new = now_filtered.difference(before_it).filter(|port| !down.contains(port));
            must(t) || new.any(|&port| sends(t, port))
        };
        let may = |t: &Track| {
            full && !t.alone || may(t) || must(t) || now_filtered.union(before_it).any(|&port| sends(t, port))
        };
        self.model.follow(&self.m, self.now, Going { must: &must, may: &may, worked: told.is_none() });
        if let Some(told) = told {
            // Of an install that the device was not sure of, `stuck` tells.
            let new: BTreeSet<MergedId> = self.model.stuck.keys().copied().filter(|id| before.contains(id)).collect();
            let mut named: BTreeSet<MergedId> = match told {
                Ok(()) => BTreeSet::new(),
                Err(NotRemoved(errors)) => errors.iter().map(|e| e.id()).collect(),
            };
            if full {
                named.extend(&new);
            }
            named.retain(|id| !stuck.contains(id));
            assert_eq!(named, new, "what is stuck is named by the call");
        }
    }

    fn run(&mut self, command: &Command) {
        self.filtered = self.model.filtered();
        if !matches!(command, Command::Packet { .. } | Command::Drain(_) | Command::Stats(_) | Command::KeepAlive) {
            self.version += 1;
        }
        match *command {
            Command::Replace { filter, cookie } => self.replace(universe::filter(filter, self.shared), Cookie(cookie)),
            Command::Destroy(cookie) => self.destroy(Cookie(cookie)),
            Command::DestroyPriority(n) => {
                let id = universe::filter(n, self.shared).id;
                let which = |f: &Filter| (f.id.hook, f.id.chain, f.id.prio) == (id.hook, id.chain, id.prio);
                let done = self.m.destroy_priority(id.hook, id.chain, id.prio);
                self.destroyed(which, done);
            }
            Command::DestroyHook(hook) => {
                let done = self.m.destroy_hook(hook);
                self.destroyed(|f| f.id.hook == hook, done);
            }
            Command::Shared(out) => self.share(OUT[out]),
            Command::Port { out, up } => {
                let port = OUT[out];
                let done = self.m.port(port, up);
                let changed = if up { self.model.down.remove(&port) } else { self.model.down.insert(port) };
                let sends = |t: &Track| changed && t.filters.iter().any(|f| universe::sends(f, port));
                self.follow(sends, none, Some(&done));
            }
            Command::Bind(side) => {
                let done = self.m.bind(side, BLOCK);
                self.model.bound.insert(side);
                self.follow(none, none, Some(&done));
            }
            Command::Unbind(side) => {
                let done = self.m.unbind(side, BLOCK);
                let was = self.model.bound.remove(&side);
                let of_block = |t: &Track| t.filters.iter().any(|f| f.id.hook == Hook::Block(BLOCK));
                let at_side = |t: &Track| Hook::Ingress(t.port) == side;
                self.follow(
                    |t| was && of_block(t) && (!t.alone || at_side(t)),
                    |t| of_block(t) && !t.alone,
                    Some(&done),
                );
            }
            Command::Told { connection, form } => {
                let (id, is) = (ConnectionId(connection), universe::connection(connection, form));
                let done = self.m.connection(ConnectionEvent::Is(id, is));
                let rests = |c: &Connection| (c.original, c.reply, c.mark, c.labels, c.qualifies());
                let was = self.model.connections.insert(id, is);
                let changed = was.is_some_and(|was| rests(&was) != rests(&is));
                self.follow(|t| changed && t.connections.iter().any(|c| c.0 == id), none, Some(&done));
            }
            Command::Gone(n) => {
                let id = ConnectionId(n);
                let done = self.m.connection(ConnectionEvent::Gone(id));
                self.follow(|t| t.connections.iter().any(|c| c.0 == id), none, Some(&done));
                self.model.connections.remove(&id);
                self.model.held.remove(&id);
                self.model.seen.remove(&id);
            }
            Command::GiveBack(n) => {
                let id = ConnectionId(n);
                let done = self.m.give_back(id);
                if self.model.connections.contains_key(&id) {
                    self.model.held.insert(id);
                }
                assert!(
                    done.as_ref().is_ok_and(|known| *known == self.model.connections.contains_key(&id))
                        || done.is_err()
                );
                self.follow(|t| t.connections.iter().any(|c| c.0 == id), none, Some(&done.map(|_| ())));
            }
            Command::TakeBack(n) => {
                let known = self.model.connections.contains_key(&ConnectionId(n));
                assert_eq!(self.m.take_back(ConnectionId(n)), known);
                self.model.held.remove(&ConnectionId(n));
                self.follow(none, none, Some(&Ok(())));
            }
            Command::Packet { which, times } => (0..times).for_each(|_| self.packet(which % self.model.packets.len())),
            Command::Drain(time) => self.drain(time),
            Command::Stats(cookie) => {
                let cookie = Cookie(cookie);
                let told = self.m.stats(cookie);
                if !self.m.hardware().faults().reads && self.model.filters.contains_key(&cookie) {
                    self.model.read(|t| t.state == State::Installed && t.parents.iter().any(|p| p.0 == cookie));
                }
                let number = self.model.account.get(&cookie).or_else(|| self.model.retired.get(&cookie));
                let expected = number.and_then(|n| self.model.accounts[*n].clone()).unwrap_or_default();
                assert_eq!(told, expected, "{cookie:?}");
                self.follow(none, none, Some(&Ok(())));
            }
            Command::Sweep(time) => {
                self.now += time;
                self.m.sweep(self.now);
                if !self.m.hardware().faults().reads {
                    self.model.read(|t| t.state == State::Installed);
                }
                let (now, most) = (self.now, self.chosen.idle.unwrap_or(u64::MAX));
                let idle = |t: &Track| t.state == State::Installed && !t.alone && now.saturating_sub(t.used) >= most;
                self.follow(idle, none, None);
            }
            Command::Reset => {
                self.m.hardware().reset(|| self.m.reset(self.now));
                self.model.reset();
                self.follow(none, none, Some(&Ok(())));
                assert!(self.model.tracks.values().all(|t| t.state == State::Waiting));
            }
            Command::KeepAlive => {
                for alive in self.m.keep_alive(self.now) {
                    let rests = |t: &&Track| t.connections.iter().any(|c| c.0 == alive.id) && t.told.packets > 0;
                    let used = self.model.tracks.values().filter(rests).map(|t| t.used).max();
                    assert_eq!(used, Some(alive.last_used), "{alive:?}");
                }
                self.follow(none, none, Some(&Ok(())));
            }
            Command::Install(how) => self.m.hardware().set(|f| f.install = how),
            Command::Removals(fail) => self.m.hardware().set(|f| f.removals = fail),
            Command::Reads(fail) => self.m.hardware().set(|f| f.reads = fail),
        }
        self.model.check(&self.m, &self.m.snapshot());
    }

    fn replace(&mut self, filter: Filter, cookie: Cookie) {
        let done = self.m.replace(cookie, filter.clone(), Inserted::Observed);
        // Where what it takes the place of would not go, it was not offered.
        let new = |id: MergedId| !self.model.tracks.contains_key(&id) && !self.model.stuck.contains_key(&id);
        let offered = match &done {
            Ok(_) | Err(ReplaceError::SkipSw(_)) => true,
            Err(ReplaceError::NotRemoved(NotRemoved(errors))) => errors.iter().any(|e| new(e.id())),
        };
        let instead = self.model.same(&filter);
        let mut gone = BTreeSet::new();
        let mut places = vec![(filter.id.hook, filter.id.chain)];
        for old in [Some(cookie), instead].into_iter().flatten() {
            gone.extend(self.model.account.get(&old).copied());
            places.extend(self.model.filters.get(&old).map(|f| (f.id.hook, f.id.chain)));
        }
        let before = instead.map(|old| (old, self.model.filters[&old].clone(), self.model.account[&old]));
        let own = self.model.account.get(&cookie).copied().filter(|_| instead != Some(cookie));
        for old in [Some(cookie), instead].into_iter().flatten() {
            self.model.filters.remove(&old);
            self.model.account.remove(&old);
        }
        let failed = filter.skip_sw && done.is_err();
        if failed {
            if let Some(retired) = self.model.retired.remove(&cookie) {
                self.model.close(retired);
            }
            if let Some((old, was, number)) = &before {
                self.model.filters.insert(*old, was.clone());
                self.model.account.insert(*old, *number);
            }
        } else {
            self.model.open(cookie, &filter);
        }
        let told = match &done {
            Err(ReplaceError::NotRemoved(errors)) => Err(errors.clone()),
            _ => Ok(()),
        };
        let all = self.m.hardware().faults().install == Install::Works;
        let egress = self.model.bound.contains(&Hook::Egress(OUT[1])) && filter.id.hook == Hook::Block(BLOCK);
        self.model.refused = (failed && offered).then_some((filter, all));
        let must = |t: &Track| t.parents.iter().any(|p| gone.contains(&p.1));
        // One that is refused was there for a moment.
        let past = |t: &Track| egress && failed && t.filters.iter().any(|f| universe::sends(f, OUT[1]));
        let near =
            |t: &Track| past(t) || t.alone || t.filters.iter().any(|f| places.contains(&(f.id.hook, f.id.chain)));
        self.follow(must, near, (!failed).then_some(&told));
        self.model.refused = None;
        if let Some(own) = own {
            self.model.close(own);
        }
        if let Some((old, _, number)) = before.filter(|_| !failed) {
            match old == cookie {
                true => drop(self.model.close(number)),
                false => drop(self.model.retired.insert(old, number)),
            }
        }
    }

    fn destroy(&mut self, cookie: Cookie) {
        let done = self.m.destroy(cookie);
        self.model.filters.remove(&cookie);
        let number = self.model.account.remove(&cookie);
        let told = self
            .told_before(&number.or(self.model.retired.get(&cookie).copied()).into_iter().collect::<Vec<_>>(), &done);
        self.follow(|t| t.parents.iter().any(|p| Some(p.1) == number), |t| t.alone, Some(&told));
        let number = number.or_else(|| self.model.retired.remove(&cookie));
        match (done, number) {
            (Ok(counters), Some(number)) => assert_eq!(counters, self.model.close(number), "{cookie:?}"),
            (Ok(counters), None) => assert_eq!(counters, []),
            (Err(_), Some(number)) => drop(self.model.retired.insert(cookie, number)),
            (Err(error), None) => panic!("{error} of nothing"),
        }
    }

    /// What was stuck before the call and derives from what it destroyed is named; what else it named.
    fn told_before<T>(&self, numbers: &[usize], done: &Result<T, NotRemoved>) -> Result<(), NotRemoved> {
        let errors = done.as_ref().err().map(|e| e.0.clone()).unwrap_or_default();
        let (old, new): (Vec<_>, Vec<_>) = errors.into_iter().partition(|e| self.model.stuck.contains_key(&e.id()));
        let derived = self.model.stuck.values().filter(|t| t.parents.iter().any(|p| numbers.contains(&p.1)));
        let still: BTreeSet<MergedId> = self.m.stuck().iter().map(|e| e.id()).collect();
        let derived: BTreeSet<MergedId> = derived.map(|t| t.id).filter(|id| still.contains(id)).collect();
        // What is not in the table, though the device is not sure, no packet tells the parents of.
        let known = |id: &MergedId| !self.model.stuck[id].parents.is_empty();
        let old: BTreeSet<MergedId> = old.iter().map(|e| e.id()).filter(known).collect();
        assert_eq!(old, derived, "what was stuck before is named");
        if new.is_empty() { Ok(()) } else { Err(NotRemoved(new)) }
    }

    fn destroyed(
        &mut self,
        which: impl Fn(&Filter) -> bool,
        done: Result<Vec<(Cookie, Vec<flowmerge::flower::Counters>)>, NotRemoved>,
    ) {
        let cookies: Vec<Cookie> = self.model.filters.iter().filter(|(_, f)| which(f)).map(|(&c, _)| c).collect();
        let numbers: Vec<_> = cookies.iter().filter_map(|c| self.model.account.remove(c)).collect();
        cookies.iter().for_each(|c| drop(self.model.filters.remove(c)));
        let told = self.told_before(&numbers, &done);
        self.follow(|t| t.parents.iter().any(|p| numbers.contains(&p.1)), |t| t.alone, Some(&told));
        let both = cookies.into_iter().zip(numbers);
        match done {
            Ok(told) => assert_eq!(told, both.map(|(c, n)| (c, self.model.close(n))).collect::<Vec<_>>()),
            // They are told when each is destroyed once more.
            Err(_) => self.model.retired.extend(both),
        }
    }

    fn share(&mut self, port: Port) {
        let change = |action: &mut flowmerge::flower::Action| match &mut action.kind {
            ActionKind::Mirred(Mirred { port: to, .. }) if action.index == SHARED && *to != port => {
                *to = port;
                true
            }
            _ => false,
        };
        let done = self.m.action_changed(change);
        self.shared = port;
        let mut changed = BTreeSet::new();
        for (cookie, filter) in &mut self.model.filters {
            let mut any = false;
            filter.actions.iter_mut().for_each(|action| any |= change(action));
            changed.extend(any.then_some(*cookie));
        }
        self.follow(|t| t.parents.iter().any(|p| changed.contains(&p.0)), |t| t.alone, Some(&done));
    }

    fn packet(&mut self, which: usize) {
        self.now += 1000;
        let packet = self.model.packets[which].clone();
        if let Some(handled) = self.m.hardware().memory.receive(packet.port, &packet.frame, self.now) {
            self.model.handled(handled.id, packet.bytes, self.now);
        } else if let Some(way) = self.model.way(&packet) {
            let ticket = self.m.walk(way.walk(&packet));
            assert_eq!(ticket.is_some(), self.waiting.len() < self.chosen.queue);
            match ticket {
                Some(ticket) => self.waiting.push(Waiting { ticket, way, packet: which, version: self.version }),
                None => self.turned += 1,
            }
            assert_eq!((self.m.queued(), self.m.turned().queue), (self.waiting.len(), self.turned));
        }
    }

    fn drain(&mut self, time: u64) {
        self.now += time;
        let left = std::mem::take(&mut self.model.left);
        let healthy = self.m.hardware().faults().install == Install::Works
            && self.chosen.size.is_none()
            && self.model.stuck.is_empty()
            && self.model.tracks.values().all(|t| t.state == State::Installed)
            && self.model.tracks.len() + self.waiting.len() < self.chosen.merged;
        let drained = self.m.drain(self.now);
        let waiting = std::mem::take(&mut self.waiting);
        let tickets: Vec<Ticket> = waiting.iter().map(|w| w.ticket).collect();
        assert_eq!(drained.walks.iter().map(|w| w.0).collect::<Vec<_>>(), tickets);
        for found in waiting.iter().flat_map(|w| &w.way.hits).flat_map(|hit| &hit.found).flatten() {
            if self.model.connections.contains_key(&found.connection) {
                *self.model.seen.entry(found.connection).or_default() += 1;
            }
        }
        self.follow(none, |t| t.state == State::Waiting || t.alone, None);
        // What is told to have left did, each with all that it counted, and once.
        let mut all = left.clone();
        all.append(&mut self.model.left);
        for told in &drained.removed {
            match all.iter().position(|l| l.id == told.id) {
                Some(at) => assert_eq!(&all.swap_remove(at), told),
                // The device had not known whether it was installed.
                None => assert_eq!(
                    (told.counters.packets, self.model.tracks.contains_key(&told.id)),
                    (0, false),
                    "{told:?}"
                ),
            }
        }
        assert!(
            left.iter().all(|l| drained.removed.iter().any(|told| told.id == l.id)),
            "{left:?} left and are not told"
        );
        self.model.left = all;
        for (waiting, (_, outcome)) in waiting.iter().zip(&drained.walks) {
            if healthy && waiting.version == self.version {
                self.judge(waiting, outcome);
            }
        }
    }

    /// A walk that holds is merged, unless there is a reason that the model knows.
    fn judge(&self, waiting: &Waiting, outcome: &flowmerge::merger::Outcome) {
        let way = &waiting.way;
        let packet = &self.model.packets[waiting.packet];
        // It belongs to a `skip_sw` filter that was not in hardware when it came.
        let in_front = self.model.is_for_hardware(packet, way);
        let keeps_out = way.connections.iter().any(|id| {
            let connection = &self.model.connections[id];
            // One that is worth it only later may have been told anew, or asked for more than once at a time.
            let worth_it = matches!(universe::worth(connection), Worth::After(1));
            connection.qualifies().is_err() || self.model.held.contains(id) || !worth_it
        });
        let too_long = way.hits.len() > self.chosen.hits;
        let stays = way.excluded || way.filtered || in_front || too_long;
        match outcome {
            Ok(merge) => {
                assert!(!stays, "{way:?}");
                assert_eq!(self.m.hardware().memory.lookup(packet.port, &packet.key), Some(merge.id), "{way:?}");
            }
            Err(refusal) => assert!(keeps_out || stays, "{way:?}: {refusal}"),
        }
    }

    /// The hardware works again, time passes, and everything goes: nothing is left.
    fn end(mut self) {
        self.m.hardware().set(|f| *f = Default::default());
        for _ in 0..3 {
            self.run(&Command::Drain(100 * SECOND));
        }
        assert_eq!(self.m.stuck(), []);
        assert_eq!(self.m.snapshot().waiting, 0);
        let cookies: Vec<u64> = (0..COOKIES).collect();
        cookies.iter().for_each(|&c| self.run(&Command::Destroy(c)));
        assert_eq!((self.m.merged_count(), self.m.account_count()), (0, 0));
        assert!(self.m.hardware().memory.is_empty());
        {
            let table = self.m.table();
            assert_eq!((table.path_count(), table.way_count(), table.refusals().count()), (0, 0, 0));
        }
        (0..CONNECTIONS).for_each(|c| self.run(&Command::Gone(c)));
        self.run(&Command::Drain(SECOND));
        let snapshot = self.m.snapshot();
        assert_eq!((self.m.connection_count(), snapshot.queue, snapshot.waiting), (0, 0, 0));
        assert_eq!((snapshot.filters.len(), snapshot.paths.len(), snapshot.displaced), (0, 0, vec![]));
        assert_eq!(self.model.left, [], "all that left was told");
    }
}

fn cases() -> u32 {
    std::env::var("FLOWMERGE_RUNTIME").ok().and_then(|n| n.parse().ok()).unwrap_or(300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_all_is_as_the_model_says(chosen in chosen(), commands in prop::collection::vec(command(), 1..80)) {
        let mut machine = Machine::new(chosen);
        commands.iter().for_each(|command| machine.run(command));
        machine.end();
    }
}

/// What the random sequences have found, each as its smallest.
#[test]
fn what_was_found_stays_as_the_model_says() {
    use self::Install::{Fails, UnsureIn, Works};
    use Command::*;
    let any = Chosen { idle: None, size: None, merged: 1000, shards: 1, queue: 4096, hits: 16 };
    // A `skip_sw` filter is refused, and the device keeps what it was not sure of: it counts for nobody.
    let refused = vec![
        Removals(true),
        Replace { filter: 5, cookie: 2 },
        Install(UnsureIn),
        Replace { filter: 6, cookie: 0 },
        Destroy(2),
    ];
    // A packet is for a `skip_sw` filter that the device failed to take back: what it hits instead is not merged.
    let not_taken_back = vec![
        Replace { filter: 6, cookie: 0 },
        Install(Fails),
        Port { out: 1, up: false },
        Install(Works),
        Replace { filter: 5, cookie: 5 },
        Packet { which: 13, times: 1 },
        Drain(0),
    ];
    // A walk that was refused for the block's filters at an egress hook is merged when the block is gone from there.
    let unbound = vec![
        Told { connection: 0, form: 4 },
        Bind(Hook::Egress(OUT[1])),
        Packet { which: 0, times: 1 },
        Drain(0),
        Unbind(Hook::Egress(OUT[1])),
        Packet { which: 0, times: 1 },
        Drain(0),
    ];
    // So it is when the only filter of the hook has its cookie used again for one elsewhere.
    let elsewhere = vec![
        Replace { filter: 12, cookie: 12 },
        Replace { filter: 5, cookie: 5 },
        Packet { which: 13, times: 1 },
        Drain(0),
        Replace { filter: 4, cookie: 12 },
        Packet { which: 13, times: 1 },
        Drain(0),
    ];
    for commands in [refused, not_taken_back, unbound, elsewhere] {
        let mut machine = Machine::new(any.clone());
        commands.iter().for_each(|command| machine.run(command));
        machine.end();
    }
}

/// Twelve filters in places of their own, of which three go on to another chain and two are `skip_sw`: as the drawing has it.
#[test]
fn the_universe_has_all_that_it_says() {
    let filters: Vec<Filter> = (0..FILTERS).map(|n| universe::filter(n, OUT[0])).collect();
    let ids: BTreeSet<_> = filters.iter().map(|f| f.id).collect();
    assert_eq!(ids.len(), FILTERS);
    let ends = |f: &&Filter| matches!(f.actions.last().map(|a| a.control), Some(Control::Goto(_)));
    assert_eq!(filters.iter().filter(ends).count(), 3);
    assert_eq!(filters.iter().filter(|f| f.skip_sw).count(), 2);
}
