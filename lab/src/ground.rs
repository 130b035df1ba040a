//! The ground that a case stands on: a network of its own, with ports on cables to hosts.

use crate::{
    case::{self, Case, Devices, Step},
    kernel::{Backlog, Cables, Kernel, wait_until_running},
};
use anyhow::{Context, Result, bail};
use flowmerge::{
    flower::{Filter, Hook, Port, print::printed},
    netlink::{FilterMessage, encode_clsact, encode_filter, encode_link_state, encode_removal, encode_replacement},
};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
};
use std::{
    collections::HashSet,
    fs,
    io::{ErrorKind, Write},
    process::{Command, Stdio},
};

/// The devices, and the ways to speak to the kernel.
pub struct Ground {
    /// The ports.
    pub devices: Devices,
    kernel: Kernel,
    cables: Cables,
    backlog: Backlog,
    /// Ports that are set down: frames to them are lost, and for a while the kernel says nothing of that.
    down: HashSet<Port>,
}

/// What came of something that was asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is done.
    Done,
    /// The kernel takes no such filter, or there is no such thing (any more).
    Refused,
}

impl Ground {
    /// Makes the devices. There must be none of these names, so that nobody's machine is touched by accident.
    pub fn lay(devices: Devices) -> Result<Ground> {
        // Nothing of an earlier case is left in a network of its own: no connection, no fragment that waits for others.
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
        set("net/ipv6/conf/default/disable_ipv6", "1")?;
        let mut commands = String::new();
        for port in devices.ports() {
            let (host, n) = (case::host(port), port.0 - 10);
            let (port_name, host_name) = (devices.name_of(port), Devices::host_name(port));
            commands += &format!(
                "link add {port_name} index {} address 02:aa:00:00:00:{n:02x} type veth \
                 peer name {host_name} index {} address 02:00:00:00:00:{n:02x}\n",
                port.0, host.0
            );
        }
        let ends = |port| [devices.name_of(port), Devices::host_name(port)];
        for name in devices.ports().flat_map(ends) {
            commands += &format!("link set {name} up\n");
        }
        feed("ip", &commands).context("making the devices")?;
        wait_until_running(&devices.ports().flat_map(ends).collect())?;
        set("net/netfilter/nf_conntrack_events", "1")?;
        set("net/netfilter/nf_conntrack_acct", "1")?;
        let (kernel, cables) = (Kernel::open()?, Cables::open(&devices)?);
        Ok(Ground { kernel, cables, backlog: Backlog::open()?, devices, down: HashSet::new() })
    }

    /// Puts a case's filters in. What the kernel refuses is taken out of the case.
    pub fn build(&mut self, case: &mut Case) -> Result<usize> {
        let qdiscs = self.devices.ports().map(|port| {
            let block = case.shared.iter().find(|(p, _)| *p == port).map(|&(_, block)| block);
            encode_clsact(port, block)
        });
        self.kernel.must("the ports' clsact qdiscs", qdiscs.collect())?;
        let before = case.filters.len();
        // What flower has no words for never reaches the kernel.
        case.filters.retain(|filter| encode_filter(filter, &self.devices).is_ok());
        let requests = case.filters.iter().filter_map(|filter| encode_filter(filter, &self.devices).ok()).collect();
        let mut taken = self.kernel.ask(requests)?.into_iter().map(|answer| answer.is_ok());
        case.filters.retain(|_| taken.next().unwrap_or(false));
        Ok(before - case.filters.len())
    }

    /// Asks the kernel for all of these, in order; its answer to each.
    pub fn ask(&mut self, requests: Vec<Vec<u8>>) -> Result<Vec<Result<(), Errno>>> {
        self.kernel.ask(requests)
    }

    /// The filters of a hook, with their counters.
    pub fn filters(&mut self, hook: Hook) -> Result<Vec<FilterMessage>> {
        self.kernel.filters(hook, &self.devices)
    }

