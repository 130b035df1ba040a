//! The fold: runs a walk's filters symbolically, once, and leaves a path.

mod ct;

pub use ct::changes;

use super::{
    asked::Asked,
    cut,
    mold::{self, Family, Mold},
    path::{Course, Parent, Path},
    refusal::{Otherwise, Refusal, Scope},
    seen::Seen,
    shadow::{Order, Shadow},
    state::{State, Want},
    structure,
    symbol::Value,
    template::Template,
};
use crate::{
    conntrack::{Connection, Direction},
    flower::{
        Action, ActionKind, Control, Cookie, Field, Filter, FilterId, Hook, Key, Kind, Masks, Match, Port,
        action::{Mirred, Police},
    },
};
use smallvec::SmallVec;
use std::sync::Arc;

/// Most actions that TC lets a filter have (`TCA_ACT_MAX_PRIO`).
const MAX_ACTIONS: usize = 32;

/// How many redirects to ingress one packet may take; the `mirred` behind them drops it (`MIRRED_NEST_LIMIT`).
const MAX_NESTED: usize = 4;

/// What the fold has to know of ports.
pub trait Ports {
    /// Whether the port is down, or without carrier.
    fn is_down(&self, port: Port) -> bool;
    /// Whether filters hang at the port's egress hook.
    fn has_egress_filters(&self, port: Port) -> bool;
    /// Whether filters hang at the port's ingress hook.
    fn has_ingress_filters(&self, port: Port) -> bool;
    /// Whether a shared block's filters hang at the port's ingress hook.
    fn is_bound(&self, port: Port, block: u32) -> bool;
}

/// A connection that a `ct` action found.
#[derive(Clone, Copy, Debug)]
pub struct Met<'a> {
    /// Which of the walk's connections.
    pub index: u8,
    /// The packet's direction in it.
    pub direction: Direction,
    /// The connection.
    pub connection: &'a Connection,
}

/// One hit, with all that merging has to know of it.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// The driver's name for the filter.
    pub cookie: Cookie,
    /// The filter hit.
    pub filter: &'a Filter,
    /// The filters that TC tries before it, since the hit before.
    pub in_front: Vec<(&'a Filter, Order)>,
    /// What each `ct` action that ran found.
    pub met: Vec<Option<Met<'a>>>,
}

/// A walk with all that merging has to know of it.
#[derive(Clone, Debug)]
pub struct Scene<'a> {
    /// Where the packet came in.
    pub port: Port,
    /// The packet as it arrived.
    pub key: &'a Key,
    /// The hits.
    pub steps: Vec<Step<'a>>,
    /// The connections, by `Met::index`.
    pub connections: Vec<&'a Connection>,
    /// Whether the outer tag must be told: hardware that counts whole frames has counts that are converted by it.
    pub tell_tag: bool,
    /// How the table compares fields.
    pub masks: &'a Masks,
}

/// Actions that a packet runs, by position.
pub type Ran = SmallVec<[usize; 8]>;

/// The actions that a packet runs, and the control that ends them. `None` where they would not end, or where
/// that depends on more than the packet.
pub fn sequence(actions: &[Action]) -> Option<(Ran, Control)> {
    let mut ran = Ran::new();
    let mut at = 0;
    while let Some(action) = actions.get(at) {
        if ran.len() >= MAX_ACTIONS || matches!(action.kind, ActionKind::Gact { random: Some(_) }) {
            return None;
        }
        ran.push(at);
        at = match action.passed_on() {
            Control::Pipe => at + 1,
            Control::Jump(skip) => skip as usize,
            Control::Repeat | Control::Other(_) => return None,
            end => return Some((ran, end)),
        };
    }
    // A list that runs out passes the packet.
    Some((ran, Control::Ok))
}

