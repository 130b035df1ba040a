//! What a replay comes to in numbers: the object that `--json` prints.

use serde::Serialize;
use std::collections::BTreeMap;

/// The whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// The file's name without folder and extension.
    pub trace: String,
    /// The filters of the run.
    pub filters: Filters,
    /// The first run.
    pub software: Software,
    /// What was recorded for merging.
    pub walks: Walks,
    /// What came of it.
    pub merged: Merged,
    /// The second run.
    pub hardware: Hardware,
}

/// The filters of the run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Filters {
    /// Different filters, replacements included.
    pub seen: u64,
    /// Those with something that was not understood.
    pub undecoded: u64,
}

/// The first run: every frame through the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Software {
    /// Frames in, on ports that have filters.
    pub received: u64,
    /// Those that a filter's terminal action decided.
    pub decided: u64,
    /// The rest.
    pub missed: u64,
    /// What came out and should have.
    #[serde(flatten)]
    pub result: Compared,
}

/// The walks of the second run, and those of connections that may be merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Walks {
    /// Walks given to the merger.
    pub recorded: u64,
    /// Different paths among them.
    pub paths: u64,
    /// Walks whose connections all qualify and whose packet is not excluded; but not those that by their own `ct` ended what
    /// they rested on, a mark or label.
    pub established: u64,
    /// Those of them that were merged, or were so already.
    pub established_merged: u64,
}

/// Merged filters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// Installs over the run.
    pub installed: u64,
    /// Walks refused, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// The second run: merged filters first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hardware {
    /// Frames that a merged filter handled alone.
    pub handled: u64,
    /// The rest.
    pub software: u64,
    /// What came out and should have.
    #[serde(flatten)]
    pub result: Compared,
    /// Those of the rest that a merged filter matches and that software judges by more than headers, by why.
    pub known: BTreeMap<String, u64>,
}

/// Frames and counters compared with the kernel's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Frames that should have been sent, and those sent that nothing accounts for.
    pub frames: u64,
    /// Those found in the trace.
    pub identical: u64,
    /// Those of them that were sent to a tunnel device, and whose outer packet is in the trace: as their metadata says it.
    pub wrapped: u64,
    /// Filters in the last dump.
    pub counters: u64,
    /// Those whose every action counted the same packets and bytes.
    pub counters_identical: u64,
}

impl Compared {
    /// Whether nothing differs.
    pub fn is_identical(&self) -> bool {
        self.frames == self.identical && self.counters == self.counters_identical
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_as_agreed() {
        let json = serde_json::to_string(&Totals::default()).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"trace":"","filters":{"seen":0,"undecoded":0},"#,
                r#""software":{"received":0,"decided":0,"missed":0,"frames":0,"identical":0,"wrapped":0,"counters":0,"counters_identical":0},"#,
                r#""walks":{"recorded":0,"paths":0,"established":0,"established_merged":0},"#,
                r#""merged":{"installed":0,"refused":{}},"#,
                r#""hardware":{"handled":0,"software":0,"frames":0,"identical":0,"wrapped":0,"counters":0,"counters_identical":0,"known":{}}}"#
            )
        );
    }
}
