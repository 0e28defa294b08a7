//! Asks for rooms and takes the time. Decides how questions are paced, and what counts as placed.
//!
//! Invariant: at most [`WAITING_MAX`] questions wait; what is due beyond them counts as refused.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use gateway::placer::{Placer, RouteError};
use placement_api::v1::{RoomKey, RouteReply, RouteRequest};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::TENANT;

/// Questions that may wait: at 500 a second, 8 s of a placer that has stopped to answer.
const WAITING_MAX: usize = 4_000;
/// Pause of one who asks until there is an answer.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// A load that does not slow down when answers do.
pub(super) struct Offer {
    pub(super) rooms_per_second: u32,
    pub(super) duration: Duration,
    /// Of the rooms' names.
    pub(super) prefix: &'static str,
}

/// What came of a load.
pub(super) struct Outcome {
    /// Ascending.
    latencies: Vec<Duration>,
    pub(super) refused: usize,
    took: Duration,
}

impl Outcome {
    fn new(mut latencies: Vec<Duration>, refused: usize, took: Duration) -> Self {
        latencies.sort_unstable();
        Self { latencies, refused, took }
    }

    /// Rooms placed each second, up to the last answer.
    pub(super) fn rooms_per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64().max(f64::EPSILON)
    }

    /// The latency that a part of the answers, 0 to 1, kept below.
    pub(super) fn quantile(&self, part: f64) -> Duration {
        let at = (self.latencies.len() as f64 * part) as usize;
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get(at.min(last)).copied().unwrap_or(Duration::MAX)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |part| self.quantile(part).as_secs_f64() * 1_000.0;
        write!(
            f,
            "{:.0} rooms/s placed, p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms, {} refused",
            self.rooms_per_second(),
            ms(0.50),
            ms(0.99),
            ms(1.0),
            self.refused
        )
    }
}

/// Asks for a new room.
pub(super) async fn ask(gateway: &Placer, name: String) -> Result<RouteReply, RouteError> {
    let room = Some(RoomKey { tenant: TENANT.to_owned(), name });
    gateway.route(&RouteRequest { room, create: true, ..RouteRequest::default() }).await
}

/// Whether the answer says where the room is.
fn placed(answer: &Result<RouteReply, RouteError>) -> bool {
    answer.as_ref().is_ok_and(|reply| reply.endpoint.is_some())
}

/// Offers rooms at a fixed rate.
pub(super) async fn open_loop(gateways: &[Arc<Placer>], offer: &Offer) -> Outcome {
    let begun = Instant::now();
    let rooms = offer.duration.as_secs_f64() * f64::from(offer.rooms_per_second);
    let mut waiting = JoinSet::new();
    let (mut latencies, mut refused) = (Vec::new(), 0);
    for (number, gateway) in (0..rooms as u32).zip(gateways.iter().cycle()) {
        let due = begun + Duration::from_secs(1) * number / offer.rooms_per_second;
        sleep_until(due).await;
        if waiting.len() >= WAITING_MAX {
            refused += 1;
            continue;
        }
        let (gateway, name) = (Arc::clone(gateway), format!("{}-{number}", offer.prefix));
        waiting.spawn(async move { (placed(&ask(&gateway, name).await), due.elapsed()) });
        while let Some(Ok((ok, took))) = waiting.try_join_next() {
            if ok { latencies.push(took) } else { refused += 1 }
        }
    }
    while let Some(Ok((ok, took))) = waiting.join_next().await {
        if ok { latencies.push(took) } else { refused += 1 }
    }
    Outcome::new(latencies, refused, begun.elapsed())
}

/// Offers the next room as soon as one of `at_once` questions is answered.
pub(super) async fn closed_loop(
    gateways: &[Arc<Placer>],
    at_once: usize,
    duration: Duration,
) -> Outcome {
    let begun = Instant::now();
    let mut askers = JoinSet::new();
    for (asker, gateway) in (0..at_once).zip(gateways.iter().cycle()) {
        let gateway = Arc::clone(gateway);
        askers.spawn(async move {
            let (mut latencies, mut refused) = (Vec::new(), 0);
            while begun.elapsed() < duration {
                let asked = Instant::now();
                let name = format!("ceiling-{asker}-{}", latencies.len() + refused);
                if placed(&ask(&gateway, name).await) {
                    latencies.push(asked.elapsed());
                } else {
                    refused += 1;
                }
            }
            (latencies, refused)
        });
    }
    let (mut latencies, mut refused) = (Vec::new(), 0);
    while let Some(Ok((more, failed))) = askers.join_next().await {
        latencies.extend(more);
        refused += failed;
    }
    Outcome::new(latencies, refused, begun.elapsed())
}

/// Asks for one new room after another until one is placed.
pub(super) async fn first_room(
    gateways: &[Arc<Placer>],
    prefix: &str,
    within: Duration,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut askers = JoinSet::new();
    for (number, gateway) in gateways.iter().enumerate() {
        let (gateway, prefix) = (Arc::clone(gateway), prefix.to_owned());
        askers.spawn(async move {
            for attempt in 0_u32.. {
                let name = format!("{prefix}-{number}-{attempt}");
                if placed(&ask(&gateway, name).await) || begun.elapsed() > within {
                    break;
                }
                sleep(ASK_AGAIN).await;
            }
        });
    }
    askers.join_next().await;
    if begun.elapsed() > within {
        bail!("no room was placed within {} s", within.as_secs());
    }
    Ok(())
}
