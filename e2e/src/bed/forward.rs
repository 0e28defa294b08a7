//! Forwards a TCP port, so that a browser finds the gateway at `localhost`, which it counts as a
//! secure context, whichever side of the door it is on. Looks at no byte.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Error, Result};

/// A page and its signalling want a handful; this many means that something leaks.
const CONNECTIONS_MAX: usize = 256;

/// A node that lost its power answers nothing at all; one on the same machine answers at once.
const ANSWER_MAX: Duration = Duration::from_millis(300);

/// Accepts on `listen` for as long as the process lives and connects each to one of `targets`,
/// the next one where the first does not answer.
///
/// # Errors
/// If the port is taken.
pub fn forward(listen: SocketAddr, targets: Vec<SocketAddr>) -> Result<()> {
    let listener = TcpListener::bind(listen).map_err(|source| Error::Machine {
        what: format!("cannot listen on {listen}: {source}"),
        remedy: "end what holds the port, or choose another",
    })?;
    let (open, targets) = (Arc::new(AtomicUsize::new(0)), Arc::new(targets));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
                open.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (open, targets) = (Arc::clone(&open), Arc::clone(&targets));
            std::thread::spawn(move || {
                // A broken connection is the browser's to notice.
                let _ = join(stream, &targets);
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    Ok(())
}

fn join(near: TcpStream, targets: &[SocketAddr]) -> io::Result<()> {
    let mut tries = targets.iter().map(|target| TcpStream::connect_timeout(target, ANSWER_MAX));
    let far = tries.find_map(io::Result::ok).ok_or(io::ErrorKind::ConnectionRefused)?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
    }
    let (near_twin, far_twin) = (near.try_clone()?, far.try_clone()?);
    let back = std::thread::spawn(move || copy(&far_twin, &near_twin));
    copy(&near, &far);
    let _ = back.join();
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
