//! `police` (`net/sched/act_police.c`, `struct tc_police` in `include/uapi/linux/pkt_cls.h`).
//!
//! It is older than the others and has its parameters in an order of its own. What becomes of a packet that exceeds the rate is the
//! action's control; what becomes of one that conforms stands in an attribute. Rates in bytes come with a table of what so many bytes
//! take, which the kernel wants and does not use.

use super::{Generic, Options, control, unknown, verdict, word};
use crate::{
    flower::{ActionKind, Control, action::Police},
    netlink::{
        attributes::{Attribute, Attributes},
        error::DecodeError,
    },
};

const TBF: u16 = 1;
const RATE: u16 = 2;
const PEAKRATE: u16 = 3;
const AVRATE: u16 = 4;
const RESULT: u16 = 5;
pub(super) const TM: u16 = 6;
const RATE64: u16 = 8;
const PEAKRATE64: u16 = 9;
const PKTRATE64: u16 = 10;
const PKTBURST64: u16 = 11;

/// `struct tc_police`, and where its parts stand.
const LENGTH: usize = 56;
const INDEX: usize = 0;
const ACTION: usize = 4;
const BURST: usize = 12;
const MTU: usize = 16;
const RATE_SPEC: usize = 20;
const PEAK_SPEC: usize = 32;
const REFERENCES: usize = 44;
const BINDINGS: usize = 48;

/// Ticks of 64 ns in a second.
const TICKS: u128 = 15_625_000;

/// What `struct tc_ratespec` says of a rate.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Spec {
    rate: u32,
    overhead: u16,
    /// The smallest packet that is counted.
    mpu: u16,
    link_layer: u8,
}

impl Spec {
    fn read(bytes: &[u8; LENGTH], at: usize) -> Spec {
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let spec = Spec {
            rate: word(bytes, at + 8),
            overhead: half(at + 2),
            mpu: half(at + 6),
            link_layer: bytes[at + 1] & 0xf,
        };
        // Without a rate the kernel looks at none of it.
        if spec.rate == 0 { Spec::default() } else { spec }
    }

    fn write(self, cell: u8) -> [u8; 12] {
        let mut bytes = [0; 12];
        if self.rate != 0 {
            bytes[..2].copy_from_slice(&[cell, self.link_layer]);
            bytes[2..4].copy_from_slice(&self.overhead.to_ne_bytes());
            bytes[4..6].copy_from_slice(&(-1i16).to_ne_bytes());
            bytes[8..].copy_from_slice(&self.rate.to_ne_bytes());
        }
        bytes
    }
}

pub(super) fn decode(options: &Attributes) -> Result<Options, DecodeError> {
    let bytes = options.need::<LENGTH>(TBF)?;
    let generic = Generic { index: word(&bytes, INDEX), control: control(word(&bytes, ACTION) as i32) };
    let mut undecoded = unknown("police", options, PKTBURST64);
    let (rate, mut peak) = (Spec::read(&bytes, RATE_SPEC), Spec::read(&bytes, PEAK_SPEC));
    if rate.rate == 0 {
        peak = Spec::default();
    }
    let whole = |spec: Spec, wide: Option<u64>| match spec.rate {
        0 => 0,
        rate => u64::from(rate).max(wide.unwrap_or(0)),
    };
    if peak.rate != 0 && (peak.overhead, peak.link_layer) != (rate.overhead, rate.link_layer) {
        undecoded.push("act_police: a peak rate that is counted otherwise than the rate".into());
    }
    if rate.mpu != 0 || peak.mpu != 0 {
        undecoded.push(format!("act_police mpu {}", rate.mpu.max(peak.mpu)));
    }
    let police = Police {
        // One that stands alone has nothing bound to it; one that a filter brought along has one reference, that filter's.
        shared: word(&bytes, REFERENCES) > 1 || word(&bytes, BINDINGS) == 0,
        conform: control(options.u32(RESULT)?.unwrap_or(0) as i32),
        rate: whole(rate, options.u64(RATE64)?),
        burst: word(&bytes, BURST),
        mtu: word(&bytes, MTU),
        peak_rate: whole(peak, options.u64(PEAKRATE64)?),
        packet_rate: options.u64(PKTRATE64)?.unwrap_or(0),
        packet_burst: options.u64(PKTBURST64)?.unwrap_or(0),
        average_rate: options.u32(AVRATE)?.unwrap_or(0),
        overhead: rate.overhead,
        link_layer: rate.link_layer,
    };
    Ok(Options { kind: ActionKind::Police(police), generic, undecoded })
}

