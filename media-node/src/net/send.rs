//! Sending: the runs of one wake-up leave by as few sendmmsg calls as the kernel takes.
//!
//! Packets are gathered by iovec, never copied. Where the kernel or a driver refuses GSO (EINVAL,
//! EIO) the socket falls back to single packets for good. A full socket buffer drops and counts:
//! late media is worth less than the next packet. Invariant: a shard never waits here.

use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use super::addr::RawAddress;
use super::runs::{Run, Runs};
use super::udp::UdpSocket;

/// Messages per system call: the kernel's own limit is 1,024; 64 keep the arrays in the cache.
const MESSAGES: usize = 64;
/// One control message with the segment size, aligned as the kernel wants it.
const CONTROL_BYTES: usize = 32;

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

/// What sending did since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendCounters {
    pub packets: u64,
    pub bytes: u64,
    /// Messages given to the kernel; packets / messages is the achieved GSO run length.
    pub messages: u64,
    /// Packets dropped because the socket buffer was full.
    pub dropped_full: u64,
    /// Packets the kernel refused for another reason (no route, message too long).
    pub dropped_refused: u64,
    /// Sockets that fell back to single packets.
    pub gso_fallbacks: u64,
}

/// Reusable arrays of one shard.
#[derive(Default)]
pub struct SendBatch {
    vectors: Vec<libc::iovec>,
    addresses: Vec<RawAddress>,
    controls: Vec<Control>,
    messages: Vec<libc::mmsghdr>,
    counters: SendCounters,
}

impl SendBatch {
    /// Sends everything in `runs` and clears it.
    pub fn flush(&mut self, sockets: &mut [UdpSocket], runs: &mut Runs) {
        for (index, socket) in sockets.iter_mut().enumerate() {
            let mine: Vec<&Run> =
                runs.runs().iter().filter(|run| run.socket as usize == index).collect();
            for batch in mine.chunks(MESSAGES) {
                self.send(socket, runs, batch);
            }
        }
        runs.clear();
    }

    /// The counters so far.
    pub fn counters(&self) -> SendCounters {
        self.counters
    }

    fn send(&mut self, socket: &mut UdpSocket, runs: &Runs, batch: &[&Run]) {
        let mut rest = batch;
        while let Some(head) = rest.first() {
            if !socket.gso && head.count > 1 {
                self.send_singly(socket, runs, head);
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            match self.send_messages(socket, runs, rest) {
                Ok(sent) => {
                    let (done, left) = rest.split_at(sent.clamp(1, rest.len()));
                    done.iter().for_each(|run| self.count_sent(runs, run));
                    rest = left;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::ENOBUFS) => {
                        let packets: usize = rest.iter().map(|run| run.count).sum();
                        self.counters.dropped_full += packets as u64;
                        return;
                    }
                    Some(libc::EINVAL | libc::EIO) if head.count > 1 => {
                        socket.gso = false;
                        self.counters.gso_fallbacks += 1;
                    }
                    _ => {
                        self.counters.dropped_refused += head.count as u64;
                        rest = rest.get(1..).unwrap_or_default();
                    }
                },
            }
        }
    }

    fn count_sent(&mut self, runs: &Runs, run: &Run) {
        self.counters.messages += 1;
        self.counters.packets += run.count as u64;
        self.counters.bytes += runs.packets(run).map(|packet| packet.len() as u64).sum::<u64>();
    }

    /// The fall-back without GSO: one message per packet.
    fn send_singly(&mut self, socket: &UdpSocket, runs: &Runs, run: &Run) {
        let address = RawAddress::of(run.destination);
        for packet in runs.packets(run) {
            // SAFETY: packet and address are alive for the call and have the lengths given.
            let sent = unsafe {
                libc::sendto(
                    socket.as_raw_fd(),
                    packet.as_ptr().cast(),
                    packet.len(),
                    libc::MSG_DONTWAIT,
                    (&raw const address.storage).cast(),
                    address.length,
                )
            };
            if sent >= 0 {
                self.counters.messages += 1;
                self.counters.packets += 1;
                self.counters.bytes += packet.len() as u64;
            } else if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock {
                self.counters.dropped_full += 1;
            } else {
                self.counters.dropped_refused += 1;
            }
        }
    }