/// The action that makes it impossible to say which actions a packet runs: one that chooses, or goes back; else one that jumps.
fn unforeseen(actions: &[Action]) -> &str {
    let goes_back = |a: &&Action| {
        matches!(a.kind, ActionKind::Gact { random: Some(_) })
            || matches!(a.passed_on(), Control::Repeat | Control::Other(_))
    };
    let jumps = |a: &&Action| matches!(a.passed_on(), Control::Jump(_));
    let action = actions.iter().find(goes_back).or_else(|| actions.iter().find(jumps));
    action.or(actions.last()).map_or("none", Action::name)
}

/// A walk that cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// Which packets of the way are refused for the same reason, as long as its filters and their shadows stay: what was asked of
    /// this one until then. `None`: nothing follows for others.
    pub others: Option<Template>,
    /// The ports that its filters send to, or into, as for [`Course::targets`](super::path::Course::targets).
    pub targets: Vec<Port>,
}

impl From<Box<Refused>> for Refusal {
    fn from(refused: Box<Refused>) -> Refusal {
        refused.refusal
    }
}

/// Folds a walk into a path that describes it and every walk like it.
///
/// # Errors
/// Why it cannot be merged, and which other packets of its way cannot for the same reason.
pub fn fold(scene: &Scene, ports: &dyn Ports) -> Result<Path, Box<Refused>> {
    fold_and(scene, ports, |_, _, _| ()).map(|(path, ())| path)
}

/// The same, with a mold for other walks if there can be one: of filters of these families, hit by hit.
///
/// # Errors
/// As those of [`fold`].
pub fn fold_and_mold(
    scene: &Scene,
    families: &[Family],
    ports: &dyn Ports,
) -> Result<(Path, Option<Mold>), Box<Refused>> {
    fold_and(scene, ports, |fold, path, asked| {
        let left = mold::Left { state: &fold.state, asked: asked?, shadows: &fold.shadows };
        Mold::new(scene, families, path, &left)
    })
}

fn fold_and<T>(
    scene: &Scene,
    ports: &dyn Ports,
    and: impl FnOnce(&Fold, &Path, Option<&Match>) -> T,
) -> Result<(Path, T), Box<Refused>> {
    let mut fold = Fold::new(scene, ports);
    match fold.walk(scene) {
        Ok((end, asked)) => {
            let path = Path {
                port: scene.port,
                template: fold.state.template.template(),
                parents: fold.parents.as_slice().into(),
                course: Arc::new(Course {
                    program: std::mem::take(&mut fold.state.program).finish(end),
                    seen: std::mem::take(&mut fold.seen).end(),
                    targets: std::mem::take(&mut fold.targets),
                }),
            };
            let more = and(&fold, &path, asked.as_ref());
            Ok((path, more))
        }
        Err(refusal) => {
            let others = fold.others(&refusal);
            Err(Box::new(Refused { refusal, others, targets: fold.targets.into_vec() }))
        }
    }
}

/// Where classification goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    chain: u32,
    /// At whose ingress hook.
    port: Port,
}

/// The `ct` state that a packet carries.
#[derive(Clone, Copy)]
struct Current {
    zone: u16,
    index: u8,
    direction: Direction,
    /// What the tuple's fields held when the connection was found.
    pinned: [Value; 4],
}

struct Fold<'a> {
    /// Where the packet came in first.
    arrived: Port,
    state: State<'a>,
    ports: &'a dyn Ports,
    current: Option<Current>,
    shadows: Vec<Shadow>,
    parents: SmallVec<[Parent; 8]>,
    seen: Seen,
    targets: SmallVec<[Port; 2]>,
    /// `None` after a terminal.
    at: Option<Place>,
    /// Redirects to ingress so far.
    entered: usize,
    /// By how many bytes the packet was longer at the last arrival than at the first.
    longer: i64,
    /// Whether a policer was passed.
    policed: bool,
    ended: Option<Control>,
}

