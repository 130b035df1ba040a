//! The traffic of a case, made up as it goes: new packets, answers of hosts to what arrives there, the same again; and in some
//! cases filters and cables that come and go under it.

use crate::{
    case::{Case, Step, only_sends_on},
    generate::{
        actions,
        dice::Dice,
        hosts, packets,
        pipeline::{Planner, may_stand_at_egress},
        universe::Universe,
    },
};
use flowmerge::flower::{Filter, Hook, Port};

/// How many frames of a direction are kept to be sent again.
const KEPT: usize = 64;

/// A source of steps.
pub struct Traffic {
    dice: Dice,
    universe: Universe,
    /// Frames still to be sent.
    left: usize,
    /// Of a hundred rounds, in so many a filter or cable changes.
    unrest: usize,
    /// Of a hundred frames that arrive, so many are answered.
    talk: usize,
    /// Of a hundred further packets, so many carry on a conversation.
    chat: usize,
    sent: Vec<(Port, Vec<u8>)>,
    /// Answers after which both sides have spoken, and go on.
    spoken: Vec<(Port, Vec<u8>)>,
    /// How many frames that did not come in may be made up for.
    spare: usize,
    /// Whether there are fragments, which what the case began with decides.
    may_be_cut: Option<bool>,
}

impl Traffic {
    /// Traffic of so many frames.
    pub fn new(mut dice: Dice, universe: Universe, frames: usize) -> Traffic {
        let unrest = *dice.pick(&[0, 0, 0, 15]);
        let talk = *dice.pick(&[0, 60, 85, 95]);
        let chat = *dice.pick(&[0, 30, 60]);
        let (sent, spoken) = (Vec::new(), Vec::new());
        Traffic { dice, universe, left: frames, unrest, talk, chat, sent, spoken, spare: 4 * frames, may_be_cut: None }
    }

    /// What happens next, after these frames came out of ports. `None` when all is sent.
    pub fn next(&mut self, case: &Case, arrived: &[(Port, Vec<u8>)]) -> Option<Vec<Step>> {
        if self.left == 0 {
            return None;
        }
        let may_be_cut = *self.may_be_cut.get_or_insert_with(|| case.may_be_cut());
        let mut round: Vec<Step> = Vec::new();
        for (port, frame) in arrived {
            if self.dice.percent(self.talk)
                && let Some(spec) = hosts::answer(&mut self.dice, *port, frame)
            {
                let frames = packets::frames(&mut self.dice, spec, may_be_cut);
                if let [frame] = &frames[..]
                    && hosts::goes_on(frame)
                {
                    keep(&mut self.spoken, &mut self.dice, (*port, frame.clone()));
                }
                round.extend(frames.into_iter().map(|frame| Step::Frame(*port, frame)));
            }
        }
        // A storm of copies is not answered whole.
        round.truncate(24);
        for _ in 0..self.dice.between(usize::from(round.is_empty()), 3) {
            let (port, frames) = self.more(case, may_be_cut);
            round.extend(frames.into_iter().map(|frame| Step::Frame(port, frame)));
        }
        for step in &round {
            if let Step::Frame(port, frame) = step {
                keep(&mut self.sent, &mut self.dice, (*port, frame.clone()));
            }
        }
        round.truncate(self.left);
        self.left -= round.len();
        if self.dice.percent(self.unrest) {
            round.extend(self.change(case, may_be_cut));
        }
        Some(round)
    }

    /// A frame did not come in: another one shall.
    pub fn lost(&mut self) {
        if self.spare > 0 {
            self.spare -= 1;
            self.left += 1;
        }
    }

    fn more(&mut self, case: &Case, may_be_cut: bool) -> (Port, Vec<Vec<u8>>) {
        let dice = &mut self.dice;
        let chats = !self.spoken.is_empty() && dice.percent(self.chat);
        if chats || !self.sent.is_empty() && dice.percent(45) {
            let (port, frame) = dice.pick(if chats { &self.spoken } else { &self.sent }).clone();
            if dice.percent(20) {
                return (port, vec![frame]);
            }
            if let Some(spec) = hosts::again(dice, port, &frame) {
                return (port, packets::frames(dice, spec, may_be_cut));
            }
        }
        packets::fresh(dice, &self.universe, case, may_be_cut)
    }

    fn change(&mut self, case: &Case, may_be_cut: bool) -> Option<Step> {
        let dice = &mut self.dice;
        if dice.percent(15) {
            return Some(Step::Link(actions::any_port(dice), dice.percent(60)));
        }
        let may_come = |filter: &Filter| !may_be_cut || only_sends_on(filter);
        let old = (!case.filters.is_empty()).then(|| dice.pick(&case.filters).clone());
        match (dice.below(3), old) {
            (0, Some(old)) => Some(Step::Remove(old.id)),
            (1, Some(old)) => {
                // Of packets of another protocol, a rewrite could change the length of the IP header.
                let other = Planner::later(case, dice, &self.universe);
                let mut actions = other.filter(|other| other.id.protocol == old.id.protocol)?.actions;
                if matches!(old.id.hook, Hook::Egress(_)) {
                    actions.retain(may_stand_at_egress);
                }
                Some(Filter { actions, ..old }).filter(may_come).map(Step::Replace)
            }
            _ => Planner::later(case, dice, &self.universe).filter(may_come).map(Step::Add),
        }
    }
}

/// Keeps a frame to be sent again, in the place of another if there are many.
fn keep(kept: &mut Vec<(Port, Vec<u8>)>, dice: &mut Dice, frame: (Port, Vec<u8>)) {
    match kept.len() < KEPT {
        true => kept.push(frame),
        false => kept[dice.below(KEPT)] = frame,
    }
}

/// Brings a case up to date with a step that the kernel took.
pub fn follow(case: &mut Case, step: &Step) {
    match step {
        Step::Add(filter) => case.filters.push(filter.clone()),
        Step::Replace(filter) => {
            if let Some(old) = case.filters.iter_mut().find(|old| old.id == filter.id) {
                *old = filter.clone();
            }
        }
        Step::Remove(id) => case.filters.retain(|filter| filter.id != *id),
        Step::Frame(..) | Step::Link(..) => {}
    }
}

/// A seed's pipeline and its traffic.
pub fn of_seed(seed: u64, frames: usize) -> (Case, Traffic) {
    let mut dice = Dice::new(seed);
    let universe = Universe::new(&mut dice);
    let mut planning = dice.split();
    let case = Planner::new(&mut planning, &universe).plan();
    (case, Traffic::new(dice, universe, frames))
}
