//! The ways back from a shard: to WebSockets, to callers, to media TCP connections.
//!
//! Decides what happens when one of them does not take what it gets: it is cut off and counted,
//! nobody else notices. Invariant: nothing here waits.

use std::collections::HashMap;
use std::net::SocketAddr;

use media_core::ids::{ConnectionId, RequestId};
use media_core::io::AdminReply;
use tokio::sync::{mpsc, oneshot};

use super::ToClient;

/// A media TCP connection is known by both its ends.
type TcpKey = (SocketAddr, SocketAddr);

/// What became of a message to a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Queued,
    /// Nobody is there any more; the core has been or will be told.
    Gone,
    /// It did not read and was cut off; the core must be told.
    CutOff,
}

/// Everything a shard sends to besides UDP.
#[derive(Default)]
pub(super) struct Connections {
    clients: HashMap<ConnectionId, mpsc::Sender<ToClient>>,
    callers: HashMap<RequestId, oneshot::Sender<AdminReply>>,
    streams: HashMap<TcpKey, mpsc::Sender<Vec<u8>>>,
    next_request: u64,
}

impl Connections {
    pub(super) fn attach(&mut self, id: ConnectionId, outgoing: mpsc::Sender<ToClient>) {
        self.clients.insert(id, outgoing);
    }

    pub(super) fn detach(&mut self, id: ConnectionId) {
        self.clients.remove(&id);
    }

    pub(super) fn deliver(&mut self, id: ConnectionId, message: ToClient) -> Delivery {
        let Some(client) = self.clients.get(&id) else {
            return Delivery::Gone;
        };
        match client.try_send(message) {
            Ok(()) => Delivery::Queued,
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.clients.remove(&id);
                Delivery::Gone
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.clients.remove(&id);
                Delivery::CutOff
            }
        }
    }

    /// Keeps the caller until the core answers and returns the number to ask with.
    pub(super) fn expect(&mut self, caller: oneshot::Sender<AdminReply>) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.callers.insert(id, caller);
        id
    }

    pub(super) fn answer(&mut self, id: RequestId, reply: AdminReply) {
        if let Some(caller) = self.callers.remove(&id) {
            // A caller that gave up has dropped its end.
            let _ = caller.send(reply);
        }
    }

    pub(super) fn open_stream(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        outgoing: mpsc::Sender<Vec<u8>>,
    ) {
        self.streams.insert((source, destination), outgoing);
    }

    pub(super) fn close_stream(&mut self, source: SocketAddr, destination: SocketAddr) {
        self.streams.remove(&(source, destination));
    }

    /// Sends a frame from our `local` end to `remote`; false when it was dropped.
    pub(super) fn send_frame(
        &self,
        remote: SocketAddr,
        local: SocketAddr,
        contents: Vec<u8>,
    ) -> bool {
        let stream = self.streams.get(&(remote, local));
        stream.is_some_and(|stream| stream.try_send(contents).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use media_core::io::CloseReason;

    #[test]
    fn who_does_not_read_is_cut_off_and_others_are_not() {
        let mut connections = Connections::default();
        let (slow, mut slow_end) = mpsc::channel(1);
        let (quick, mut quick_end) = mpsc::channel(8);
        connections.attach(ConnectionId(1), slow);
        connections.attach(ConnectionId(2), quick);
        let close = || ToClient::Close(CloseReason::Left);
        assert_eq!(connections.deliver(ConnectionId(1), close()), Delivery::Queued);
        assert_eq!(connections.deliver(ConnectionId(1), close()), Delivery::CutOff);
        assert_eq!(connections.deliver(ConnectionId(1), close()), Delivery::Gone);
        assert_eq!(connections.deliver(ConnectionId(2), close()), Delivery::Queued);
        assert!(slow_end.try_recv().is_ok() && quick_end.try_recv().is_ok());
        assert!(matches!(slow_end.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
    }
}
