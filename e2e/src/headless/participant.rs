//! The handle of one headless participant.
//!
//! Starts the session's task and speaks with it through bounded queues. Invariant: when the
//! handle is dropped the task, its sockets and its WebSocket end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use livekit_contract::grants::{Claims, VideoGrant};
use livekit_contract::token::{ApiKey, mint};
use tokio::sync::{mpsc, oneshot};

use super::HeadlessError;
use super::ledger::{Histogram, Ledger, Received, TrackKey};
use super::link::{ANSWER_MAX, Trust};
use super::session::{Command, Session};

/// Commands, events and messages that wait; what a full queue cannot take is counted.
const QUEUE: usize = 1024;
/// Tokens minted here are valid for this long, in seconds.
const TOKEN_SECONDS: u64 = 6 * 3600;

/// How a participant behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Subscribe to everything that is published.
    pub auto_subscribe: bool,
    /// Certificates and address for connecting.
    pub trust: Trust,
    /// Local address of media sockets; by default the one that leads to the server.
    pub media_ip: Option<std::net::IpAddr>,
    /// Ask for this size of every video track (`UpdateTrackSettings`); by default the largest.
    pub video_size: Option<(u32, u32)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { auto_subscribe: true, trust: Trust::default(), media_ip: None, video_size: None }
    }
}

/// What happened to a participant.
#[derive(Debug, Clone, PartialEq)]
pub enum ParticipantEvent {
    /// In the room, and media flows or could flow.
    Joined,
    /// The WebSocket is gone; we are coming back.
    SignalLost,
    /// Back on the same transports.
    Resumed { after: Duration },
    /// Sent home with `Leave{RECONNECT}`, or lost: joining anew.
    Rejoining { reason: String },
    /// Back on new transports.
    Rejoined { after: Duration },
    /// A track was announced by someone else.
    TrackAnnounced(TrackKey),
    /// Who speaks, with the level, as the server says; level 0 has stopped.
    Speakers(Vec<(String, f32)>),
    /// The server muted or unmuted a track of ours.
    Muted { sid: String, muted: bool },
    /// Subscribed tracks were paused (`true`) or resumed for want of bandwidth.
    Paused(Vec<(String, bool)>),
    /// Gone for good.
    Ended { reason: String },
}

/// A user message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// Sender, as stamped by the server.
    pub identity: String,
    pub topic: Option<String>,
    pub payload: Vec<u8>,
}

/// Numbers of one participant.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// From the start of `connect` to the server's Join message.
    pub join: Duration,
    /// From the start of `connect` to connected transports.
    pub connected: Option<Duration>,
    pub packets_sent: u64,
    pub packets_received: u64,
    /// Datagrams that the local socket refused.
    pub send_blocked: u64,
    /// How late packets of ours were sent: the generator's own saturation.
    pub lateness: Histogram,
    pub resumes: u64,
    pub rejoins: u64,
    /// Where our media goes: the far end of the pair that ICE chose.
    pub media_to: Option<SocketAddr>,
    /// Where others' media comes from.
    pub media_from: Option<SocketAddr>,
    /// Every STUN and TURN server that we were ever told to ask.
    pub ice_urls: Vec<String>,
}

/// State that the task writes and the handle reads.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) ledger: Mutex<Ledger>,
    pub(super) totals: Mutex<Totals>,
    pub(super) queue_full: AtomicU64,
}

