//! What the fields held at each hit of a path.
//!
//! It is wanted when a filter comes later: could that take packets of the path there ([`reach`](super::reach))? A path keeps it all
//! its life, and little of it changes from hit to hit. So only the changes are kept, one after the other, and for each hit how many
//! of them came before it.

use super::symbol::{Param, Source, Value};
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
                Source::Param(param) if value == Value::param(param, field) => Change::Param(field, param),
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
        Seen::last(&self.changes[..before], field, port)
    }

    fn last(changes: &[Change], field: Field, port: Port) -> Value {
        let change = changes.iter().rev().find(|c| c.field() == field);
        change.map_or_else(|| Value::at_first(field, port), Change::value)
    }

    /// From the next hit on a field holds this.
    pub(super) fn change(&mut self, port: Port, field: Field, now: Value) {
        if Seen::last(&self.changes, field, port) != now {
            if self.changes.is_empty() {
                self.changes.reserve(8);
            }
            self.changes.push(Change::new(field, now));
        }
    }

    /// One more hit.
    pub(super) fn hit(&mut self) {
        self.before.push(self.changes.len() as u16);
    }

    /// No hit comes after these.
    pub(super) fn end(mut self) -> Seen {
        if self.changes.capacity() - self.changes.len() > 4 {
            self.changes.shrink_to_fit();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{conntrack::Direction, merge::symbol::Part};

    #[test]
    fn each_hit_sees_what_was_there_then() {
        let port = Port(7);
        let mark = Param { connection: 0, direction: Direction::Reply, part: Part::Mark };
        let partly = Value::arrived(Field::IpTos).written(0xfc, 1);
        let wide = Value::known(1 << 100);
        let mut seen = Seen::default();
        seen.hit();
        seen.change(port, Field::IpTos, partly);
        seen.change(port, Field::CtMark, Value::param(mark, Field::CtMark));
        seen.change(port, Field::CtLabels, wide);
        seen.change(port, Field::IpTtl, Value::arrived(Field::IpTtl));
        seen.hit();
        seen.hit();
        seen.change(port, Field::IpTos, Value::arrived(Field::IpTos));
        seen.change(port, Field::CtMark, Value::known(0));
        seen.hit();
        let seen = seen.end();
        let view = |hit, field| seen.view(hit, field, port);
        assert_eq!((seen.hits(), seen.changes.len()), (4, 5));
        assert_eq!([0, 1, 2, 3].map(|hit| view(hit, Field::IpTos) == partly), [false, true, true, false]);
        assert_eq!(
            (view(0, Field::IpTos), view(3, Field::IpTos)),
            (view(0, Field::IpTos), Value::arrived(Field::IpTos))
        );
        assert_eq!([0, 1, 3].map(|hit| view(hit, Field::CtMark).constant()), [Some(0), None, Some(0)]);
        assert_eq!((view(2, Field::CtMark), view(2, Field::CtLabels)), (Value::param(mark, Field::CtMark), wide));
        assert_eq!(view(1, Field::IpTtl), Value::arrived(Field::IpTtl));
        assert_eq!(view(0, Field::Indev).constant(), Some(7));
    }
}
