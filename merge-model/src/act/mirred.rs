//! `mirred` (`net/sched/act_mirred.c`): the packet, or a copy, goes out of a port or into one.

use super::{After, Control};
use crate::{
    outcome::{Terminal, Verdict},
    skb::Skb,
    walk::{At, Walk},
};
use flowmerge::flower::action::Mirred;

/// How deep one `mirred` may run inside another (`MIRRED_NEST_LIMIT`).
const NESTING: u32 = 4;

impl Walk<'_> {
    pub(super) fn mirred(&mut self, skb: &mut Skb, mirred: &Mirred, control: Control, at: At) -> After {
        if self.nesting == NESTING {
            return After::Control(Control::Shot);
        }
        self.count(at, skb);
        if !self.model.port(mirred.port).is_some_and(|port| port.up) {
            return After::Control(if mirred.mirror { control } else { Control::Shot });
        }
        // A redirect whose control is final sends the packet itself; with any other, as with a mirror, a copy.
        let final_control = matches!(control, Control::Shot | Control::Stolen | Control::Queued | Control::Trap);
        let itself = !mirred.mirror && final_control;
        let branch = if itself { at.branch } else { self.branch() };
        let mut out = skb.clone();
        if !itself || !skb.at_ingress {
            // What shares its data with another buffer is cut anew, not along its fragments.
            out.pieces = None;
        }
        out.ct = None;
        out.untracked = false;
        if mirred.ingress && !skb.at_ingress {
            out.tunnel = None;
        }
        if !out.aim(mirred.ingress) {
            self.settle(branch, Verdict::Decided(Terminal::Drop));
            return After::Taken;
        }
        out.iif = skb.device;
        out.device = mirred.port;
        self.nesting += 1;
        match mirred.ingress {
            true => self.deliver(out, branch, skb.at_ingress),
            // What becomes of it there is nothing to this filter.
            false => {
                self.send(out, branch);
            }
        }
        self.nesting -= 1;
        match itself {
            true => After::Taken,
            false => After::Control(control),
        }
    }
}

impl Skb {
    /// Moves the data to where the target wants them: the network header for ingress, the link header for egress. The kernel
    /// judges by the network header where the data are, which after some actions is neither. False if there are no such data.
    fn aim(&mut self, ingress: bool) -> bool {
        let at_network = self.data == self.network;
        if at_network == ingress {
            return true;
        }
        let mac_len = if self.at_ingress { self.mac_len } else { self.network };
        let data = match ingress {
            true => Some(self.data + mac_len).filter(|&data| data <= self.bytes.len()),
            false => self.data.checked_sub(mac_len),
        };
        self.data = data.unwrap_or(self.data);
        data.is_some()
    }
}
