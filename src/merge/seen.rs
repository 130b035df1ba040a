//! What the fields held at each hit of a path.
//!
//! It is wanted when a filter comes later: could that take packets of the path there ([`reach`](super::reach))? A path keeps it all
//! its life, and little of it changes from hit to hit. So only the changes are kept, one after the other, and for each hit how many
//! of them came before it.

use super::symbol::{Param, Value};
use crate::flower::{Field, Port};
use smallvec::SmallVec;

/// What the fields held, hit by hit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    changes: Vec<Change>,
    /// For each hit, how many changes came before it.
    before: SmallVec<[u16; 8]>,
}

/// What a field holds from some hit on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Change {
    Known(Field, u64),
    Param(Field, Param),
    Else(Field, Box<Value>),
}

impl Change {
    fn new(field: Field, value: Value) -> Change {
        match value.constant().map(u64::try_from) {
            Some(Ok(known)) => Change::Known(field, known),
            _ => match value.source {
                super::symbol::Source::Param(param) if value == Value::param(param, field) => {
                    Change::Param(field, param)
                }
                _ => Change::Else(field, Box::new(value)),
            },
        }
    }

    fn field(&self) -> Field {
        match *self {
            Change::Known(field, _) | Change::Param(field, _) | Change::Else(field, _) => field,
        }
    }

    fn value(&self) -> Value {
        match self {
            Change::Known(_, known) => Value::known((*known).into()),
            Change::Param(field, param) => Value::param(*param, *field),
            Change::Else(_, value) => **value,
        }
    }
}

impl Seen {
    /// How many hits there are.
    pub fn hits(&self) -> usize {
        self.before.len()
    }

    /// What a field held at a hit of a path whose packets come in at this port. Of hits that there are not: after the last.
    pub fn view(&self, hit: usize, field: Field, port: Port) -> Value {
        let before = self.before.get(hit).map_or(self.changes.len(), |&n| n.into());
        self.last(&self.changes[..before], field, port)
    }

    fn last(&self, changes: &[Change], field: Field, port: Port) -> Value {
        let change = changes.iter().rev().find(|c| c.field() == field);
        change.map_or_else(|| Value::at_first(field, port), Change::value)
    }

    /// One more hit, where these fields hold this, and others what they held before.
    pub(super) fn hit(&mut self, port: Port, fields: impl Iterator<Item = (Field, Value)>) {
        for (field, now) in fields {
            if self.last(&self.changes, field, port) != now {
                self.changes.push(Change::new(field, now));
            }
        }
        self.before.push(self.changes.len() as u16);
    }
}
