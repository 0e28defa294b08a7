//! What has arrived on a UDP socket, with the time at which the kernel had it.
//!
//! Takes many datagrams per system call and tells when each reached this machine, so that a busy
//! generator does not pass its own lateness off as the server's. Reads no datagram. Invariant: no
//! pointer handed to the kernel outlives the call; a time of arrival is never in the future.
#![allow(unsafe_code, reason = "recvmmsg and its control messages have no safe wrapper")]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Datagrams per system call: a frame of the largest layer and what else comes with it.
const DATAGRAMS: usize = 16;
/// Longest datagram that is read, in bytes; media stays below 1,500.
const DATAGRAM_BYTES: usize = 2048;
/// Room for one control message with a time of two words.
const CONTROL_BYTES: usize = 64;

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

/// Buffers of one thread's sockets; they are used one after another.
pub(super) struct Inbox {
    contents: Box<[u8]>,
    addresses: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    lengths: Vec<usize>,
    arrivals: Vec<Instant>,
}

impl Default for Inbox {
    fn default() -> Self {
        // SAFETY: sockaddr_storage is plain old data; all-zero is a valid value (AF_UNSPEC).
        let address: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self {
            contents: vec![0; DATAGRAMS * DATAGRAM_BYTES].into_boxed_slice(),
            addresses: vec![address; DATAGRAMS].into_boxed_slice(),
            controls: vec![Control([0; CONTROL_BYTES]); DATAGRAMS].into_boxed_slice(),
            lengths: Vec::with_capacity(DATAGRAMS),
            arrivals: Vec::with_capacity(DATAGRAMS),
        }
    }
}

/// Asks the kernel to write down when datagrams arrive; without it the time of reading counts.
pub(super) fn stamp_arrivals(socket: &impl AsRawFd) {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open; the value is an int, as the option wants it.
    let _best_effort = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
}

impl Inbox {
    /// Takes what has arrived, up to a batch. True when there may be more.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> bool {
        self.lengths.clear();
        self.arrivals.clear();
        let taken = socket.try_io(Interest::READABLE, || {
            let count = self.receive_raw(socket.as_raw_fd())?;
            // A batch that is not full has emptied the socket; saying so spares another call.
            if count < DATAGRAMS { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match taken {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            // A refusal of an earlier packet by a server that is gone: ICE will notice.
            Err(_) => true,
        }
    }

    /// What the last call took: when it arrived, from where, and its contents.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = (Instant, SocketAddr, &[u8])> {
        let contents = self.contents.chunks(DATAGRAM_BYTES).zip(&self.lengths);
        let parts = contents.zip(&self.addresses).zip(&self.arrivals);
        parts.filter_map(|(((buffer, length), address), arrival)| {
            Some((*arrival, read_address(address)?, buffer.get(..*length)?))
        })
    }

    fn receive_raw(&mut self, fd: libc::c_int) -> io::Result<usize> {
        // SAFETY: both are plain old data; all-zero is a valid empty vector or message.
        let mut vectors: [libc::iovec; DATAGRAMS] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; DATAGRAMS] = unsafe { mem::zeroed() };
        let parts = self.contents.chunks_mut(DATAGRAM_BYTES).zip(&mut self.addresses);
        let parts = parts.zip(&mut self.controls).zip(vectors.iter_mut().zip(&mut messages));
        for (((buffer, address), control), (vector, message)) in parts {
            vector.iov_base = buffer.as_mut_ptr().cast();
            vector.iov_len = buffer.len();
            let header = &mut message.msg_hdr;
            header.msg_name = (&raw mut *address).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_BYTES as _;
        }
        // SAFETY: every pointer in `messages` points into `self` or this frame, both alive and
        // untouched until the call returns; the lengths are those of the buffers.
        let count = unsafe {
            libc::recvmmsg(
                fd,
                messages.as_mut_ptr(),
                DATAGRAMS as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        let (now, wall) = (Instant::now(), SystemTime::now());
        for message in messages.iter().take(count) {
            self.lengths.push(message.msg_len as usize);
            // SAFETY: the kernel filled this header during the call above.
            let stamped = unsafe { stamp(&message.msg_hdr) };
            let age = stamped.and_then(|stamped| wall.duration_since(UNIX_EPOCH + stamped).ok());
            self.arrivals.push(age.and_then(|age| now.checked_sub(age)).unwrap_or(now));
        }
        Ok(count)
    }
}

/// The time of arrival in a received header's control messages, since the Unix epoch.
///
/// # Safety
/// `header` must have been filled by recvmsg and its control buffer must still be alive.
unsafe fn stamp(header: &libc::msghdr) -> Option<Duration> {
    // SAFETY: the macro looks inside msg_control..msg_controllen, which the kernel set.
    let first = unsafe { libc::CMSG_FIRSTHDR(header) };
    if first.is_null() {
        return None;
    }
    // SAFETY: a non-null pointer is a complete cmsghdr.
    let control = unsafe { &*first };
    if control.cmsg_level != libc::SOL_SOCKET || control.cmsg_type != libc::SCM_TIMESTAMPNS {
        return None;
    }
    // SAFETY: SCM_TIMESTAMPNS carries one timespec.
    let time = unsafe { libc::CMSG_DATA(first).cast::<libc::timespec>().read_unaligned() };
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

fn read_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which type the kernel wrote; the storage fits every one.
            let v4 = unsafe { (&raw const *storage).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some((ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { (&raw const *storage).cast::<libc::sockaddr_in6>().read() };
            Some((Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port)).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends twenty datagrams, reads them later, and tells whether all say when they arrived.
    async fn stamped(sender: &UdpSocket, receiver: &UdpSocket, inbox: &mut Inbox) -> bool {
        let before = Instant::now();
        for number in 0..20_u8 {
            sender.send_to(&[number; 3], receiver.local_addr().unwrap()).await.unwrap();
        }
        let sent = Instant::now();
        // The lateness of the reader, which must not show.
        tokio::time::sleep(Duration::from_millis(20)).await;
        receiver.readable().await.unwrap();
        let (mut numbers, mut all) = (Vec::new(), true);
        loop {
            let more = inbox.receive(receiver);
            for (arrival, source, contents) in inbox.datagrams() {
                assert_eq!(source, sender.local_addr().unwrap());
                // Two clocks are read one after the other: allow for what lies in between.
                let slack = Duration::from_millis(5);
                all &= arrival + slack >= before && arrival <= sent + slack;
                numbers.push(contents[0]);
            }
            if !more {
                break;
            }
        }
        assert_eq!(numbers, (0..20).collect::<Vec<_>>());
        all
    }

    #[tokio::test]
    async fn datagrams_carry_the_time_at_which_they_arrived() {
        let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let receiver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        stamp_arrivals(&receiver);
        let mut inbox = Inbox::default();
        // The kernel begins to stamp a moment after it was asked to.
        for _ in 0..50 {
            if stamped(&sender, &receiver, &mut inbox).await {
                return;
            }
        }
        panic!("the kernel stamps nothing");
    }
}
