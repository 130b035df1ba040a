//! `flowmerge record` where it cannot record: on machines without the privileges or the devices that it takes, as most are that
//! run these tests. What it records is tested in the laboratory (`lab/scenarios`).

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

/// A file that is not there, in a folder that everybody may write to.
fn scratch(name: &str) -> PathBuf {
    let file = env::temp_dir().join(format!("flowmerge-{}-{name}", std::process::id()));
    let _ = fs::remove_file(&file);
    file
}

/// Its exit status and what it says on stderr; should it begin to record, it is ended. `None` if it cannot be run as `user`.
fn record(ports: &[&str], trace: &Path, user: Option<u32>) -> Option<(ExitStatus, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowmerge"));
    command.arg("record").args(ports).arg("-o").arg(trace).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some(user) = user {
        command.uid(user);
    }
    let mut child = command.spawn().ok()?;
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut text = String::new();
    stderr.read_line(&mut text).expect("text");
    if text.contains("Ctrl-C") {
        let ended = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
        assert!(ended.success());
    }
    stderr.read_to_string(&mut text).expect("text");
    Some((child.wait().expect("it ends"), text))
}

#[test]
fn a_port_that_does_not_exist_is_named() {
    let trace = scratch("no-port");
    let (status, text) = record(&["lo", "no-such-port"], &trace, None).unwrap();
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains("no port no-such-port"), "{text}");
    assert!(!trace.exists());
    let (status, text) = record(&["a-name-too-long-for-a-device"], &trace, None).unwrap();
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains("a-name-too-long-for-a-device"), "{text}");
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let (status, text) = record(&["lo"], Path::new("/nonexistent/trace.pcapng"), None).unwrap();
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains("/nonexistent/trace.pcapng: cannot be written"), "{text}");
}

#[test]
fn what_it_lacks_is_named_and_an_old_trace_stays() {
    let trace = scratch("old");
    fs::write(&trace, "an old trace").unwrap();
    // Root in a container may lack privileges, a kernel nlmon devices.
    let (status, text) = record(&["lo"], &trace, None).unwrap();
    if !text.contains("Ctrl-C") {
        assert_eq!(status.code(), Some(2), "{text}");
        let lacks = ["CAP_NET_RAW", "CAP_NET_ADMIN", "nlmon", "netlink"];
        assert!(lacks.iter().any(|what| text.contains(what)), "{text}");
        assert_eq!(fs::read_to_string(&trace).unwrap(), "an old trace");
    }
    fs::remove_file(&trace).unwrap();
}

#[test]
fn nobody_lacks_cap_net_raw() {
    const NOBODY: u32 = 65534;
    let trace = scratch("nobody");
    // Only root becomes nobody, and nobody may not reach the binary.
    let Some((status, text)) = record(&["lo"], &trace, Some(NOBODY)) else { return };
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains("CAP_NET_RAW"), "{text}");
    assert!(!trace.exists());
}

#[test]
fn no_port_is_a_mistake() {
    let (status, text) = record(&[], &scratch("none"), None).unwrap();
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains("PORT"), "{text}");
}