impl<'a> Fold<'a> {
    fn new(scene: &Scene<'a>, ports: &'a dyn Ports) -> Fold<'a> {
        Fold {
            arrived: scene.port,
            state: State::new(scene.port, scene.key),
            ports,
            current: None,
            shadows: Vec::new(),
            parents: SmallVec::new(),
            seen: Seen::default(),
            targets: SmallVec::new(),
            at: Some(Place { chain: 0, port: scene.port }),
            entered: 0,
            longer: 0,
            policed: false,
            ended: None,
        }
    }

    /// All hits, then what keeps shadows out. Leaves the template as the path has it, and gives the control that ends the walk, and what
    /// was asked for before that was dropped which follows; not if the table made it more.
    fn walk(&mut self, scene: &Scene<'a>) -> Result<(Control, Option<Match>), Refusal> {
        let (Some(first), Some(last)) = (scene.steps.first(), scene.steps.last()) else {
            return Err(Refusal::NoHits);
        };
        if scene.tell_tag {
            self.state.tagged(first.filter.id)?;
        }
        for step in &scene.steps {
            self.hit(step)?;
        }
        let end = self.ended.ok_or(Refusal::NoTerminal { filter: last.filter.id })?;
        // Before the cut is chosen by the packet: a packet that software must go on seeing says nothing about the others.
        if let Some(what) = self.otherwise(scene) {
            return Err(self.off_its_own_way(scene, what));
        }
        self.shadows.append(&mut self.state.shadows);
        for &(filter, field) in &self.state.untagged {
            self.shadows.extend(Shadow::tags(filter, field));
        }
        let template = &mut self.state.template;
        cut::keep_out(&self.shadows, template, scene.key, &scene.connections, scene.masks)?;
        // The cut may leave a range that its bits tell, or bits that the range does.
        template.settle_ranges();
        // What parameters tell wants its prerequisite, too.
        let prerequisites = template.terms.iter().filter_map(|term| term.field.row().prerequisite);
        let mut kept = self.state.excluded.clone();
        kept.extend(prerequisites.map(|field| (field, field.ones())));
        let asked = template.known;
        structure::spare(&mut template.known, &kept);
        Ok((end, (!template.complete(scene.masks, scene.key)).then_some(asked)))
    }

    /// What about the packet or its connections is not what has been asked for so far.
    fn otherwise(&mut self, scene: &Scene<'a>) -> Option<Otherwise> {
        // What cannot be settled this packet does not have.
        self.state.settle_asks();
        self.state.template.settle_ranges();
        if self.state.template.fits(scene.key, &scene.connections) {
            return None;
        }
        let Some(filled) = self.state.template.fill(&scene.connections) else {
            return Some(Otherwise::Connection);
        };
        let differs = |f: Field| (filled.key.get(f) ^ scene.key.get(f)) & filled.mask.get(f) != 0;
        let field = Field::ALL.iter().copied().find(|&f| differs(f));
        let range = filled.ranges().find(|(f, range)| !range.contains(scene.key.get(*f) as u16));
        field.or(range.map(|r| r.0)).map(Otherwise::Field)
    }

    /// The packet does not match what its own walk asks: since which filter.
    fn off_its_own_way(&self, scene: &Scene<'a>, what: Otherwise) -> Refusal {
        let mut again = Fold::new(scene, self.ports);
        for step in &scene.steps {
            // The walk came by here before.
            let _ = again.hit(step);
            if let Some(what) = again.otherwise(scene) {
                return Refusal::Changed { filter: step.filter.id, what };
            }
        }
        // Each step alone is as it should be: what is not is found out by all of them.
        scene.steps.last().map_or(Refusal::NoHits, |last| Refusal::Changed { filter: last.filter.id, what })
    }

    /// Which packets of the same way are refused for the same reason.
    fn others(&mut self, refusal: &Refusal) -> Option<Template> {
        match refusal.scope() {
            Scope::Way => return Some(Template::default()),
            Scope::Moment => return None,
            Scope::Packet => {}
        }
        let arrived = self.state.arrived();
        if let Refusal::Excluded { field, .. } = *refusal {
            // The first bit that keeps this one in software keeps others there.
            let asked = &self.state.template.known;
            let bits = (asked.key.get(field) ^ arrived.get(field)) & asked.mask.get(field);
            if bits != 0 {
                let bit = 1 << bits.trailing_zeros();
                let mut template = Asked::default();
                template.require(field, bit, arrived.get(field) & bit);
                return Some(template.template());
            }
        }
        for (_, field) in std::mem::take(&mut self.state.untagged) {
            self.state.template.require(field, field.ones(), arrived.get(field));
        }
        self.state.settle_asks();
        Some(std::mem::take(&mut self.state.template).template())
    }

    fn hit(&mut self, step: &Step<'a>) -> Result<(), Refusal> {
        let Filter { id: filter, matches, actions, .. } = step.filter;
        let filter = *filter;
        let at = self.at.take().ok_or(Refusal::Broken { filter })?;
        let elsewhere = match filter.hook {
            Hook::Ingress(port) => port != at.port,
            Hook::Block(block) => !self.ports.is_bound(at.port, block),
            Hook::Egress(_) => true,
        };
        if elsewhere || at.chain != filter.chain {
            return Err(Refusal::Broken { filter });
        }
        if let Kind::Other(kind) = &step.filter.kind {
            return Err(Refusal::Undecoded { filter, what: kind.clone() });
        }
        if let Some(what) = step.filter.undecoded.first() {
            return Err(Refusal::Undecoded { filter, what: what.clone() });
        }
        self.state.see(&mut self.seen);
        for (other, order) in &step.in_front {
            self.shadows.extend(Shadow::new(&self.state, filter, other, *order));
        }
        for (field, value, mask) in matches.terms() {
            self.state.require(filter, field, mask, Want::Known(value))?;
        }
        for (field, range) in matches.ranges() {
            self.state.require_range(filter, field, range)?;
        }
        self.act(step, filter, at.port, actions)
    }

    fn act(&mut self, step: &Step<'a>, filter: FilterId, port: Port, actions: &'a [Action]) -> Result<(), Refusal> {
        let Some((ran, mut end)) = sequence(actions) else {
            let why = "where it goes on does not follow from the packet alone";
            return Err(Refusal::action(filter, unforeseen(actions), why));
        };
        let mut mask = 0u32;
        let mut met = step.met.iter();
        let mut into = None;
        let mut before_policer = if self.policed { Some(0) } else { None };
        for &i in &ran {
            mask |= 1 << i.min(31);
            let action = &actions[i];
            match &action.kind {
                ActionKind::Gact { .. } => {}
                ActionKind::Skbedit(edit) => self.state.edit(filter, *edit)?,
                ActionKind::Vlan(vlan) => self.state.vlan(filter, *vlan)?,
                ActionKind::Pedit(pedit) => self.state.pedit(filter, pedit)?,
                ActionKind::Csum(flags) => self.state.checksum(filter, *flags)?,
                ActionKind::Ct(ct) => {
                    let policed = before_policer.is_some_and(|before| before != 0);
                    let met = met.next().copied().ok_or_else(|| match policed {
                        true => Refusal::unfit(filter, action.name(), "a policer in front of it dropped the packet"),
                        false => Refusal::Broken { filter },
                    })?;
                    self.ct(filter, ct, met)?;
                }
                ActionKind::Mirred(mirred) => {
                    if self.entered == MAX_NESTED {
                        // It drops the packet before it counts it.
                        mask &= !(1 << i.min(31));
                        end = Control::Shot;
                        break;
                    }
                    if !self.targets.contains(&mirred.port) {
                        self.targets.push(mirred.port);
                    }
                    // A redirect whose control is final sends the packet itself, and nothing is left of it.
                    let last =
                        matches!(action.control, Control::Shot | Control::Stolen | Control::Queued | Control::Trap);
                    let itself = last && !mirred.mirror;
                    if self.ports.is_down(mirred.port) {
                        // Nothing is sent, and a redirect drops whatever its control.
                        if !mirred.mirror {
                            end = Control::Shot;
                            break;
                        }
                    } else if itself && mirred.ingress && self.ports.has_ingress_filters(mirred.port) {
                        into = Some(mirred.port);
                    } else {
                        self.send(filter, *mirred)?;
                        if itself {
                            end = Control::Shot;
                        }
                    }
                }
                ActionKind::Sample(_) => {
                    let why = "which packets it shows is a matter of chance";
                    return Err(Refusal::action(filter, action.name(), why));
                }
                ActionKind::Skbmod(skbmod) => self.state.skbmod(filter, *skbmod)?,
                ActionKind::Mpls(mpls) => self.state.mpls(filter, *mpls)?,
                ActionKind::TunnelKey(key) => self.state.tunnel(key),
                ActionKind::Nat(nat) => self.state.nat(filter, *nat)?,
                ActionKind::Police(police) => {
                    self.police(filter, police, action)?;
                    before_policer = Some(mask);
                }
                ActionKind::Other(_) => {
                    let why = "flowmerge does not know this kind";
                    return Err(Refusal::action(filter, action.name(), why));
                }
            }
        }
        let behind = before_policer.map_or(0, |before| mask & !before);
        self.parents.push(Parent { cookie: step.cookie, ran: mask, behind, longer: self.longer });
        if let Some(port) = into {
            self.state.must_have_ethernet(filter, "mirred")?;
            self.longer = self.state.longer(filter)?;
            self.enter(port);
            return Ok(());
        }
        match end {
            Control::Goto(chain) => self.at = Some(Place { chain, port }),
            Control::Continue => {
                let chain = filter.chain;
                self.at = Some(Place { chain, port });
            }
            Control::Reclassify => self.at = Some(Place { chain: 0, port }),
            Control::Shot | Control::Stolen | Control::Queued => self.ended = Some(Control::Shot),
            Control::Trap => self.ended = Some(Control::Trap),
            _ if port != self.arrived => {
                let why = "the stack would get the packet from another port than the one it came in at";
                return Err(Refusal::action(filter, "pass", why));
            }
            _ => self.ended = Some(Control::Ok),
        }
        Ok(())
    }

    /// What exceeds ends here. So what is counted behind it is less than what is counted before, and of two policers nobody could say
    /// which dropped how much.
    fn police(&mut self, filter: FilterId, police: &Police, action: &Action) -> Result<(), Refusal> {
        let why = match (action.control, police.conform) {
            _ if !police.shared => "it is this filter's own, and each merged filter would have one",
            _ if self.policed => "it is the second policer of the way",
            (Control::Shot, Control::Pipe) => {
                self.policed = true;
                self.state.program.police(*police, action.index);
                return Ok(());
            }
            _ => "it does not drop what exceeds, or does not pass on what conforms",
        };
        Err(Refusal::action(filter, action.name(), why))
    }

    /// The packet goes on in another port's ingress hook, without its conntrack state.
    fn enter(&mut self, port: Port) {
        for &field in Field::ALL.iter().filter(|f| f.is_conntrack()) {
            self.state.set(field, Value::known(0));
        }
        self.state.set(Field::Indev, Value::known(port.0 as u128));
        self.current = None;
        self.entered += 1;
        self.at = Some(Place { chain: 0, port });
    }

    fn send(&mut self, filter: FilterId, mirred: Mirred) -> Result<(), Refusal> {
        let port = mirred.port;
        if !mirred.ingress && self.ports.has_egress_filters(port) {
            return Err(Refusal::EgressFilters { filter, port });
        }
        if mirred.ingress && self.ports.has_ingress_filters(port) {
            return Err(Refusal::Forks { filter, port });
        }
        self.state.program.send(port, mirred.ingress);
        Ok(())
    }
}
