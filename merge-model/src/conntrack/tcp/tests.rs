use super::{segment::flag::*, *};
use Direction::{Original as O, Reply as R};

/// Both sides stay at number 0, so that all numbers fit.
fn segment(flags: u8) -> Segment {
    Segment { flags, ..Segment::default() }
}

/// Runs segments through a new connection: the verdicts, and the state at the end. As the tracker does, a packet of
/// the reply direction that is accepted counts as a reply.
fn run(segments: &[(u8, Direction)]) -> (Vec<Verdict>, TcpState) {
    let (mut tcp, mut replied, mut assured) = (Tcp::NEW, false, false);
    let verdicts = segments
        .iter()
        .map(|&(flags, direction)| {
            let verdict = tcp.packet(&segment(flags), direction, replied, assured);
            replied |= direction == R && verdict != Verdict::Invalid;
            assured |= verdict == Verdict::Assure;
            verdict
        })
        .collect();
    (verdicts, tcp.state)
}

#[test]
fn from_handshake_to_time_wait_and_again() {
    use Verdict::*;
    let (verdicts, state) = run(&[
        (SYN, O),
        (SYN | ACK, R),
        (ACK, O),
        (ACK | PSH, R),
        (FIN | ACK, O),
        (ACK, R),
        (FIN | ACK, R),
        (ACK, O),
        (SYN, O),
    ]);
    assert_eq!(verdicts, [Accept, Accept, Assure, Accept, Accept, Accept, Accept, Accept, Reopen]);
    assert_eq!(state, TcpState::TimeWait);
}

#[test]
fn a_first_packet_may_be_a_syn_or_any_acknowledgement() {
    assert_eq!(run(&[(SYN | ECE | CWR, O)]), (vec![Verdict::Accept], TcpState::SynSent));
    assert_eq!(run(&[(ACK | PSH, O)]), (vec![Verdict::Accept], TcpState::Established));
    for invalid in [SYN | ACK, FIN | ACK, RST, RST | ACK, FIN, 0, SYN | FIN, FIN | PSH | URG] {
        assert_eq!(run(&[(invalid, O)]).0, [Verdict::Invalid], "{invalid:#x}");
    }
}

#[test]
fn a_picked_up_connection_is_assured_by_the_packet_after_the_answer() {
    let (verdicts, state) = run(&[(ACK, O), (ACK, R), (ACK, O)]);
    assert_eq!(verdicts, [Verdict::Accept, Verdict::Accept, Verdict::Assure]);
    assert_eq!(state, TcpState::Established);
}

#[test]
fn a_refused_connection_dies_or_closes() {
    assert_eq!(run(&[(SYN, O), (RST | ACK, R)]), (vec![Verdict::Accept, Verdict::Die], TcpState::Close));
    // The server refused an established one: the client's next SYN is let through, and the answer brings us in step.
    let (verdicts, state) = run(&[(SYN, O), (SYN | ACK, R), (ACK, O), (RST, R), (SYN, O), (SYN | ACK, R)]);
    assert!(!verdicts.contains(&Verdict::Reopen));
    assert_eq!(state, TcpState::SynRecv);
    // The client itself reset it: its SYN opens a new one.
    assert_eq!(run(&[(SYN, O), (SYN | ACK, R), (RST, O), (SYN, O)]).0[3], Verdict::Reopen);
}

#[test]
fn a_challenge_answers_a_syn_not_the_last_fin() {
    let closed = [(SYN, O), (SYN | ACK, R), (ACK, O), (FIN | ACK, O), (FIN | ACK, R)];
    assert_eq!(run(&[&closed[..], &[(SYN, O), (ACK, R)]].concat()).1, TcpState::LastAck);
    assert_eq!(run(&[&closed[..], &[(ACK, O)]].concat()).1, TcpState::TimeWait);
}

/// A segment with data as long as said, in a window of 1000.
fn at(flags: u8, seq: u32, length: u32, ack: u32) -> Segment {
    let extra = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let end = seq.wrapping_add(length + extra);
    Segment { flags, seq, ack, sack: ack, end, window: 1000, offer: None }
}

/// Client at 1000, server at 9000, one acknowledged byte each way.
fn open() -> Tcp {
    let mut tcp = Tcp::NEW;
    let handshake = [
        (at(SYN, 999, 0, 0), O),
        (at(SYN | ACK, 8999, 0, 1000), R),
        (at(ACK, 1000, 0, 9000), O),
        (at(ACK, 9000, 1, 1000), R),
        (at(ACK, 1000, 1, 9001), O),
        (at(ACK, 9001, 0, 1001), R),
    ];
    for (segment, direction) in handshake {
        assert_ne!(tcp.packet(&segment, direction, direction == R, false), Verdict::Invalid);
    }
    assert_eq!(tcp.state, TcpState::Established);
    tcp
}

/// What becomes of one more segment of an established, assured connection.
fn then(tcp: &Tcp, segment: Segment, direction: Direction) -> (Verdict, TcpState) {
    let mut tcp = *tcp;
    (tcp.packet(&segment, direction, true, true), tcp.state)
}

