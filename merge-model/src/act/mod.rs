//! What actions do to a packet. Each file is one of the kernel's `net/sched/act_*.c`.

mod csum;
mod ct;
pub(crate) mod extension;
mod mirred;
mod mpls;
mod nat;
mod pedit;
mod police;
mod show;
mod skbmod;
mod stateless;

pub(crate) use ct::is_fragment;
pub use show::shown;

pub(crate) use flowmerge::flower::Control;

use crate::{
    skb::Skb,
    walk::{At, Walk},
};
use flowmerge::flower::{Action, ActionKind, action::TunnelKey};

/// How TC goes on after an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// As the control says.
    Control(Control),
    /// The action has the packet now, and has seen to its verdict.
    Taken,
    /// It cannot be known what the action does, or how it goes on.
    Unknown(String),
}

impl Walk<'_> {
    /// Runs an action once.
    pub(crate) fn act(&mut self, skb: &mut Skb, action: &Action, at: At) -> After {
        if let ActionKind::Mirred(mirred) = &action.kind {
            return self.mirred(skb, mirred, action.control, at);
        }
        self.count(at, skb);
        let lenient = self.model.lenient;
        let done = match &action.kind {
            ActionKind::Gact { random } => match random {
                Some(random) if random.kind != 0 => return After::Unknown("its gact is random".into()),
                _ => true,
            },
            ActionKind::Ct(ct) => return self.ct(skb, ct, action.control, at),
            ActionKind::Pedit(pedit) => {
                // A key that fails ends the rewriting, not the packet.
                pedit::run(skb, pedit, lenient);
                true
            }
            // Of `drop`, csum does not even try.
            ActionKind::Csum(flags) => action.control == Control::Shot || csum::run(skb, *flags) || lenient,
            ActionKind::Vlan(vlan) => skb.vlan(vlan).is_ok(),
            ActionKind::Skbedit(skbedit) => !skbedit.inherit_dsfield || skb.has_ip_header(),
            ActionKind::Mirred(_) => true,
            // Nor do these.
            ActionKind::Skbmod(skbmod) => action.control == Control::Shot || skbmod::run(skb, skbmod, lenient),
            ActionKind::Nat(nat) => action.control == Control::Shot || stateless::run(skb, nat),
            ActionKind::Mpls(mpls) => skb.mpls(mpls).is_ok(),
            ActionKind::TunnelKey(key) => {
                skb.tunnel = match key {
                    TunnelKey::Set(tunnel) => Some((**tunnel).clone()),
                    TunnelKey::Unset => None,
                };
                true
            }
            ActionKind::Police(police) => return self.police(skb, police, action),
            // What it shows to user space is nothing to the packet.
            ActionKind::Sample(_) => true,
            ActionKind::Other(name) => return After::Unknown(format!("the action {name} is not modelled")),
        };
        After::Control(if done { action.control } else { Control::Shot })
    }
}

impl Skb {
    /// Whether there is a whole IP header, where the protocol says that there is one (`skbedit inheritdsfield`).
    fn has_ip_header(&self) -> bool {
        let header = match self.inner_protocol() {
            0x0800 => 20,
            0x86dd => 40,
            _ => return true,
        };
        self.network + header <= self.bytes.len()
    }
}
