//! Looks for itself at media nodes that the placer has lost sight of.
//!
//! Decides whether this gateway reaches them. Invariant: WebSockets are closed only when neither
//! the placer hears the media node nor a connection to it can be made from here; while nobody has
//! lost sight of anybody, nothing is sent.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::directory::{Directory, Reach};
use crate::metrics::Metrics;

/// How long a connection may take to be made. The kernel of a media node answers, however busy its
/// processes are, and it is on the same network.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// Connections tried before a media node is given up: one packet may be lost.
const TRIES: u32 = 2;
/// How often one is looked at while the placer does not see it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks at media nodes, each in a task of its own.
pub struct Lookout {
    directory: Arc<Directory>,
    metrics: Metrics,
    stop: CancellationToken,
    /// Bounded by the directory, which knows at most so many media nodes.
    looking: Mutex<HashSet<String>>,
}

impl Lookout {
    /// Looks until `stop`.
    #[must_use]
    pub fn new(directory: Arc<Directory>, metrics: Metrics, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { directory, metrics, stop, looking: Mutex::default() })
    }

    fn looking(&self) -> MutexGuard<'_, HashSet<String>> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to look at every media node that is out of the placer's sight, if nobody does yet.
    pub fn look(self: &Arc<Self>) {
        for name in self.directory.unseen() {
            if self.looking().insert(name.clone()) {
                let lookout = Arc::clone(self);
                tokio::spawn(async move {
                    let watched = lookout.watch(&name);
                    let _ = lookout.stop.run_until_cancelled(watched).await;
                    lookout.looking().remove(&name);
                });
            }
        }
    }

    /// Looks at one again and again, until the placer sees it or says that it is gone.
    async fn watch(&self, name: &str) {
        while let Some((address, reach)) = self.directory.unseen_address(name) {
            let found = reach_of(address).await;
            if found != reach && self.directory.note_reach(name, found) {
                let reached = found == Reach::Reached;
                tracing::info!(media_node = name, reached, "the placer does not see a media node");
                let word = if reached { "reached" } else { "unreachable" };
                self.metrics.media_nodes_unseen.with_label_values(&[word]).inc();
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

async fn reach_of(address: SocketAddr) -> Reach {
    for _ in 0..TRIES {
        match timeout(ANSWER_WITHIN, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Reach::Reached,
            // Nobody listens, or the network says that nobody is there: no use to ask again.
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => break,
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Reach::Unreachable
}
