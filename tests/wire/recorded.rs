//! The netlink messages of the recorded runs, byte by byte: `fixtures/*.pcapng`, little-endian pcapng files.

use flowmerge::netlink::{LinkNames, Message, ROUTE, decode, messages};
use std::{fs, path::Path};

/// A recorded run.
pub struct Run {
    pub name: String,
    bytes: Vec<u8>,
}

/// All of them.
pub fn runs() -> Vec<Run> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "pcapng"));
    let run = |path: std::path::PathBuf| Run {
        name: path.file_stem().unwrap().to_string_lossy().into_owned(),
        bytes: fs::read(&path).unwrap(),
    };
    let runs: Vec<_> = files.map(run).collect();
    assert!(runs.len() >= 4, "{} recorded runs", runs.len());
    runs
}

const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const NETLINK: u16 = 253;

impl Run {
    /// Looks at each rtnetlink message: its bytes, what we read in them, and the devices' names at that point.
    pub fn each(&self, mut look: impl FnMut(&[u8], &Message, &LinkNames)) {
        let mut names = LinkNames::default();
        let mut interfaces = Vec::new();
        let mut rest = &self.bytes[..];
        let u32_at = |bytes: &[u8], at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
        while rest.len() >= 12 {
            let (kind, length) = (u32_at(rest, 0), u32_at(rest, 4) as usize);
            let block = &rest[..length];
            rest = &rest[length..];
            match kind {
                INTERFACE => interfaces.push(u16::from_le_bytes([block[8], block[9]])),
                ENHANCED_PACKET if interfaces[u32_at(block, 8) as usize] == NETLINK => {
                    let packet = &block[28..28 + u32_at(block, 20) as usize];
                    // A cooked header of 16 bytes, of which the last two are the netlink family.
                    if packet[14..16] != ROUTE.to_be_bytes() {
                        continue;
                    }
                    for bytes in messages(&packet[16..]) {
                        let envelope = decode(ROUTE, bytes, &names).unwrap();
                        names.learn(&envelope.message);
                        look(bytes, &envelope.message, &names);
                    }
                }
                _ => {}
            }
        }
    }
}
