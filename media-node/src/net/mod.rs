//! The system calls of the packet path: epoll, eventfd, recvmmsg with GRO, sendmmsg with GSO.
//!
//! The only module of the media node with unsafe code; nothing in it knows rooms or WebRTC. It may
//! not block outside `Poller::wait` and may not allocate per packet. Invariant: no pointer handed
//! to the kernel outlives the call it was built for.
#![allow(
    unsafe_code,
    reason = "recvmmsg, sendmmsg, epoll and eventfd have no safe wrapper that batches"
)]

mod addr;
mod interfaces;
mod poller;
mod receive;
mod runs;
mod send;
mod thread;
mod udp;

pub use interfaces::local_addresses;
pub use poller::{Poller, Waker};
pub use receive::ReceiveBatch;
pub use runs::Runs;
pub use send::{SendBatch, SendCounters};
pub use thread::{cpu_time, pin_to_cpu, process_cpu_time};
pub use udp::UdpSocket;