    /// A filter in tc's words, on one line.
    pub fn words(&self, filter: &Filter) -> String {
        printed(filter, &|port| self.devices.name_of(port)).to_string()
    }

    /// Puts in what a text for `tc -batch` asks for. The ports get their qdiscs first, unless the text does that.
    pub fn batch(&mut self, batch: &str) -> Result<()> {
        if !batch.lines().any(|line| line.split_whitespace().next() == Some("qdisc")) {
            let qdiscs = self.devices.ports().map(|port| encode_clsact(port, None));
            self.kernel.must("the ports' clsact qdiscs", qdiscs.collect())?;
        }
        feed("tc", batch)
    }

    /// Waits until all frames that were sent have come in.
    pub fn settle(&mut self) -> Result<()> {
        self.backlog.wait_until_empty()
    }

    /// Lets something happen.
    pub fn happen(&mut self, step: &Step) -> Result<Asked> {
        let request = match step {
            Step::Frame(port, _) if self.down.contains(port) => return Ok(Asked::Refused),
            Step::Frame(port, frame) => {
                return Ok(if self.cables.send(*port, frame)? { Asked::Done } else { Asked::Refused });
            }
            Step::Add(filter) => encode_filter(filter, &self.devices).ok(),
            Step::Replace(filter) => encode_replacement(filter, &self.devices).ok(),
            Step::Remove(id) => Some(encode_removal(*id)),
            Step::Link(port, up) => Some(encode_link_state(*port, *up)),
        };
        let Some(request) = request else { return Ok(Asked::Refused) };
        let done = self.kernel.ask(vec![request])?.iter().all(|answer| answer.is_ok());
        match step {
            Step::Link(port, true) if done => {
                self.down.remove(port);
                wait_until_running(&[self.devices.name_of(*port), Devices::host_name(*port)].into())?;
            }
            Step::Link(port, false) if done => {
                self.down.insert(*port);
            }
            _ => {}
        }
        Ok(if done { Asked::Done } else { Asked::Refused })
    }
}

/// Sets a kernel parameter.
fn set(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{name}");
    fs::write(&path, value).with_context(|| path)
}

/// Runs `ip` or `tc` once on many commands. The first that fails is the last that is run; it is named.
fn feed(program: &str, commands: &str) -> Result<()> {
    let mut child = Command::new(program)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(program.to_owned())?;
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(commands.as_bytes())
        // It stopped at a command that it told of.
        && error.kind() != ErrorKind::BrokenPipe
    {
        return Err(error).with_context(|| format!("{program} -batch"));
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{}", refusal(program, commands, &String::from_utf8_lossy(&output.stderr)))
}

/// What a `-batch` said, with the line that it concerns.
fn refusal(program: &str, commands: &str, said: &str) -> String {
    let number = said.lines().find_map(|line| line.strip_prefix("Command failed -:")?.trim().parse::<usize>().ok());
    // Behind what is wrong tc prints all that would be right.
    let is_to_the_point = |line: &&str| !line.trim_start().starts_with("Usage:");
    let said: Vec<&str> =
        said.lines().take_while(is_to_the_point).filter(|line| !line.starts_with("Command failed ")).collect();
    let said = said.join("\n").trim().to_owned();
    match number.and_then(|number| Some((number, commands.lines().nth(number.checked_sub(1)?)?))) {
        Some((number, line)) => format!("line {number}: {program} and the kernel refuse `{}`:\n{said}", line.trim()),
        None => format!("{program} -batch:\n{said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_line_is_named() {
        let said = "RTNETLINK answers: Invalid argument\nWe have an error talking to the kernel\nCommand failed -:2\n";
        let text = refusal("tc", "filter add dev p1\n filter add dev p2 prio 0\n", said);
        assert!(text.starts_with("line 2: tc and the kernel refuse `filter add dev p2 prio 0`:\nRTNETLINK"), "{text}");
        assert!(text.ends_with("talking to the kernel"), "{text}");
        assert_eq!(refusal("tc", "", "Segmentation fault"), "tc -batch:\nSegmentation fault");
    }
}
