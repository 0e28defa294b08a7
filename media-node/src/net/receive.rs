//! Receiving: one recvmmsg takes up to 32 messages, each of which GRO may have glued together.
//!
//! Invariant: the caller sees single datagrams in arrival order, never a glued one.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::ptr;

use super::addr::RawAddress;
use super::udp::UdpSocket;

/// Messages per system call; batches above 32 get worse on the cache (media-engine.md §6).
const MESSAGES: usize = 32;
/// GRO glues up to 64 KiB; a shorter buffer would cut the tail off silently.
const BUFFER_BYTES: usize = 65_536;
/// One control message with an int fits in 24 bytes; 64 leave room for one more.
const CONTROL_BYTES: usize = 64;

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

/// Reusable buffers of one shard.
pub struct ReceiveBatch {
    buffers: Vec<u8>,
    addresses: Vec<RawAddress>,
    controls: Vec<Control>,
    received: Vec<(usize, usize)>,
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self {
            buffers: vec![0; MESSAGES * BUFFER_BYTES],
            addresses: vec![RawAddress::empty(); MESSAGES],
            controls: vec![Control([0; CONTROL_BYTES]); MESSAGES],
            received: Vec::with_capacity(MESSAGES),
        }
    }
}

impl ReceiveBatch {
    /// Receives once without blocking and hands every datagram to `each`. Returns whether the batch
    /// was full, that is whether there may be more.
    pub fn receive(
        &mut self,
        socket: &UdpSocket,
        mut each: impl FnMut(SocketAddr, &[u8]),
    ) -> io::Result<bool> {
        let count = match self.receive_raw(socket) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            // ICMP errors of earlier sends surface here; they concern one destination only.
            Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        let messages = self.received.iter().zip(&self.addresses);
        for ((&(length, segment), address), buffer) in
            messages.zip(self.buffers.chunks(BUFFER_BYTES)).take(count)
        {
            let (Some(source), Some(contents)) = (address.get(), buffer.get(..length)) else {
                continue;
            };
            if segment == 0 || segment >= length {
                each(source, contents);
            } else {
                contents.chunks(segment).for_each(|datagram| each(source, datagram));
            }
        }
        Ok(count == MESSAGES)
    }

    /// Fills `received` with (length, GRO segment size or 0) per message.
    fn receive_raw(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let mut vectors: [libc::iovec; MESSAGES] =
            [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; MESSAGES];
        // SAFETY: mmsghdr is plain old data; all-zero is a valid empty message.
        let mut messages: [libc::mmsghdr; MESSAGES] = unsafe { mem::zeroed() };
        let parts = self
            .buffers
            .chunks_mut(BUFFER_BYTES)
            .zip(&mut self.addresses)
            .zip(&mut self.controls)
            .zip(vectors.iter_mut().zip(&mut messages));
        for (((buffer, address), control), (vector, message)) in parts {
            vector.iov_base = buffer.as_mut_ptr().cast();
            vector.iov_len = buffer.len();
            let header = &mut message.msg_hdr;
            header.msg_name = (&raw mut address.storage).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            if socket.gro {
                header.msg_control = control.0.as_mut_ptr().cast();
                header.msg_controllen = CONTROL_BYTES as _;
            }
        }
        // SAFETY: every pointer in `messages` points into `self` or this frame, both alive and
        // untouched until the call returns; the lengths are those of the buffers.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                MESSAGES as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        self.received.clear();
        for message in messages.iter().take(count as usize) {
            // SAFETY: the kernel filled this header during the call above.
            let segment = unsafe { gro_segment(&message.msg_hdr) };
            self.received.push((message.msg_len as usize, segment));
        }
        Ok(count as usize)
    }
}

/// The GRO segment size in a received header's control messages, or 0.
///
/// # Safety
/// `header` must have been filled by recvmsg and its control buffer must still be alive.
unsafe fn gro_segment(header: &libc::msghdr) -> usize {
    if header.msg_control.is_null() {
        return 0;
    }
    // SAFETY: the macros walk inside msg_control..msg_controllen, which the kernel set.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !at.is_null() {
        // SAFETY: a non-null pointer of the walk is a complete cmsghdr.
        let control = unsafe { &*at };
        if control.cmsg_level == libc::SOL_UDP && control.cmsg_type == libc::UDP_GRO {
            // SAFETY: UDP_GRO carries one int.
            let size = unsafe { libc::CMSG_DATA(at).cast::<libc::c_int>().read_unaligned() };
            return usize::try_from(size).unwrap_or(0);
        }
        // SAFETY: as above.
        at = unsafe { libc::CMSG_NXTHDR(header, at) };
    }
    0
}
