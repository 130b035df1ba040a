//! How a run is set up.

use flowmerge::{
    flower::{Capabilities, Counts, Masks, capabilities::Abilities},
    merger::Limits,
};
use proptest::prelude::*;

/// How a run is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setting {
    /// The hardware counts whole frames.
    pub frames: bool,
    /// The hardware cannot mend checksums.
    pub no_mend: bool,
    /// Nobody saw in which order the first filters were inserted.
    pub dumped: bool,
    /// Bytes follow the IP datagram. `ct` cuts them off, which an arrival behind it counts and hardware does not.
    pub padded: bool,
    /// The inner port's filters are those of a shared block.
    pub shared: bool,
    /// Walks wait while filters and connections change.
    pub lazy: bool,
    /// No two filters of a chain overlap.
    pub apart: bool,
    /// Hardware that can do little, and low limits.
    pub tight: bool,
    /// The hardware compares fields as flower does.
    pub layered: bool,
}

impl Setting {
    pub fn capabilities(self) -> Capabilities {
        let mut capabilities = Capabilities::all();
        if self.frames {
            capabilities.counts = Counts::Frame;
        }
        if self.no_mend {
            capabilities.abilities -= Abilities::MEND;
        }
        if self.layered {
            capabilities.masks = Masks::flower();
        }
        if self.tight {
            capabilities.abilities -= Abilities::TRAP | Abilities::METADATA;
            capabilities.ranges = false;
        }
        capabilities
    }

    pub fn limits(self) -> Limits {
        match self.tight {
            true => Limits { hits: 8, merged_per_way: 1, merged: 12, ..Limits::default() },
            false => Limits::default(),
        }
    }
}

/// Any.
pub fn setting() -> impl Strategy<Value = Setting> {
    let rarely = || prop::bool::weighted(0.2);
    ((rarely(), rarely(), rarely(), rarely()), (any::<bool>(), rarely(), rarely(), prop::bool::weighted(0.1), rarely()))
        .prop_map(|((frames, no_mend, dumped, padded), (shared, lazy, apart, tight, layered))| Setting {
            frames,
            no_mend,
            dumped,
            padded,
            shared,
            lazy,
            apart,
            tight,
            layered,
        })
}
