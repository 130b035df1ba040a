//! The life of a merged filter: all states, all events, and what comes of each, in one table.
//!
//! Whoever wants something of a merged filter takes the lock of its shard, makes one step here, and gives the lock back before
//! the hardware is called. So each call into the hardware belongs to exactly one thread: the one whose step led to `Installing`
//! or to `Removing`. Others who want it gone leave word (`Recalled`) and wait.

/// Where a merged filter is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The hardware was asked to install it, and has not answered.
    Installing,
    /// The same, but it must go: whoever asked takes it out again.
    Recalled,
    /// In hardware.
    Installed,
    /// Not in hardware; it is offered again when its time has come.
    Waiting,
    /// The hardware was asked to remove it, and has not answered.
    Removing,
    /// The hardware would not remove it: asked again when its time has come.
    Stuck,
    /// It is gone, and nothing tracks it.
    Gone,
}

/// What can happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The hardware has installed it.
    Accepted,
    /// The hardware will not install it.
    Declined,
    /// The hardware could not install it now.
    Busy,
    /// The hardware does not know whether it is installed.
    Unsure,
    /// It must go: a parent changed, a shadow came, its place is wanted.
    Doomed,
    /// The hardware has removed it.
    Left,
    /// The hardware did not remove it.
    Kept,
    /// The time has come to try again.
    Due,
    /// The hardware has lost everything.
    Reset,
}

impl State {
    /// All of them, in the order of a life.
    pub const ALL: [State; 7] = {
        use State::*;
        [Waiting, Installing, Installed, Recalled, Removing, Stuck, Gone]
    };
}

impl Event {
    /// All of them.
    pub const ALL: [Event; 9] = {
        use Event::*;
        [Due, Accepted, Declined, Busy, Unsure, Doomed, Left, Kept, Reset]
    };
}

/// What comes of an event in a state; `None` where it cannot happen.
#[inline]
pub fn next(state: State, event: Event) -> Option<State> {
    use Event::*;
    use State::*;
    Some(match (state, event) {
        (Waiting, Due) => Installing,
        (Waiting, Doomed) => Gone,
        (Waiting, Reset) => Waiting,
        (Installing, Accepted) => Installed,
        (Installing, Declined) => Gone,
        (Installing, Busy) => Waiting,
        (Installing, Unsure) => Removing,
        // Whether the reset came before or after, nobody can tell: a walk will bring it again.
        (Installing | Recalled, Doomed | Reset) => Recalled,
        (Recalled, Accepted | Unsure) => Removing,
        (Recalled, Declined | Busy) => Gone,
        (Installed, Doomed) => Removing,
        (Installed, Reset) => Waiting,
        (Removing, Left) => Gone,
        (Removing, Kept) => Stuck,
        // Whoever removes it will be told that it is not there.
        (Removing, Doomed | Reset) => Removing,
        (Stuck, Due) => Removing,
        (Stuck, Doomed) => Stuck,
        (Stuck, Reset) => Gone,
        _ => return None,
    })
}

/// The table as a drawing, in Mermaid's words.
pub fn drawing() -> String {
    let mut out = String::from("stateDiagram-v2\n    [*] --> Installing: a walk\n");
    for state in State::ALL {
        for to in State::ALL {
            let events: Vec<String> = Event::ALL
                .iter()
                .filter(|&&event| next(state, event) == Some(to) && to != state)
                .map(|event| format!("{event:?}").to_lowercase())
                .collect();
            if !events.is_empty() {
                let to = if to == State::Gone { "[*]".to_string() } else { format!("{to:?}") };
                out.push_str(&format!("    {state:?} --> {to}: {}\n", events.join(", ")));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The drawing in ARCHITECTURE.md is this table's. `FLOWMERGE_PAGE=write` puts it there.
    #[test]
    fn the_drawing_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md");
        let page = std::fs::read_to_string(path).expect("there");
        let (before, rest) = page.split_once("```mermaid\nstateDiagram-v2\n").expect("a drawing of the life");
        let (_, after) = rest.split_once("```\n").expect("its end");
        let right = format!("{before}```mermaid\n{}```\n{after}", drawing());
        if std::env::var_os("FLOWMERGE_PAGE").is_some() {
            std::fs::write(path, &right).expect("written");
        } else {
            assert!(
                page == right,
                "run `FLOWMERGE_PAGE=write cargo test -p flowmerge --lib life` and look at the change"
            );
        }
    }

    /// What must be true of any life.
    #[test]
    fn no_life_goes_wrong() {
        use Event::*;
        use State::*;
        for state in State::ALL {
            let after = |event| next(state, event);
            // It can always be wanted gone, and the hardware can always lose everything.
            assert_eq!((after(Doomed).is_some(), after(Reset).is_some()), (state != Gone, state != Gone), "{state:?}");
            // What was doomed is not installed by anything but a new walk.
            let mut doomed: Vec<State> = after(Doomed).into_iter().collect();
            let mut at = 0;
            while let Some(&now) = doomed.get(at) {
                assert!(!matches!(now, Installed | Installing | Waiting), "{state:?} doomed comes to {now:?}");
                doomed.extend(
                    Event::ALL.iter().filter_map(|&e| next(now, e)).filter(|s| !doomed.contains(s)).collect::<Vec<_>>(),
                );
                doomed.dedup();
                at += 1;
                assert!(at < 100);
            }
            // Nobody forgets what may be in hardware, unless the hardware said so.
            for event in Event::ALL {
                let may_be_in = matches!(state, Installing | Recalled | Installed | Removing | Stuck);
                let said = matches!(event, Declined | Busy | Left | Reset);
                assert!(after(event) != Some(Gone) || !may_be_in || said, "{state:?} {event:?}");
            }
        }
    }
}
