//! `flowmerge replay` as a person or a script runs it.

use serde_json::Value;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn replay(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flowmerge")).arg("replay").args(arguments).output().expect("the binary runs")
}

fn json(trace: &str) -> Value {
    let output = replay(&["--json", fixture(trace).to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object and nothing else")
}

/// Everything as in the kernel, in both runs; everything established merged; and so much of it in hardware.
fn assert_identical(trace: &str, handled_percent: u64) {
    let totals = json(trace);
    let number = |path: &str| totals.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path}"));
    for run in ["software", "hardware"] {
        let number = |field| number(&format!("/{run}/{field}"));
        assert_eq!(number("identical"), number("frames"), "{trace} {run}");
        assert_eq!(number("counters_identical"), number("counters"), "{trace} {run}");
        assert!(number("frames") > 0 && number("counters") > 0, "{trace} {run}");
    }
    assert_eq!(number("/filters/undecoded"), 0);
    assert_eq!(number("/software/decided") + number("/software/missed"), number("/software/received"));
    assert_eq!(number("/hardware/handled") + number("/hardware/software"), number("/software/received"));
    assert_eq!(number("/walks/established_merged"), number("/walks/established"), "{trace}");
    assert!(number("/hardware/handled") * 100 >= handled_percent * number("/software/received"), "{trace}");
}

/// Every recorded run, with how many of a hundred received frames merged filters must handle at least. The rest are handshakes,
/// closes, ICMP, ARP, misses, and the first packet of each way and connection.
macro_rules! recorded_runs {
    ($($name:ident $file:literal $handled:literal;)*) => {
        $(#[test]
        fn $name() {
            assert_identical(concat!($file, ".pcapng"), $handled);
        })*

        #[test]
        fn every_fixture_is_replayed() {
            let mut files: Vec<_> = fs::read_dir(fixture("")).unwrap().map(|f| f.unwrap().path()).collect();
            files.retain(|f| f.extension().is_some_and(|e| e == "pcapng"));
            let names: Vec<_> = files.iter().map(|f| f.file_stem().unwrap().to_str().unwrap()).collect();
            let known = [$($file),*];
            assert!(names.iter().all(|n| known.contains(n)) && names.len() == known.len(), "{names:?}");
        }
    };
}

recorded_runs! {
    ovs_churn "ovs-churn" 65;
    ovs_dnat "ovs-dnat" 70;
    ovs_firewall "ovs-firewall" 60;
    ovs_firewall6 "ovs-firewall6" 60;
    ovs_fullnat "ovs-fullnat" 75;
    ovs_geneve "ovs-geneve" 65;
    ovs_mirror "ovs-mirror" 60;
    ovs_nat "ovs-nat" 65;
    ovs_nat66 "ovs-nat66" 65;
    ovs_ovn "ovs-ovn" 70;
    ovs_ports "ovs-ports" 40;
    ovs_qinq "ovs-qinq" 70;
    ovs_reuse "ovs-reuse" 60;
    ovs_router "ovs-router" 60;
    ovs_snat "ovs-snat" 65;
    ovs_vlan "ovs-vlan" 75;
    ovs_vlan_ct "ovs-vlan-ct" 60;
    ovs_vxlan "ovs-vxlan" 60;
    tc_actions "tc-actions" 50;
    tc_blocks "tc-blocks" 70;
    tc_churn "tc-churn" 75;
    tc_connections "tc-connections" 75;
    tc_dnat "tc-dnat" 75;
    tc_frag "tc-frag" 15;
    tc_icmperr "tc-icmperr" 30;
    tc_judged "tc-judged" 35;
    tc_length "tc-length" 70;
    tc_more "tc-more" 50;
    tc_mpls "tc-mpls" 45;
    tc_nat66 "tc-nat66" 60;
    tc_nat_both "tc-nat-both" 75;
    tc_overlap "tc-overlap" 70;
    tc_passes "tc-passes" 70;
    tc_pedit "tc-pedit" 40;
    tc_qinq "tc-qinq" 50;
    tc_remark "tc-remark" 55;
    tc_rewrite "tc-rewrite" 35;
    tc_tunnels "tc-tunnels" 55;
    tc_verdicts "tc-verdicts" 70;
}

/// What is sent to a tunnel device is compared with the outer packet that leaves, in both runs.
#[test]
fn outer_packets_are_compared() {
    for (trace, wrapped) in [("ovs-vxlan.pcapng", 28), ("ovs-geneve.pcapng", 40), ("tc-tunnels.pcapng", 75)] {
        let totals = json(trace);
        for run in ["software", "hardware"] {
            assert_eq!(totals[run]["wrapped"], wrapped, "{trace} {run}");
        }
    }
}

/// Where in a trace frames between these hosts beneath the tunnels begin: the last byte of the MAC of either end.
fn beneath(trace: &[u8], to: u8, from: u8) -> Vec<usize> {
    let addresses = [2, 0xbb, 0, 0, 0, to, 2, 0xbb, 0, 0, 0, from];
    let all = trace.windows(addresses.len()).enumerate();
    all.filter(|(_, window)| *window == addresses).map(|(at, _)| at).collect()
}

/// The report on a trace that was changed, and that cannot come out as in the kernel.
fn differs(name: &str, trace: &[u8]) -> String {
    let file = scratch(name);
    fs::write(&file, trace).unwrap();
    let output = replay(&[file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Without outer packets nobody knows what a device kept of them. That is said, and nothing is guessed.
#[test]
fn a_frame_without_its_outer_packet_is_left_open_by_name() {
    let mut trace = fs::read(fixture("tc-tunnels.pcapng")).unwrap();
    let incoming = beneath(&trace, 1, 2);
    assert!(incoming.len() > 70);
    // No IP any more.
    incoming.iter().for_each(|at| trace[at + 12..at + 14].copy_from_slice(&[0x88, 0xb5]));
    let report = differs("without.pcapng", &trace);
    let why = "filters look at its outer packet, and none that was recorded at its time has this frame in it";
    for tunnel in ["t1", "t2", "t3", "t4"] {
        assert!(report.contains(&format!(" the first: {tunnel}: {why}\n")), "{tunnel}: {report}");
    }
}

#[test]
fn an_outer_packet_that_is_otherwise_is_a_difference() {
    let mut trace = fs::read(fixture("tc-tunnels.pcapng")).unwrap();
    let outgoing = beneath(&trace, 2, 1);
    // The destination of one of them.
    trace[outgoing[5] + 14 + 19] ^= 4;
    let report = differs("otherwise.pcapng", &trace);
    assert!(report.contains(" is to leave the tunnel device t"), "{report}");
    assert!(report.contains(" to 192.168.7.6 port ") && report.contains(" to 192.168.7.2 port "), "{report}");
}

#[test]
fn a_walk_that_changes_its_own_mark_is_no_established_one() {
    assert_eq!(json("tc-remark.pcapng")["merged"]["refused"]["changed"], 3);
}

/// Conntrack and `csum` read more of a packet than a table does. Such packets are named, and left to software.
#[test]
fn packets_that_software_judges_by_more_than_their_headers_are_told() {
    let known = &json("tc-judged.pcapng")["hardware"]["known"];
    assert_eq!(*known, serde_json::json!({ "wrong checksum": 1, "wrong length": 3 }));
    let output = replay(&[fixture("tc-judged.pcapng").to_str().unwrap()]);
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("\nknown     1 packet of a merged filter left to software: wrong checksum\n"), "{report}");
}

#[test]
fn the_lines_add_up_to_the_totals() {
    let totals = json("ovs-nat.pcapng");
    let file = scratch("ovs-nat.jsonl");
    let output = replay(&["--frames", file.to_str().unwrap(), fixture("ovs-nat.pcapng").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |run: &str, verdict: &str| {
        let is = |line: &&Value| line["run"] == run && line["verdict"] == verdict;
        lines.iter().filter(is).count() as u64
    };
    assert_eq!(count("software", "decided"), totals["software"]["decided"]);
    assert_eq!(count("software", "missed"), totals["software"]["missed"]);
    assert_eq!(count("hardware", "handled"), totals["hardware"]["handled"]);
    let sent: usize =
        lines.iter().filter(|line| line["run"] == "software").map(|line| line["sent"].as_array().unwrap().len()).sum();
    assert_eq!(sent as u64, totals["software"]["frames"]);
    let hit = lines.iter().find_map(|line| line["hits"].get(0)).unwrap();
    let keys: Vec<_> = hit.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["chain", "handle", "port", "prio"]);
}

#[test]
fn a_person_sees_filters_and_merged_filters() {
    let output = replay(&[fixture("tc-dnat.pcapng").to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "p1 chain 0: 2 filters",
        "ct zone 3 nat, goto chain 1",
        "filter dev p1 ingress protocol ip",
        "pref 1 handle 0x1 ip  ",
        "action order 1: pedit ex mend munge eth dst set 02:00:00:00:00:02 munge ip dst set 10.0.0.2",
        "action order 2: mirred egress redirect dev p2",
        "    parents    p1 chain 0 pref 1 handle 0x1\n               p1 chain 1",
        "    handled    ",
        "walks: not-qualified\n",
        "76 of 76 frames and 9 of 9 filters' counters identical",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
    for noise in ["index 0", "if1", "\t"] {
        assert!(!text.contains(noise), "{noise:?} is in:\n{text}");
    }
}

/// What a changed trace is said to be, with its exit status.
fn complaint(name: &str, bytes: &[u8]) -> (Option<i32>, String) {
    let file = scratch(name);
    fs::write(&file, bytes).unwrap();
    let output = replay(&["--json", file.to_str().unwrap()]);
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), text)
}

/// The blocks of a pcapng of this machine's byte order, whole.
fn blocks(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut blocks) = (bytes, Vec::new());
    while let Some(length) = rest.get(4..8) {
        let length = u32::from_ne_bytes(length.try_into().unwrap()) as usize;
        let (block, tail) = rest.split_at(length);
        blocks.push(block);
        rest = tail;
    }
    blocks
}

#[test]
fn bad_input_is_named() {
    let good = fs::read(fixture("tc-dnat.pcapng")).unwrap();
    let all = blocks(&good);
    let last_frames_only = all.len() - 8;
    let without_end = all[..last_frames_only].concat();
    // The netlink interface becomes one of another kind.
    let mut no_netlink = good.clone();
    let at = no_netlink.windows(2).position(|pair| pair == [253, 0]).unwrap();
    no_netlink[at] = 1;
    // The first frame was longer than what was recorded of it.
    let mut short = good.clone();
    let frame = all.iter().position(|block| block[0] == 6 && block[8] < 2).unwrap();
    let start: usize = all[..frame].iter().map(|block| block.len()).sum();
    short[start + 24] += 1;
    let cases: [(&str, &[u8], &str); 6] = [
        ("text.pcapng", b"no trace at all", "not a pcapng"),
        ("empty.pcapng", b"", "empty"),
        ("cut.pcapng", &good[..good.len() / 2], "cut off"),
        ("no-end.pcapng", &without_end, "dump"),
        ("no-netlink.pcapng", &no_netlink, "netlink"),
        ("short-frame.pcapng", &short, "bytes of the frame"),
    ];
    for (name, bytes, expected) in cases {
        let (status, text) = complaint(name, bytes);
        assert_eq!(status, Some(2), "{name}: {text}");
        assert!(text.contains(name) && text.contains(expected), "{name}: {text}");
    }
    let (status, text) = {
        let output = replay(&["/nonexistent.pcapng"]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(status, Some(2));
    assert_eq!(text.matches("nonexistent").count(), 1, "{text}");
    let trace = fixture("tc-dnat.pcapng");
    let output = replay(&["--json", "--frames", "/nonexistent/lines", trace.to_str().unwrap()]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("/nonexistent/lines: cannot be written"), "{text}");
}

#[test]
fn a_run_in_which_too_little_is_merged_makes_the_status_1() {
    let trace = fixture("tc-dnat.pcapng");
    let with = |wanted: &[&str]| {
        let wanted = wanted.iter().flat_map(|wanted| ["--at-least", wanted]);
        let output = replay(&wanted.chain(["--json", trace.to_str().unwrap()]).collect::<Vec<_>>());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(
        with(&["merged.installed=4", "walks.established_merged=100%", "hardware.handled=75%"]),
        (Some(0), String::new())
    );
    let (status, text) = with(&["merged.installed=4", "merged.installed=5", "hardware.handled=90%"]);
    assert_eq!((status, text.lines().count()), (Some(1), 2), "{text}");
    assert!(text.contains("tc-dnat.pcapng: expected at least merged.installed=5, got 4\n"), "{text}");
    assert!(text.contains("expected at least hardware.handled=90% of software.received, got 62\n"), "{text}");
    let (status, text) = with(&["merged.instaled=1"]);
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("no number of that name") && text.contains("merged.instaled"), "{text}");
}

#[test]
fn a_difference_makes_the_status_1() {
    // Another byte in the last frame sent: the kernel's no longer is what the filters make.
    let good = fs::read(fixture("tc-dnat.pcapng")).unwrap();
    let mut offset = 0;
    let mut last_sent = None;
    for block in blocks(&good) {
        let is_sent = block[0] == 6 && block.windows(8).any(|w| w == [2, 0, 4, 0, 2, 0, 0, 0]);
        if is_sent {
            last_sent = Some(offset);
        }
        offset += block.len();
    }
    let mut changed = good.clone();
    changed[last_sent.unwrap() + 28 + 40] ^= 1;
    let file = scratch("changed.pcapng");
    fs::write(&file, changed).unwrap();
    let output = replay(&[file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("DIFFERENCE (software)")
            && text.contains("sends another frame out of p")
            && text.contains("walk "),
        "{text}"
    );
}

#[test]
fn frames_that_come_while_the_start_is_told_are_counted_once() {
    // A recording that begins amid the traffic: the dump of filters, with their counters, comes behind the frames.
    let good = fs::read(fixture("tc-rewrite.pcapng")).unwrap();
    let blocks = blocks(&good);
    let is_message = |block: &[u8]| block[28..].starts_with(&[0, 4, 3, 56]);
    let is_dump = |block: &[u8]| is_message(block) && block[50] & 2 != 0;
    let (head, packets): (Vec<&[u8]>, Vec<&[u8]>) = blocks.into_iter().partition(|block| block[0] != 6);
    let (first, last) = (
        packets.iter().position(|block| !is_message(block)).unwrap(),
        packets.iter().rposition(|block| !is_message(block)).unwrap(),
    );
    let devices = packets[..first].iter().filter(|block| is_dump(block));
    let frames = packets.iter().filter(|block| !is_message(block));
    let dump = &packets[last + 1..];
    let recorded = devices.chain(frames).chain(dump).chain([&packets[last]]).chain(dump);
    let mut bytes = head.concat();
    for (i, block) in recorded.enumerate() {
        let mut block = block.to_vec();
        block[16..20].copy_from_slice(&(i as u32 * 1000).to_le_bytes());
        bytes.extend(block);
    }
    let file = scratch("amid.pcapng");
    fs::write(&file, bytes).unwrap();
    let output = replay(&[file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
}

/// All that is told, the merged filters with their parents, connections and counters too, whatever threads do the work; but for their
/// names, which are those of the shards.
#[test]
fn threads_change_nothing() {
    let mut files: Vec<_> = fs::read_dir(fixture("")).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "pcapng"));
    assert!(!files.is_empty());
    let told = |file: &PathBuf, threads: &str| {
        let output = replay(&["--threads", threads, file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("text");
        let unnamed = |line: &str| match line.split_once(" handle 0x") {
            Some((before, _)) if line.trim_start().starts_with("filter dev") => before.to_string(),
            _ => line.split_once("merged filter ").map_or(line, |(before, _)| before).to_string(),
        };
        let mut lines: Vec<String> = text.lines().map(unnamed).collect();
        lines.sort();
        lines
    };
    for file in files {
        let (alone, three) = (told(&file, "0"), told(&file, "3"));
        let first = alone.iter().zip(&three).find(|(a, b)| a != b);
        assert!(alone == three, "{}: {first:?}", file.display());
    }
}
