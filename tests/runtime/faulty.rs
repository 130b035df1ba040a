//! Hardware that fails: the table in memory behind a driver that can be told to, or that does by chance, from a seed.

use flowmerge::{
    flower::Capabilities,
    hardware::{Hardware, HardwareError, Memory, MergedId, Offer, Reading},
    sync::{Mutex, RwLock},
};
use std::collections::BTreeSet;

/// How the device answers a request to install.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Install {
    /// As it should.
    #[default]
    Works,
    /// It does not, and says so.
    Fails,
    /// It does, and says that it does not know.
    UnsureIn,
    /// It does not, and says that it does not know.
    UnsureOut,
    /// It says that it is full.
    Full,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub install: Install,
    /// No removal works.
    pub removals: bool,
    /// No reading works.
    pub reads: bool,
    /// Besides that, so many of 1000 calls go wrong, in one of these ways.
    pub chance: u32,
}

/// The table, the faults, and what the driver saw.
pub struct Faulty {
    pub memory: Memory,
    /// It has lost everything, and installs nothing until the merger was told.
    down: RwLock<bool>,
    state: Mutex<State>,
}

struct State {
    faults: Faults,
    random: u64,
    /// How often something went wrong.
    failed: u64,
    /// Whose install was answered with anything but "no": it may be in the table.
    in_table: BTreeSet<MergedId>,
    /// What a driver must never be asked for.
    wrong: Vec<String>,
}

impl Faulty {
    pub fn new(capabilities: Capabilities, seed: u64) -> Faulty {
        let state = State {
            faults: Faults::default(),
            random: seed | 1,
            failed: 0,
            in_table: BTreeSet::new(),
            wrong: Vec::new(),
        };
        Faulty { memory: Memory::new(capabilities), down: RwLock::new(false), state: Mutex::new(state) }
    }

    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.lock().faults);
    }

    pub fn faults(&self) -> Faults {
        self.state.lock().faults
    }

    /// How often something went wrong.
    pub fn failed(&self) -> u64 {
        self.state.lock().failed
    }

    /// The calls that no driver should get: for a name that is in use, or that never was.
    pub fn wrong(&self) -> Vec<String> {
        self.state.lock().wrong.clone()
    }

    /// The device is reset: it loses everything, and installs nothing until `told` has told the merger.
    pub fn reset(&self, told: impl FnOnce()) {
        *self.down.write() = true;
        self.state.lock().in_table.clear();
        self.memory.lose_all();
        told();
        *self.down.write() = false;
    }

    fn failing(&self, id: MergedId) -> HardwareError {
        HardwareError::Failed { id, reason: "injected".into() }
    }
}

impl State {
    /// 0 to 999, from the seed (xorshift).
    fn roll(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 20) as u32 % 1000
    }

    fn fails(&mut self, always: bool) -> bool {
        let fails = always || self.faults.chance > 0 && self.roll() < self.faults.chance;
        self.failed += u64::from(fails);
        fails
    }
}

impl Hardware for Faulty {
    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    fn install(&self, offer: &Offer<'_>) -> Result<(), HardwareError> {
        let id = offer.id;
        let down = self.down.read();
        if *down {
            return Err(self.failing(id));
        }
        let how = {
            let mut state = self.state.lock();
            if state.in_table.contains(&id) {
                state.wrong.push(format!("{id} is installed, and was offered again"));
            }
            let by_chance = [Install::Fails, Install::UnsureIn, Install::UnsureOut, Install::Full];
            let told = state.faults.install;
            match told {
                Install::Works if state.fails(false) => by_chance[state.roll() as usize % 4],
                how => how,
            }
        };
        if how != Install::Works {
            self.state.lock().failed += 1;
        }
        let unsure = || HardwareError::Unsure { id, reason: "injected".into() };
        let (asked, answer) = match how {
            Install::Works => (true, None),
            Install::UnsureIn => (true, Some(unsure())),
            Install::UnsureOut => (false, Some(unsure())),
            Install::Fails => (false, Some(self.failing(id))),
            Install::Full => (false, Some(HardwareError::Full { id, size: self.memory.len() })),
        };
        let done = if asked { self.memory.install(offer) } else { Ok(()) };
        let answer = match (done, answer) {
            (Err(error), _) | (Ok(()), Some(error)) => Err(error),
            (Ok(()), None) => Ok(()),
        };
        if matches!(answer, Ok(()) | Err(HardwareError::Unsure { .. })) {
            self.state.lock().in_table.insert(id);
        }
        answer
    }

    fn remove(&self, id: MergedId) -> Result<Reading, HardwareError> {
        let mut state = self.state.lock();
        let always = state.faults.removals;
        if state.fails(always) {
            return Err(self.failing(id));
        }
        state.in_table.remove(&id);
        self.memory.remove(id)
    }

    fn read(&self, ids: &[MergedId], each: &mut dyn FnMut(MergedId, Result<Reading, HardwareError>)) {
        let fails = {
            let mut state = self.state.lock();
            let always = state.faults.reads;
            state.fails(always)
        };
        match fails {
            true => ids.iter().for_each(|&id| each(id, Err(self.failing(id)))),
            false => self.memory.read(ids, each),
        }
    }
}
