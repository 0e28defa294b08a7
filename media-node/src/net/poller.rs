//! Waiting for packets, commands or a deadline: epoll with an eventfd to wake it from elsewhere.
//!
//! Invariant: a wake-up given before or during a wait is never lost, and many of them cost one.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Sockets a shard can have ready at once: a handful of addresses, with room to spare.
const EVENTS_MAX: usize = 16;
/// The token of the eventfd; sockets are numbered from 0.
const WAKE_TOKEN: u64 = u64::MAX;

/// Wakes a [`Poller`] from another thread.
#[derive(Clone)]
pub struct Waker {
    event: Arc<OwnedFd>,
    pending: Arc<AtomicBool>,
}

impl Waker {
    /// Makes the current or next wait return. Cheap when a wake-up is already pending.
    pub fn wake(&self) {
        if self.pending.swap(true, Ordering::AcqRel) {
            return;
        }
        let one: u64 = 1;
        // SAFETY: the descriptor lives as long as `self`; eight bytes are what an eventfd takes. A
        // failure (counter full) means that a wake-up is pending already.
        unsafe { libc::write(self.event.as_raw_fd(), (&raw const one).cast(), 8) };
    }
}

/// One epoll instance of one shard thread.
pub struct Poller {
    epoll: OwnedFd,
    event: Arc<OwnedFd>,
    pending: Arc<AtomicBool>,
    precise: bool,
}

impl Poller {
    /// An empty poller; [`Poller::add`] tells it what to watch.
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain system calls; results are checked before they become owned descriptors.
        let epoll = unsafe { owned(libc::epoll_create1(libc::EPOLL_CLOEXEC))? };
        // SAFETY: as above.
        let event = unsafe { owned(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))? };
        let poller = Self {
            epoll,
            event: Arc::new(event),
            pending: Arc::new(AtomicBool::new(false)),
            precise: true,
        };
        poller.watch(poller.event.as_raw_fd(), WAKE_TOKEN)?;
        Ok(poller)
    }

    /// A handle for other threads.
    pub fn waker(&self) -> Waker {
        Waker { event: Arc::clone(&self.event), pending: Arc::clone(&self.pending) }
    }

    /// Watches a socket for reading; `index` comes back from [`Poller::wait`].
    pub fn add(&self, socket: &impl AsRawFd, index: u32) -> io::Result<()> {
        self.watch(socket.as_raw_fd(), u64::from(index))
    }

    fn watch(&self, fd: RawFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: both descriptors are open; the kernel copies `event` during the call.
        let result = unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits until a socket is readable, a waker woke us or `timeout` is over, and pushes the
    /// indices of readable sockets to `ready`.
    pub fn wait(&mut self, timeout: Duration, ready: &mut Vec<u32>) -> io::Result<()> {
        ready.clear();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        let count = match self.wait_raw(&mut events, timeout) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        for event in events.iter().take(count) {
            let token = event.u64;
            if token == WAKE_TOKEN {
                self.clear_wake();
            } else {
                ready.push(token as u32);
            }
        }
        Ok(())
    }

    fn wait_raw(
        &mut self,
        events: &mut [libc::epoll_event; EVENTS_MAX],
        timeout: Duration,
    ) -> io::Result<usize> {
        let epoll = self.epoll.as_raw_fd();
        if self.precise {
            let limit = libc::timespec {
                tv_sec: timeout.as_secs().min(3600) as libc::time_t,
                tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
            };
            // SAFETY: the event array and the time are valid for the call; no signal mask is set.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    epoll,
                    events.as_mut_ptr(),
                    EVENTS_MAX as libc::c_int,
                    &raw const limit,
                    ptr::null::<libc::sigset_t>(),
                    0_usize,
                )
            };
            if count >= 0 {
                return Ok(count as usize);
            }
            let error = io::Error::last_os_error();
            // Kernels before 5.11 and tight seccomp profiles do not know the precise wait.
            match error.raw_os_error() {
                Some(libc::ENOSYS | libc::EPERM) => self.precise = false,
                _ => return Err(error),
            }
        }
        let milliseconds = timeout.as_micros().div_ceil(1000).min(3_600_000) as libc::c_int;
        // SAFETY: the event array is valid for the call.
        let count = unsafe {
            libc::epoll_wait(epoll, events.as_mut_ptr(), EVENTS_MAX as libc::c_int, milliseconds)
        };
        if count >= 0 { Ok(count as usize) } else { Err(io::Error::last_os_error()) }
    }

    fn clear_wake(&self) {
        let mut count: u64 = 0;
        // SAFETY: the eventfd is open and hands out exactly eight bytes.
        unsafe { libc::read(self.event.as_raw_fd(), (&raw mut count).cast(), 8) };
        // After the read: whoever queues from here on writes the eventfd anew.
        self.pending.store(false, Ordering::Release);
    }
}

/// Takes over a descriptor a system call returned.
///
/// # Safety
/// `fd` must be the unchecked result of a call that creates a descriptor.
unsafe fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the caller says that `fd` is new, hence ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Instant;

    #[test]
    fn wakes_for_packets_wakers_and_time() {
        let mut poller = Poller::new().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        poller.add(&socket, 3).unwrap();
        let mut ready = vec![9];
        let start = Instant::now();
        poller.wait(Duration::from_millis(5), &mut ready).unwrap();
        assert!(ready.is_empty() && start.elapsed() >= Duration::from_millis(5));

        let waker = poller.waker();
        waker.wake();
        waker.wake();
        poller.wait(Duration::from_secs(60), &mut ready).unwrap();
        assert!(ready.is_empty());
        waker.wake();
        poller.wait(Duration::from_secs(60), &mut ready).unwrap();

        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        poller.wait(Duration::from_secs(60), &mut ready).unwrap();
        assert_eq!(ready, [3]);
    }
}
