//! The connections that conntrack knows at the start of a run.

use flowmerge::conntrack::{Connection, TcpState, Tuple, proto};
use std::{collections::HashSet, net::IpAddr};

/// A host's address.
pub fn host(v6: bool, n: u8) -> IpAddr {
    match v6 {
        false => [10, 0, 0, n].into(),
        true => [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n].into(),
    }
}

/// Those that qualify: plain, and translated at either end or both, address and port; the same tuples in two zones.
fn established() -> Vec<Connection> {
    let mut out = Vec::new();
    for (zone, v6) in [(5, false), (6, false), (5, true), (6, true)] {
        for proto in [proto::TCP, proto::UDP] {
            let tuple = |src, src_port, dst, dst_port| Tuple {
                src: host(v6, src),
                dst: host(v6, dst),
                proto,
                src_port,
                dst_port,
            };
            for (original, inside) in [
                (tuple(1, 1000, 2, 80), tuple(1, 1000, 2, 80)),
                (tuple(1, 1001, 2, 80), tuple(1, 1001, 3, 8000)),
                (tuple(3, 1000, 2, 80), tuple(1, 1002, 2, 80)),
                (tuple(3, 1001, 2, 8000), tuple(1, 1003, 3, 80)),
                // As the other zone leaves them.
                (tuple(1, 1001, 3, 8000), tuple(1, 1001, 3, 8000)),
                (tuple(1, 1002, 2, 80), tuple(1, 1002, 2, 80)),
                (tuple(1, 1003, 3, 80), tuple(1, 1003, 3, 80)),
            ] {
                out.push(Connection {
                    mark: u32::from(original.src_port),
                    labels: 0x10,
                    ..Connection::established(zone, original, inside.inverse())
                });
            }
        }
    }
    // The same tuple must not stand twice in a zone.
    let mut seen = HashSet::new();
    out.retain(|c| seen.insert((c.zone, c.original)) && seen.insert((c.zone, c.reply)));
    out
}

/// Those that do not qualify, each for another reason.
fn unfit() -> Vec<Connection> {
    let tuple =
        |proto, src_port, dst_port| Tuple { src: host(false, 2), dst: host(false, 1), proto, src_port, dst_port };
    let plain = |t: Tuple| Connection::established(5, t, t.inverse());
    vec![
        Connection { helper: true, ..plain(tuple(proto::TCP, 1000, 8000)) },
        Connection { seqadj: true, ..plain(tuple(proto::TCP, 1001, 8000)) },
        Connection { tcp: Some(TcpState::FinWait), ..plain(tuple(proto::TCP, 1002, 8000)) },
        Connection { assured: false, ..plain(tuple(proto::TCP, 1003, 8000)) },
        Connection { seen_reply: false, assured: false, ..plain(tuple(proto::UDP, 1000, 8000)) },
        Connection { expected: true, seen_reply: false, ..plain(tuple(proto::UDP, 1001, 8000)) },
        plain(tuple(proto::SCTP, 1000, 80)),
        plain(tuple(proto::ICMP, 1000, 0x0800)),
    ]
}

/// All of them.
pub fn connections() -> Vec<Connection> {
    [established(), unfit()].concat()
}