#[test]
fn a_reset_counts_if_its_number_is_the_one_acknowledged() {
    let tcp = open();
    assert_eq!(then(&tcp, at(RST, 1001, 0, 0), O), (Verdict::Accept, TcpState::Close));
    assert_eq!(then(&tcp, at(RST, 1000, 0, 0), O), (Verdict::Invalid, TcpState::Established));
    assert_eq!(then(&tcp, at(RST, 1401, 0, 0), O), (Verdict::Accept, TcpState::Established));
    assert_eq!(then(&tcp, at(RST, 3001, 0, 0), O), (Verdict::Invalid, TcpState::Established));
}

#[test]
fn what_lies_outside_the_window_is_invalid_or_passes_unheeded() {
    let tcp = open();
    let fin = |seq, ack| then(&tcp, at(FIN | ACK, seq, 0, ack), O);
    assert_eq!(fin(1001, 9001), (Verdict::Accept, TcpState::FinWait));
    // Up to the end of what the server has room for, and a byte behind it.
    assert_eq!(fin(2001, 9001), (Verdict::Accept, TcpState::FinWait));
    assert_eq!(fin(2002, 9001), (Verdict::Accept, TcpState::Established), "more than allowed is let through");
    assert_eq!(fin(3001, 9001), (Verdict::Invalid, TcpState::Established));
    // Data long acknowledged; an acknowledgement of what was not sent, or was long ago.
    assert_eq!(fin(0, 9001).0, Verdict::Accept, "just reaches the window");
    assert_eq!(fin(u32::MAX, 9001), (Verdict::Accept, TcpState::Established));
    assert_eq!(fin(1001, 9002), (Verdict::Invalid, TcpState::Established));
    let old = |age| fin(1001, 9001_u32.wrapping_sub(age));
    assert_eq!(old(66_000), (Verdict::Accept, TcpState::FinWait));
    assert_eq!(old(66_001), (Verdict::Accept, TcpState::Established));
}

#[test]
fn of_what_is_not_known_all_fits() {
    let far = at(FIN | ACK, 5_000_000, 0, 77);
    let taken = (Verdict::Accept, TcpState::FinWait);
    assert_eq!(then(&Tcp::seen_in(TcpState::Established), far, O), taken);
    let mut lost = open();
    lost.lose_track();
    assert_eq!(then(&lost, far, R), taken);
    let mut liberal = open();
    liberal.be_liberal();
    assert_eq!(then(&liberal, far, R), taken);
    // Forgotten windows begin with the next segment, and so do those of a connection picked up.
    let mut forgotten = open();
    forgotten.forget_windows();
    assert_eq!(then(&forgotten, far, R), taken);
    let mut picked_up = Tcp::NEW;
    assert_eq!(picked_up.packet(&at(ACK, 5, 0, 3), O, false, false), Verdict::Accept);
    assert_eq!(then(&picked_up, far, R), taken);
}

#[test]
fn windows_are_scaled_if_both_ends_offer_it() {
    let offer = |scale| Some(Offer { scale, sack: true });
    let last = |server| {
        let mut tcp = Tcp::NEW;
        tcp.packet(&Segment { offer: offer(Some(2)), ..at(SYN, 999, 0, 0) }, O, false, false);
        tcp.packet(&Segment { offer: offer(server), ..at(SYN | ACK, 8999, 0, 1000) }, R, false, false);
        tcp.packet(&at(ACK, 1000, 0, 9000), O, true, false);
        then(&tcp, at(ACK, 13_000, 0, 1000), R).0
    };
    assert_eq!(last(Some(7)), Verdict::Accept);
    assert_eq!(last(None), Verdict::Invalid);
}

/// A client that begins anew on a connection that conntrack holds to be alive: the answer brings conntrack into step.
#[test]
fn a_syn_that_was_let_through_and_its_answer_begin_new_windows() {
    let mut tcp = open();
    assert_eq!(tcp.packet(&at(SYN, 500_000, 0, 0), O, true, true), Verdict::Accept);
    let answer = at(SYN | ACK, 700_000, 0, 500_001);
    assert_eq!(then(&tcp, at(SYN | ACK, 700_000, 0, 500_000), R), (Verdict::Accept, TcpState::Established));
    assert_eq!(tcp.packet(&answer, R, true, true), Verdict::Accept);
    assert_eq!(tcp.state, TcpState::SynRecv);
    assert_eq!(then(&tcp, at(ACK, 500_001, 0, 700_001), O), (Verdict::Accept, TcpState::Established));
    assert_eq!(then(&tcp, at(ACK, 1001, 0, 9001), O), (Verdict::Accept, TcpState::SynRecv), "an old one moves nothing");
    assert_eq!(then(&tcp, at(ACK, 502_002, 0, 700_001), O).0, Verdict::Invalid);
}

#[test]
fn a_reset_out_of_the_window_is_remembered_of_an_assured_connection() {
    let mut tcp = open();
    assert_eq!(tcp.packet(&at(RST, 90_000, 0, 0), O, true, true), Verdict::Invalid);
    // The server closes; the client's SYN then follows its own reset, and opens another connection.
    assert_eq!(tcp.last.sort, Some(Sort::Rst));
    let mut young = open();
    assert_eq!(young.packet(&at(RST, 90_000, 0, 0), O, true, false), Verdict::Invalid);
    assert_eq!(young.last.sort, Some(Sort::Ack));
}