/// A lock whose holder panicked still guards plain numbers.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One participant in one room.
pub struct Participant {
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<ParticipantEvent>,
    data: mpsc::Receiver<Data>,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Participant {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Participant {
    /// Joins the room that `token` opens at `url` (`ws://host:port`, with any path prefix).
    /// Returns when the server has let us in and the transports are connected.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or does not answer in time.
    pub async fn connect(url: &str, token: &str, options: Options) -> Result<Self, HeadlessError> {
        let (commands, command_queue) = mpsc::channel(QUEUE);
        let (event_queue, events) = mpsc::channel(QUEUE);
        let (data_queue, data) = mpsc::channel(QUEUE);
        let (joined, ready) = oneshot::channel();
        let shared = Arc::new(Shared::default());
        let session = Session::new(url, token, options, Arc::clone(&shared))?;
        let session = session.with_queues(event_queue, data_queue, joined);
        let task = tokio::spawn(session.run(command_queue));
        let participant = Self { commands, events, data, shared, task };
        match tokio::time::timeout(ANSWER_MAX, ready).await {
            Ok(Ok(outcome)) => outcome.map(|()| participant),
            Ok(Err(_)) => Err(HeadlessError::Ended),
            Err(_) => Err(HeadlessError::Timeout("join", ANSWER_MAX)),
        }
    }

    /// Publishes a voice that never pauses. Returns the server's track id.
    ///
    /// # Errors
    /// When the server does not accept the track in time.
    pub async fn publish_audio(&self) -> Result<String, HeadlessError> {
        self.publish(|reply| Command::PublishAudio { reply }).await
    }

    /// Publishes a camera: VP8 at 30 frames a second, with three layers or one.
    ///
    /// # Errors
    /// When the server does not accept the track in time.
    pub async fn publish_video(&self, simulcast: bool) -> Result<String, HeadlessError> {
        self.publish(|reply| Command::PublishVideo { simulcast, reply }).await
    }

    async fn publish(
        &self,
        command: impl FnOnce(oneshot::Sender<String>) -> Command,
    ) -> Result<String, HeadlessError> {
        let (reply, accepted) = oneshot::channel();
        self.send(command(reply)).await?;
        match tokio::time::timeout(ANSWER_MAX, accepted).await {
            Ok(accepted) => accepted.map_err(|_| HeadlessError::Ended),
            Err(_) => Err(HeadlessError::Timeout("track_published", ANSWER_MAX)),
        }
    }

    /// What has been received, by track.
    #[must_use]
    pub fn received(&self) -> BTreeMap<TrackKey, Received> {
        lock(&self.shared.ledger).tracks.clone()
    }

    /// Begins all accounts anew, keeping who publishes what: for warm-up, and around a fault.
    pub fn reset_received(&self) {
        let mut ledger = lock(&self.shared.ledger);
        for received in ledger.tracks.values_mut() {
            *received = received.begun_anew();
        }
    }

    /// Our own numbers.
    #[must_use]
    pub fn totals(&self) -> Totals {
        lock(&self.shared.totals).clone()
    }

    /// Events and messages that nobody fetched in time and that were therefore dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.queue_full.load(Ordering::Relaxed)
    }

    /// The next user message; nothing when the participant has ended.
    pub async fn data(&mut self) -> Option<Data> {
        self.data.recv().await
    }

    /// The next event; nothing when the participant has ended.
    pub async fn event(&mut self) -> Option<ParticipantEvent> {
        self.events.recv().await
    }

    /// Events that have come since the last call.
    pub fn events(&mut self) -> Vec<ParticipantEvent> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    /// Sends a user message to everyone, or to `destinations`.
    ///
    /// # Errors
    /// When the participant has ended.
    pub async fn send_data(
        &self,
        payload: Vec<u8>,
        reliable: bool,
        destinations: Vec<String>,
    ) -> Result<(), HeadlessError> {
        self.send(Command::Data { payload, reliable, destinations }).await
    }

    /// Mutes or unmutes a track of ours.
    ///
    /// # Errors
    /// When the participant has ended.
    pub async fn mute(&self, sid: &str, muted: bool) -> Result<(), HeadlessError> {
        self.send(Command::Mute { sid: sid.to_owned(), muted }).await
    }

    /// Cuts the WebSocket as a lost network would; the participant resumes by itself.
    ///
    /// # Errors
    /// When the participant has ended.
    pub async fn cut_signal(&self) -> Result<(), HeadlessError> {
        self.send(Command::CutSignal).await
    }

    /// Leaves the room and ends.
    pub async fn disconnect(mut self) {
        if self.send(Command::Leave).await.is_ok() {
            let _aborted_or_late =
                tokio::time::timeout(Duration::from_secs(2), &mut self.task).await;
        }
    }

    async fn send(&self, command: Command) -> Result<(), HeadlessError> {
        self.commands.send(command).await.map_err(|_| HeadlessError::Ended)
    }
}

/// A token for `identity` in `room` that may publish, subscribe and send data.
///
/// # Errors
/// When it cannot be signed.
pub fn token(
    key: &str,
    secret: &str,
    room: &str,
    identity: &str,
) -> Result<String, livekit_contract::token::MintError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let claims = Claims {
        identity: identity.to_owned(),
        expires_at_unix_s: now + TOKEN_SECONDS,
        video: Some(VideoGrant::join(room)),
        ..Claims::default()
    };
    mint(&ApiKey::new(key, secret), &claims)
}

/// Time since `start`, for reports.
pub(super) fn since(start: Instant) -> Duration {
    Instant::now().saturating_duration_since(start)
}
