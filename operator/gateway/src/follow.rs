//! Keeps the directory up to date from the leader's stream, and has those looked at that it misses.
//!
//! Decides when to open the stream anew. Invariant: whatever happens to the stream, what the
//! directory knows stays; only the leader's word changes it.

use std::sync::Arc;
use std::time::Duration;

use placement_api::v1::DirectoryUpdate;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::directory::Directory;
use crate::metrics::Metrics;
use crate::placer::Placer;
use crate::sight::Lookout;

/// First and longest pause before the stream is opened again.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Follows the directory until `stop`.
pub async fn follow(
    directory: Arc<Directory>,
    placer: Arc<Placer>,
    tenant: String,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let lookout = Lookout::new(Arc::clone(&directory), metrics.clone(), stop.clone());
    let mut pause = RETRY_FIRST;
    while !stop.is_cancelled() {
        if let Some(Some((address, stream))) = stop.run_until_cancelled(placer.directory()).await {
            placer.led_by(address);
            let mut leader = placer.leader();
            leader.mark_unchanged();
            metrics.directory_connected.set(1);
            let led_away = async {
                // Routing found another leader: this stream may be a former leader's.
                while leader.changed().await.is_ok() && *leader.borrow() == Some(address) {}
            };
            let reader = Reader {
                directory: &directory,
                placer: &placer,
                lookout: &lookout,
                tenant: &tenant,
            };
            let heard = tokio::select! {
                heard = reader.read(stream, &metrics) => heard,
                () = led_away => true,
                () = stop.cancelled() => return,
            };
            metrics.directory_connected.set(0);
            tracing::info!("the directory's stream ended; what is known stays in use");
            if heard {
                pause = RETRY_FIRST;
            }
        }
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// What reads one stream.
struct Reader<'a> {
    directory: &'a Directory,
    placer: &'a Placer,
    lookout: &'a Arc<Lookout>,
    tenant: &'a str,
}

impl Reader<'_> {
    /// Reads until the stream ends; whether anything came.
    async fn read(&self, mut stream: Streaming<DirectoryUpdate>, metrics: &Metrics) -> bool {
        let mut heard = false;
        while let Ok(Some(update)) = stream.message().await {
            heard = true;
            let applied = self.directory.apply(&update, self.tenant);
            let refused = |reason: &str, count: u32| {
                metrics.directory_refused.with_label_values(&[reason]).inc_by(u64::from(count));
            };
            refused("endpoint", applied.endpoints_refused);
            refused("room", applied.rooms_refused);
            if applied.stale {
                refused("epoch", 1);
                // A former leader: look for the present one.
                return false;
            }
            self.placer.saw_epoch(update.epoch);
            self.lookout.look();
            for name in &update.media_nodes_gone {
                tracing::info!(
                    media_node = name,
                    "a media node is gone; its WebSockets are closed"
                );
            }
            let (rooms, media_nodes) = self.directory.size();
            metrics.directory_rooms.set(i64::try_from(rooms).unwrap_or(i64::MAX));
            metrics.directory_media_nodes.set(i64::try_from(media_nodes).unwrap_or(i64::MAX));
        }
        heard
    }
}