    /// One sendmmsg; returns how many of `batch` the kernel took.
    fn send_messages(
        &mut self,
        socket: &UdpSocket,
        runs: &Runs,
        batch: &[&Run],
    ) -> io::Result<usize> {
        // Without GSO the run of several packets that comes next ends the batch.
        let usable = batch.iter().take_while(|run| socket.gso || run.count == 1).count();
        self.vectors.clear();
        self.addresses.clear();
        self.controls.clear();
        self.messages.clear();
        for run in batch.iter().take(usable) {
            self.vectors.extend(runs.packets(run).map(|packet| libc::iovec {
                iov_base: packet.as_ptr().cast_mut().cast(),
                iov_len: packet.len(),
            }));
            self.addresses.push(RawAddress::of(run.destination));
            self.controls.push(match run.count {
                1 => Control([0; CONTROL_BYTES]),
                _ => segment_control(run.segment_bytes),
            });
        }
        let mut vectors = self.vectors.as_mut_slice();
        let parts = self.addresses.iter_mut().zip(&mut self.controls);
        for (run, (address, control)) in batch.iter().zip(parts) {
            let (mine, left) = vectors.split_at_mut(run.count.min(vectors.len()));
            vectors = left;
            // SAFETY: mmsghdr is plain old data; all-zero is a valid empty message.
            let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
            message.msg_hdr.msg_name = (&raw mut address.storage).cast();
            message.msg_hdr.msg_namelen = address.length;
            message.msg_hdr.msg_iov = mine.as_mut_ptr();
            message.msg_hdr.msg_iovlen = mine.len() as _;
            if run.count > 1 {
                message.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
                // SAFETY: CMSG_SPACE only computes a size.
                message.msg_hdr.msg_controllen = unsafe { libc::CMSG_SPACE(2) } as _;
            }
            self.messages.push(message);
        }
        // SAFETY: every pointer in `messages` points into `self` or into `runs`, both borrowed
        // here and untouched until the call returns. The kernel does not write through iovecs.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                self.messages.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
            )
        };
        let failure = io::Error::last_os_error();
        // No pointer outlives the call.
        self.messages.clear();
        self.vectors.clear();
        if sent >= 0 { Ok(sent as usize) } else { Err(failure) }
    }
}

/// The control message that asks for segmentation at `bytes`.
fn segment_control(bytes: usize) -> Control {
    let mut control = Control([0; CONTROL_BYTES]);
    // SAFETY: msghdr is plain old data.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: the buffer is aligned and larger than one control message with two bytes of data.
    unsafe {
        let at = libc::CMSG_FIRSTHDR(&raw const header);
        if !at.is_null() {
            (*at).cmsg_level = libc::SOL_UDP;
            (*at).cmsg_type = libc::UDP_SEGMENT;
            (*at).cmsg_len = libc::CMSG_LEN(2) as _;
            libc::CMSG_DATA(at).cast::<u16>().write_unaligned(bytes as u16);
        }
    }
    control
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::ReceiveBatch;
    use std::net::SocketAddr;

    fn socket() -> UdpSocket {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        UdpSocket::bind(any, any).unwrap()
    }

    fn received(socket: &UdpSocket) -> Vec<Vec<u8>> {
        let mut batch = ReceiveBatch::default();
        let mut all = Vec::new();
        while batch.receive(socket, |_, packet| all.push(packet.to_vec())).unwrap() {}
        all
    }

    #[test]
    fn a_run_arrives_as_single_packets_in_order() {
        let receiver = socket();
        let mut senders = [socket()];
        let mut runs = Runs::default();
        let sent: Vec<Vec<u8>> =
            [(1, 1000), (2, 1000), (3, 1000), (4, 700), (5, 40)].map(|(n, l)| vec![n; l]).to_vec();
        for packet in &sent {
            runs.push(0, receiver.advertised(), packet.clone());
        }
        let mut batch = SendBatch::default();
        batch.flush(&mut senders, &mut runs);
        assert_eq!(received(&receiver), sent);
        let counters = batch.counters();
        assert_eq!((counters.packets, counters.bytes), (5, 3740));
        assert!(runs.is_empty());
    }

    #[test]
    fn without_gso_everything_still_arrives() {
        let receiver = socket();
        let mut sender = socket();
        sender.gso = false;
        let mut runs = Runs::default();
        for number in 0..100_u8 {
            runs.push(0, receiver.advertised(), vec![number; 100]);
        }
        let mut batch = SendBatch::default();
        batch.flush(&mut [sender], &mut runs);
        let numbers: Vec<u8> = received(&receiver).iter().map(|packet| packet[0]).collect();
        assert_eq!(numbers, (0..100).collect::<Vec<u8>>());
        assert_eq!(batch.counters().messages, 100);
    }

    #[test]
    fn a_packet_that_cannot_leave_does_not_hold_up_the_next() {
        let receiver = socket();
        let mut senders = [socket()];
        let mut runs = Runs::default();
        runs.push(0, receiver.advertised(), vec![0; 70_000]);
        runs.push(0, "[::1]:9".parse().unwrap(), vec![0; 10]);
        runs.push(0, receiver.advertised(), b"last".to_vec());
        let mut batch = SendBatch::default();
        batch.flush(&mut senders, &mut runs);
        assert_eq!(received(&receiver), [b"last".to_vec()]);
        assert_eq!(batch.counters().dropped_refused, 2);
    }
}