/// All of it is sent, also of one that is shared: the kernel takes the index, and the rest only if there is no such policer.
pub(super) fn encode(police: &Police, generic: Generic) -> Result<Vec<Attribute>, &'static str> {
    if police.mtu == 0 {
        return Err("the kernel takes a largest packet of its own where none is given");
    }
    if police.rate != 0 && police.packet_rate != 0 {
        return Err("bytes and packets a second at once");
    }
    if police.packet_rate == 0 && police.packet_burst != 0 || police.packet_burst >> 57 != 0 {
        return Err("a burst of packets without a rate, or longer than the kernel's clock");
    }
    if police.average_rate != 0 && !police.shared {
        return Err("an average rate takes an estimator, of which the kernel says nothing");
    }
    if matches!(police.conform, Control::Goto(_)) {
        return Err("a packet that conforms goes to no other chain");
    }
    // As tc has it: cells of so many bytes that 256 of them hold the largest packet.
    let cell = (1u8..31).find(|&cell| police.mtu >> cell <= 255).unwrap_or(31);
    let spec = |rate: u64| {
        let rate = u32::try_from(rate).unwrap_or(u32::MAX);
        Spec { rate, overhead: police.overhead, mpu: 0, link_layer: police.link_layer }
    };
    let mut bytes = [0; LENGTH];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(INDEX, &generic.index.to_ne_bytes());
    put(ACTION, &verdict(generic.control).to_ne_bytes());
    put(BURST, &police.burst.to_ne_bytes());
    put(MTU, &police.mtu.to_ne_bytes());
    put(RATE_SPEC, &spec(police.rate).write(cell));
    put(PEAK_SPEC, &spec(police.peak_rate).write(cell));
    put(REFERENCES, &(1 + u32::from(police.shared)).to_ne_bytes());
    put(BINDINGS, &1u32.to_ne_bytes());
    let mut out = vec![Attribute::new(TBF, bytes)];
    for (rate, table_kind, wide_kind) in [(police.rate, RATE, RATE64), (police.peak_rate, PEAKRATE, PEAKRATE64)] {
        if rate != 0 {
            out.push(Attribute::new(table_kind, table(rate, cell)));
        }
        if rate > u32::MAX.into() {
            out.push(Attribute::new(wide_kind, rate.to_ne_bytes()));
        }
    }
    if police.packet_rate != 0 {
        out.push(Attribute::new(PKTRATE64, police.packet_rate.to_ne_bytes()));
        out.push(Attribute::new(PKTBURST64, police.packet_burst.to_ne_bytes()));
    }
    if police.conform != Control::Ok {
        out.push(Attribute::new(RESULT, verdict(police.conform).to_ne_bytes()));
    }
    if police.average_rate != 0 {
        out.push(Attribute::new(AVRATE, police.average_rate.to_ne_bytes()));
    }
    Ok(out)
}

/// Ticks that one cell takes, two cells, and so on to 256.
fn table(rate: u64, cell: u8) -> Vec<u8> {
    let ticks = |cells: u128| (cells << cell) * TICKS / u128::from(rate);
    (1..=256).flat_map(|cells| u32::try_from(ticks(cells)).unwrap_or(u32::MAX).to_ne_bytes()).collect()
}
