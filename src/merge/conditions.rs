//! Conditions as a path keeps them: a path may have one for each bit field that its filters compare behind a `ct`, and there may be as
//! many paths as merged filters.
//!
//! Most say of a part of at most 32 bits what some bits of it are. Such a one takes 16 bytes; any other stands elsewhere.

use super::{
    symbol::Param,
    template::{Condition, Is},
};
use crate::{
    conntrack::Connection,
    flower::{Field, Key},
};

/// All that a path asks of its connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Conditions(Box<[Kept]>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kept {
    /// These bits of the parameter have this value.
    Bits(Param, u32, u32),
    Other(Box<Condition>),
}

impl Kept {
    fn new(condition: Condition) -> Kept {
        if let Condition::Holds(Is::Bits { param, mask, value }) = condition
            && let (Ok(mask), Ok(value)) = (mask.try_into(), value.try_into())
        {
            return Kept::Bits(param, mask, value);
        }
        Kept::Other(Box::new(condition))
    }

    #[inline]
    fn holds(&self, connections: &[&Connection]) -> bool {
        match self {
            Kept::Bits(param, mask, value) => param.value(connections) as u32 & mask == *value,
            Kept::Other(condition) => condition.holds(connections),
        }
    }
}

impl Conditions {
    /// These.
    pub fn new(conditions: Vec<Condition>) -> Conditions {
        Conditions(conditions.into_iter().map(Kept::new).collect())
    }

    /// Whether all hold for these connections.
    pub fn hold(&self, connections: &[&Connection]) -> bool {
        self.0.iter().all(|kept| kept.holds(connections))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Condition> {
        self.0.iter().map(|kept| match kept {
            &Kept::Bits(param, mask, value) => {
                Condition::Holds(Is::Bits { param, mask: mask.into(), value: value.into() })
            }
            Kept::Other(condition) => (**condition).clone(),
        })
    }

    /// One more.
    pub fn push(&mut self, condition: Condition) {
        let mut all = std::mem::take(&mut self.0).into_vec();
        all.push(Kept::new(condition));
        self.0 = all.into();
    }

    /// The same where these, by number, speak of bits that a field has in one packet, and are to speak of another packet.
    pub(super) fn recast(&self, which: &[(u16, Field)], from: &Key, to: &Key) -> Conditions {
        let mut all = self.clone();
        for &(i, field) in which {
            let differs = to.get(field) ^ from.get(field);
            match all.0.get_mut(usize::from(i)) {
                Some(Kept::Bits(_, mask, value)) => *value ^= differs as u32 & *mask,
                Some(Kept::Other(condition)) => {
                    if let Condition::Holds(Is::Bits { mask, value, .. }) = &mut **condition {
                        *value ^= differs & *mask;
                    }
                }
                None => {}
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conntrack::{Direction, Tuple, proto},
        merge::symbol::Part,
    };

    #[test]
    fn what_is_kept_is_what_was_asked() {
        assert_eq!(size_of::<Kept>(), 16);
        let is = |part, mask, value| {
            Condition::Holds(Is::Bits {
                param: Param { connection: 0, direction: Direction::Original, part },
                mask,
                value,
            })
        };
        let tuple =
            Tuple { src: [1; 16].into(), dst: [2; 16].into(), proto: proto::UDP, src_port: 0x1234, dst_port: 7 };
        let connection = Connection { labels: 5 << 100, mark: !0, ..Connection::new(0, tuple, tuple.inverse()) };
        let all = [
            (is(Part::SrcPort, 0xff, 0x34), true),
            (is(Part::SrcPort, 0xff, 0x35), false),
            (is(Part::Mark, 0xffff_ffff, 0xffff_ffff), true),
            (is(Part::Labels, 7 << 100, 5 << 100), true),
            (is(Part::Labels, 7 << 100, 4 << 100), false),
            // The low bits alone would say yes.
            (is(Part::Src, 0xff << 32 | 1, 1), false),
            (is(Part::Src, 1, 1 << 32 | 1), false),
            (Condition::NotAll(Vec::new()), false),
        ];
        for (condition, holds) in &all {
            let mut kept = Conditions::default();
            kept.push(condition.clone());
            assert_eq!(kept.iter().collect::<Vec<_>>(), std::slice::from_ref(condition));
            assert_eq!(kept.hold(&[&connection]), *holds, "{condition:?}");
        }
        let conditions: Vec<Condition> = all.into_iter().map(|(condition, _)| condition).collect();
        assert_eq!(Conditions::new(conditions.clone()).iter().collect::<Vec<_>>(), conditions);
    }

    #[test]
    fn those_of_a_packet_become_those_of_another() {
        let is = |part, mask, value| {
            Condition::Holds(Is::Bits {
                param: Param { connection: 0, direction: Direction::Original, part },
                mask,
                value,
            })
        };
        let packet = |port, src| Key::ZERO.with(Field::SrcPort, port).with(Field::Ipv6Src, src);
        let all = |port, src| {
            Conditions::new(vec![is(Part::SrcPort, 0xf, port), is(Part::Src, 3 << 90, src), is(Part::SrcPort, 0xf, 9)])
        };
        let which = [(0, Field::SrcPort), (1, Field::Ipv6Src)];
        let recast = all(3, 1 << 90).recast(&which, &packet(0x123, 1 << 90), &packet(0xfe, 2 << 90));
        assert_eq!(recast, all(0xe, 2 << 90));
    }
}
