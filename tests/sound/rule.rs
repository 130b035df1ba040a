//! A filter as the kernel has it, and as the merger is told of it: that may be less.

use flowmerge::flower::{
    ActionKind, Control, Field, Filter, Kind, Match,
    action::{Ct, Random},
};

/// What the merger is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blind {
    /// One of the fields compared: an attribute that was not decoded.
    Field(u8),
    /// The whole match: another classifier.
    Classifier,
    /// What one of the actions is.
    Action(u8),
    /// Whether the last action's control is that, for it is random. The model takes it not to be.
    Random,
    /// That a control is `pipe`, since its number is not known.
    Control(u8),
    /// A helper that `ct` gives to new connections.
    Helper,
}

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// As it is.
    pub filter: Filter,
    pub blind: Option<Blind>,
}

impl Rule {
    /// Fields that decide nothing else if they are left out.
    fn hidden(&self, n: u8) -> Option<Field> {
        let may = |f: &Field| {
            let prerequisite = self.filter.matches.mask.fields().any(|(g, _)| g.row().prerequisite == Some(*f));
            !prerequisite && *f != Field::Protocol && !f.is_conntrack()
        };
        let fields: Vec<Field> = self.filter.matches.mask.fields().map(|(f, _)| f).filter(may).collect();
        (!fields.is_empty()).then(|| fields[n as usize % fields.len()])
    }

    /// Whether the match is known only in part.
    pub fn hides_match(&self) -> bool {
        match self.blind {
            Some(Blind::Field(n)) => self.hidden(n).is_some(),
            Some(Blind::Classifier) => true,
            _ => false,
        }
    }

    /// As the merger hears of it.
    pub fn told(&self) -> Filter {
        let mut told = self.filter.clone();
        let count = told.actions.len();
        match self.blind {
            Some(Blind::Field(n)) => {
                if let Some(field) = self.hidden(n) {
                    told.matches.clear(field);
                    told.undecoded = vec!["TCA_FLOWER 112".into()];
                }
            }
            Some(Blind::Classifier) => {
                told.kind = Kind::Other("matchall".into());
                told.matches = Match::default();
            }
            // A `ct` stays: what it found is part of the record.
            Some(Blind::Action(n)) => {
                let action = &mut told.actions[n as usize % count];
                if !matches!(action.kind, ActionKind::Ct(_)) {
                    action.kind = ActionKind::Other("police".into());
                }
            }
            Some(Blind::Random) => {
                let random = Random { kind: 1, value: 1000, control: Control::Shot };
                if let Some(action) = told.actions.iter_mut().find(|a| matches!(a.kind, ActionKind::Gact { .. })) {
                    action.kind = ActionKind::Gact { random: Some(random) };
                }
            }
            Some(Blind::Control(n)) => {
                let action = &mut told.actions[n as usize % count];
                if action.control == Control::Pipe {
                    action.control = Control::Other(77);
                }
            }
            Some(Blind::Helper) => {
                for action in &mut told.actions {
                    if let ActionKind::Ct(Ct { helper, commit: true, .. }) = &mut action.kind {
                        *helper = Some("ftp".into());
                    }
                }
            }
            None => {}
        }
        told
    }
}
