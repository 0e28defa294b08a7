//! Which packets may leave as one GSO message: runs of equal size to one destination.
//!
//! Pure. Decides only grouping; may not reorder packets of one destination. Invariant: in a run
//! every packet but the last has the same size, the last is not larger, and a run has at most
//! [`SEGMENTS_MAX`] packets (media-engine.md §6, GSO rules 1 and 6).

use std::collections::HashMap;
use std::net::SocketAddr;

/// Packets per run: more than 8 back to back can hurt weak Wi-Fi and gain little.
pub(super) const SEGMENTS_MAX: usize = 8;
/// Bytes per run: a UDP message is at most 64 KiB with its headers.
const RUN_BYTES_MAX: usize = 64_000;
/// No further packet in the chain.
const END: u32 = u32::MAX;

/// One message to the kernel: a chain of packets to one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub socket: u32,
    pub destination: SocketAddr,
    /// Size of every packet but the last, in bytes.
    pub segment_bytes: usize,
    pub count: usize,
    first: u32,
    last: u32,
    closed: bool,
}

struct Packet {
    contents: Vec<u8>,
    next: u32,
}

/// The packets of one wake-up, grouped as they are added.
#[derive(Default)]
pub struct Runs {
    packets: Vec<Packet>,
    runs: Vec<Run>,
    /// Looked up for every packet that does not follow its own kind; keyed, because addresses are
    /// the clients' to choose.
    open: HashMap<(u32, SocketAddr), u32, ahash::RandomState>,
    latest: Option<u32>,
}

impl Runs {
    /// Adds a packet that leaves by `socket`.
    pub fn push(&mut self, socket: u32, destination: SocketAddr, contents: Vec<u8>) {
        let bytes = contents.len();
        let packet = self.packets.len() as u32;
        self.packets.push(Packet { contents, next: END });
        if let Some(run) = self.open_run(socket, destination)
            && run.accepts(bytes)
        {
            let before = run.last;
            run.last = packet;
            run.count += 1;
            run.closed = bytes < run.segment_bytes;
            if let Some(previous) = self.packets.get_mut(before as usize) {
                previous.next = packet;
            }
            return;
        }
        let number = self.runs.len() as u32;
        self.runs.push(Run {
            socket,
            destination,
            segment_bytes: bytes,
            count: 1,
            first: packet,
            last: packet,
            closed: false,
        });
        self.open.insert((socket, destination), number);
        self.latest = Some(number);
    }

    /// The destination's newest run; packets of a burst mostly follow one another.
    fn open_run(&mut self, socket: u32, destination: SocketAddr) -> Option<&mut Run> {
        let same = |run: &Run| run.socket == socket && run.destination == destination;
        let latest = self.latest.filter(|at| self.runs.get(*at as usize).is_some_and(same));
        let number = latest.or_else(|| self.open.get(&(socket, destination)).copied())?;
        self.latest = Some(number);
        self.runs.get_mut(number as usize)
    }

    /// Whether the packet that was added last goes there as well.
    pub fn ends_at(&self, socket: u32, destination: SocketAddr) -> bool {
        let latest = self.latest.and_then(|at| self.runs.get(at as usize));
        latest.is_some_and(|run| run.socket == socket && run.destination == destination)
    }

    /// The runs in the order in which they must be sent.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The packets of a run, in order.
    pub fn packets<'a>(&'a self, run: &Run) -> impl Iterator<Item = &'a [u8]> {
        let mut at = run.first;
        std::iter::from_fn(move || {
            let packet = self.packets.get(at as usize)?;
            at = packet.next;
            Some(packet.contents.as_slice())
        })
    }

    /// Packets added since the last clear.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Nothing to send.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Forgets everything, keeping the memory.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.runs.clear();
        self.open.clear();
        self.latest = None;
    }
}

impl Run {
    fn accepts(&self, bytes: usize) -> bool {
        let fits = (self.count + 1) * self.segment_bytes <= RUN_BYTES_MAX;
        !self.closed && self.count < SEGMENTS_MAX && fits && bytes <= self.segment_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn shape(runs: &Runs) -> Vec<(u16, Vec<usize>)> {
        runs.runs()
            .iter()
            .map(|run| (run.destination.port(), runs.packets(run).map(<[u8]>::len).collect()))
            .collect()
    }

    #[test]
    fn a_frame_is_one_run_even_when_destinations_alternate() {
        let mut runs = Runs::default();
        for size in [1100, 1100, 1099] {
            for port in [1, 2] {
                runs.push(0, address(port), vec![0; size]);
            }
        }
        assert_eq!(shape(&runs), [(1, vec![1100, 1100, 1099]), (2, vec![1100, 1100, 1099])]);
    }

    #[test]
    fn a_smaller_packet_closes_a_run_and_a_larger_one_opens_another() {
        let mut runs = Runs::default();
        for size in [100, 50, 50, 60] {
            runs.push(0, address(1), vec![0; size]);
        }
        assert_eq!(shape(&runs), [(1, vec![100, 50]), (1, vec![50]), (1, vec![60])]);
    }

    #[test]
    fn runs_are_bounded_and_keep_the_order() {
        let mut runs = Runs::default();
        for number in 0..20_u8 {
            runs.push(0, address(1), vec![number; 10]);
        }
        let order: Vec<u8> = runs
            .runs()
            .iter()
            .flat_map(|run| runs.packets(run).map(|packet| packet[0]).collect::<Vec<_>>())
            .collect();
        assert_eq!(order, (0..20).collect::<Vec<u8>>());
        assert!(runs.runs().iter().all(|run| run.count <= SEGMENTS_MAX));
        assert_eq!(runs.runs().len(), 3);
        assert!(runs.ends_at(0, address(1)) && !runs.ends_at(0, address(2)));
        runs.clear();
        assert!(runs.is_empty() && runs.runs().is_empty());
    }

    #[test]
    fn sockets_are_kept_apart() {
        let mut runs = Runs::default();
        runs.push(0, address(1), vec![0; 10]);
        runs.push(1, address(1), vec![0; 10]);
        assert_eq!(runs.runs().len(), 2);
    }
}
