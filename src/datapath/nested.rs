//! The walks of one processor that lie inside each other: a packet that TC sends again before it is through with the first.

use super::Became;
use crate::{
    flower::{Key, Port},
    walk::Recorded,
};

/// A bounded stack. What is begun beyond its bound is counted through, so that ends go with the right beginnings.
#[derive(Debug)]
pub(super) struct Nested {
    walks: Box<[Recorded]>,
    depth: usize,
}

impl Nested {
    pub(super) fn new(limit: usize) -> Nested {
        Nested { walks: vec![Recorded::default(); limit].into(), depth: 0 }
    }

    #[inline]
    pub(super) fn begin(&mut self, port: Port, key: &Key) {
        if let Some(walk) = self.walks.get_mut(self.depth) {
            walk.begin(port, key);
        }
        self.depth = self.depth.saturating_add(1);
    }

    #[inline]
    pub(super) fn innermost(&mut self) -> Option<&mut Recorded> {
        self.walks.get_mut(self.depth.checked_sub(1)?)
    }

    /// Leaves the innermost walk.
    #[inline]
    pub(super) fn leave(&mut self) -> Result<&Recorded, Became> {
        self.depth = self.depth.checked_sub(1).ok_or(Became::Unknown)?;
        self.walks.get(self.depth).ok_or(Became::TooDeep)
    }
}
