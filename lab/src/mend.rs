//! What came in, as it was sent.
//!
//! A packet socket gets a clone of a frame, whose bytes it shares with the packet that goes on; conntrack's reassembly works on
//! these bytes in place (`nf_ct_frag6_gather`, `inet_frag_reasm_prepare`), so that a recorded fragment shows what became of it
//! before anybody read it. What was sent is known here, so the record is mended: each frame that came in at a port is the
//! next one that was sent there. That is so where no filter redirects to a port's ingress (`Case::may_be_cut`).

use flowmerge::{
    flower::{Field, Port},
    packet::dissect::{ETHERNET, VLAN, arrived, is_vlan},
};
use std::collections::{HashMap, VecDeque};

const ENHANCED_PACKET: u32 = 6;
const INTERFACE: u32 = 1;
/// Block type, block length, interface, time in two halves, captured and original length.
const HEADER: usize = 28;

/// Puts the frames that were sent into ports in the place of what was recorded of them. `name` tells the ports' names.
pub fn mend(trace: &mut [u8], sent: impl IntoIterator<Item = (Port, Vec<u8>)>, name: &dyn Fn(Port) -> String) {
    let mut queues: HashMap<String, VecDeque<Vec<u8>>> = HashMap::new();
    for (port, frame) in sent.into_iter().filter(|(_, frame)| arrives(frame)) {
        queues.entry(name(port)).or_default().push_back(frame);
    }
    let mut interfaces: Vec<String> = Vec::new();
    let mut at = 0;
    while let (Some(kind), Some(length)) = (number(trace, at), number(trace, at + 4)) {
        let end = at + length.max(12) as usize;
        let Some(block) = trace.get_mut(at..end) else { break };
        match kind {
            INTERFACE => interfaces.push(name_of(block)),
            ENHANCED_PACKET => {
                let queue = number(block, 8).and_then(|i| queues.get_mut(interfaces.get(i as usize)?));
                if let Some(queue) = queue {
                    one(block, queue);
                }
            }
            _ => {}
        }
        at = end;
    }
}

/// Whether anybody hears of a frame: one that ends in its outer tag is dropped before.
pub fn arrives(frame: &[u8]) -> bool {
    let is_tagged = frame.get(12..14).is_some_and(|kind| is_vlan(u16::from_be_bytes([kind[0], kind[1]])));
    !is_tagged || frame.len() >= ETHERNET + VLAN + 2
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

/// An interface block's name: its option 2.
fn name_of(block: &[u8]) -> String {
    let name = options(block, 16).find(|(code, _)| *code == 2).map(|(_, value)| value);
    String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
}

fn options(block: &[u8], mut at: usize) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let word = number(block, at)?;
        let (code, length) = (word as u16, (word >> 16) as usize);
        let value = block.get(at + 4..at + 4 + length)?;
        at += 4 + length.next_multiple_of(4);
        (code != 0).then_some((code, value))
    })
}

fn one(block: &mut [u8], queue: &mut VecDeque<Vec<u8>>) {
    let Some(length) = number(block, 20).map(|l| l as usize) else { return };
    let inbound = options(block, HEADER + length.next_multiple_of(4))
        .any(|(code, value)| code == 2 && value.first().is_some_and(|flags| flags & 3 == 1));
    let Some(frame) = block.get_mut(HEADER..HEADER + length).filter(|_| inbound) else { return };
    let is_it = |sent: &Vec<u8>| sent.len() == length && sent[..12] == frame[..12] && may_be_fragment(sent);
    if queue.front().is_some_and(|sent| *sent == *frame || is_it(sent)) {
        queue.pop_front().inspect(|sent| frame.copy_from_slice(sent));
    }
}

/// Whether a frame is a fragment, or hides behind an authentication header, where flower does not look, whether it is.
fn may_be_fragment(frame: &[u8]) -> bool {
    const AUTHENTICATION: u128 = 51;
    let key = arrived(frame);
    key.get(Field::IpFlags) != 0 || key.get(Field::IpProto) == AUTHENTICATION
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: u32, mut body: Vec<u8>) -> Vec<u8> {
        body.resize(body.len().next_multiple_of(4), 0);
        let length = (body.len() as u32 + 12).to_le_bytes();
        [&kind.to_le_bytes()[..], &length, &body, &length].concat()
    }

    fn packet(frame: &[u8], flags: u32) -> Vec<u8> {
        let length = (frame.len() as u32).to_le_bytes();
        let mut body = [&[0; 12][..], &length, &length, frame].concat();
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend([2, 0, 4, 0]);
        body.extend(flags.to_le_bytes());
        body.extend([0; 4]);
        block(ENHANCED_PACKET, body)
    }

    #[test]
    fn a_fragment_is_as_it_was_sent_and_nothing_else_changes() {
        let mut fragment = vec![2; 12];
        fragment.extend([8, 0, 0x45, 0, 0, 32, 0, 1, 0, 2, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        fragment.resize(46, 7);
        let whole = vec![3; 47];
        let mut changed = fragment.clone();
        changed[20] = 0;
        let interface = block(INTERFACE, vec![1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 2, 0, b'p', b'1', 0, 0, 0, 0, 0, 0]);
        let record = |frames: [&[u8]; 3]| {
            [interface.clone(), packet(frames[0], 2), packet(frames[1], 1), packet(frames[2], 1)].concat()
        };
        let mut trace = record([&changed, &changed, &[3; 40]]);
        let sent = [(Port(11), fragment.clone()), (Port(11), whole)];
        mend(&mut trace, sent, &|_| "p1".to_owned());
        assert_eq!(trace, record([&changed, &fragment, &[3; 40]]));
    }
}
