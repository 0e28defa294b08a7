//! The life of one headless participant: join, stay, resume, join again, leave.
//!
//! Decides when to connect and with what; the messages are in `signal`, the packets in `flow`.
//! Invariant: media goes on while the WebSocket is away; whatever the server does, the session
//! either comes back within its bounded tries or ends with a reason.

mod flow;
mod signal;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use livekit_contract::proto::{self, signal_request::Message};
use str0m::channel::ChannelId;
use str0m::media::Mid;
use tokio::sync::{mpsc, oneshot};

use super::HeadlessError;
use super::inbox::Inbox;
use super::ledger::TrackKey;
use super::link::{ANSWER_MAX, Link, LinkEvent};
use super::participant::{Data, Options, ParticipantEvent, Shared, lock, since};
use super::publication::Publication;
use super::transport::Transport;

/// Waits before the n-th try, in milliseconds (`client-sdk-js`, `DefaultReconnectPolicy`).
const RETRY_MS: [u64; 10] = [0, 300, 1200, 2700, 4800, 7000, 7000, 7000, 7000, 7000];
/// Tries to resume before everything is started anew.
const RESUMES_MAX: usize = 3;
/// Transports that are not connected this long after a join or their offer are given up.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How often the server is pinged when it does not say (`JoinResponse.ping_interval`).
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// How long its answer is waited for when it does not say (`JoinResponse.ping_timeout`).
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Messages that may wait for the channels to open, which takes a few round trips.
const UNSENT_MAX: usize = 64;
/// The longest the loop sleeps, so that a missed wake-up heals.
const SLEEP_MAX: Duration = Duration::from_millis(500);

/// What the handle asks for.
pub(super) enum Command {
    PublishAudio { reply: oneshot::Sender<String> },
    PublishVideo { simulcast: bool, reply: oneshot::Sender<String> },
    Data { payload: Vec<u8>, reliable: bool, destinations: Vec<String> },
    Mute { sid: String, muted: bool },
    CutSignal,
    Leave,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A join request is on its way.
    Joining,
    /// In the room with a WebSocket.
    Up,
    /// In the room, the WebSocket is being replaced.
    Resuming,
    Ended,
}

/// The two transports of protocol v0. The publisher's is offered with the first track or message
/// and not before, as SDKs do (`client-sdk-js`, `RTCEngine.ts`): who only listens has none.
struct Transports {
    publisher: Transport,
    subscriber: Transport,
    /// The server opens the subscriber's; otherwise nothing may be subscribed.
    subscribes: bool,
    /// `_reliable` and `_lossy` of the publisher's transport, and since when it is offered.
    channels: Option<Channels>,
    /// Messages that wait for their channel to open.
    unsent: Vec<Unsent>,
    /// Each was connected once; what ICE does later is in its own state.
    publisher_up: bool,
    subscriber_up: bool,
    connected: bool,
    /// Something must be offered once the pending answer has come.
    offer_due: bool,
    /// Section of the subscriber's transport to track id.
    sections: BTreeMap<String, String>,
    last_offer: String,
    last_answer: String,
}

#[derive(Debug, Clone, Copy)]
struct Channels {
    reliable: ChannelId,
    lossy: ChannelId,
    offered_at: Instant,
}

/// An encoded message, and whether it must arrive.
type Unsent = (Vec<u8>, bool);

impl Transports {
    /// Whether all that were begun so far are connected, or were.
    fn are_up(&self) -> bool {
        (self.subscriber_up || !self.subscribes) && (self.publisher_up || self.channels.is_none())
    }

    /// Whether one has been waited for too long, in a room since `joined_at`.
    fn are_late(&self, joined_at: Instant, now: Instant) -> bool {
        let since = self.channels.map_or(joined_at, |open| open.offered_at.max(joined_at));
        !self.are_up() && now > since + CONNECT_MAX
    }
}

/// State of the task.
pub(super) struct Session {
    url: String,
    token: String,
    options: Options,
    shared: Arc<Shared>,
    events: Option<mpsc::Sender<ParticipantEvent>>,
    data: Option<mpsc::Sender<Data>>,
    joined: Option<oneshot::Sender<Result<(), HeadlessError>>>,
    started: Instant,
    phase: Phase,
    link: Option<Link>,
    link_opened_at: Instant,
    retry_at: Option<Instant>,
    tries: usize,
    /// When the present absence began.
    away: Option<Instant>,
    joined_at: Option<Instant>,
    participant_sid: String,
    media_ip: IpAddr,
    transports: Option<Transports>,
    inbox: Inbox,
    publications: Vec<Publication>,
    replies: BTreeMap<String, oneshot::Sender<String>>,
    /// Track id to what it is.
    known: BTreeMap<String, TrackKey>,
    /// Participant id to identity.
    identities: BTreeMap<String, String>,
    keys: BTreeMap<Mid, (String, TrackKey)>,
    ping_at: Instant,
    ping_interval: Duration,
    /// When the server was heard last: by its first message, then by each answer to a ping.
    pong_at: Instant,
    ping_timeout: Duration,
    data_sequence: u32,
}

impl Session {
    pub(super) fn new(
        url: &str,
        token: &str,
        options: Options,
        shared: Arc<Shared>,
    ) -> Result<Self, HeadlessError> {
        let now = Instant::now();
        let media_ip = match options.media_ip {
            Some(ip) => ip,
            None => route_to(url, options.trust.address)?,
        };
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            token: token.to_owned(),
            options,
            shared,
            events: None,
            data: None,
            joined: None,
            started: now,
            phase: Phase::Joining,
            link: None,
            link_opened_at: now,
            retry_at: None,
            tries: 0,
            away: None,
            joined_at: None,
            participant_sid: String::new(),
            media_ip,
            transports: None,
            inbox: Inbox::default(),
            publications: Vec::new(),
            replies: BTreeMap::new(),
            known: BTreeMap::new(),
            identities: BTreeMap::new(),
            keys: BTreeMap::new(),
            ping_at: now + PING_INTERVAL,
            ping_interval: PING_INTERVAL,
            pong_at: now,
            ping_timeout: PING_TIMEOUT,
            data_sequence: 0,
        })
    }

    pub(super) fn with_queues(
        mut self,
        events: mpsc::Sender<ParticipantEvent>,
        data: mpsc::Sender<Data>,
        joined: oneshot::Sender<Result<(), HeadlessError>>,
    ) -> Self {
        self.events = Some(events);
        self.data = Some(data);
        self.joined = Some(joined);
        self
    }

    /// Runs until the participant leaves or cannot come back.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.open_link(false);
        while self.phase != Phase::Ended {
            let wake = tokio::time::Instant::from_std(self.wake_at());
            let Wake { link, command } = self.wait(&mut commands, wake).await;
            if let Some(event) = link {
                self.on_link(event);
            }
            match command {
                Some(Some(command)) => self.on_command(command),
                Some(None) => self.end("handle dropped"),
                None => {}
            }
            if let Err(error) = self.flow() {
                self.rejoin(&error.to_string());
            }
            self.on_time();
        }
    }

    /// Waits for whatever comes first.
    async fn wait(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        wake: tokio::time::Instant,
    ) -> Wake {
        let link = async {
            match &mut self.link {
                Some(link) => link.next().await,
                None => std::future::pending().await,
            }
        };
        let transports = self.transports.as_ref();
        let packets = async {
            let Some(transports) = transports else { return std::future::pending().await };
            tokio::select! {
                _ = transports.publisher.socket.readable() => {}
                _ = transports.subscriber.socket.readable() => {}
            }
        };
        tokio::select! {
            event = link => Wake { link: Some(event), command: None },
            command = commands.recv() => Wake { link: None, command: Some(command) },
            () = packets => Wake { link: None, command: None },
            () = tokio::time::sleep_until(wake) => Wake { link: None, command: None },
        }
    }

    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let transports = self.transports.iter();
        transports
            .flat_map(|both| [both.publisher.due(), both.subscriber.due()])
            .map(|due| due.unwrap_or(now))
            .chain(self.publications.iter().filter_map(Publication::due))
            .chain(self.retry_at)
            .chain([self.ping_at, now + SLEEP_MAX])
            .min()
            .unwrap_or(now)
    }

    fn open_link(&mut self, resume: bool) {
        let subscribe = u8::from(self.options.auto_subscribe);
        let mut wishes = format!("&auto_subscribe={subscribe}");
        if resume {
            wishes.push_str("&reconnect=1&sid=");
            wishes.push_str(&self.participant_sid);
        }
        let trust = self.options.trust.clone();
        self.link = Some(Link::open(&self.url, &self.token, &wishes, trust));
        self.link_opened_at = Instant::now();
        self.retry_at = None;
    }

    fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Open => {}
            LinkEvent::Message(message) => {
                if let Err(error) = self.on_message(*message) {
                    self.rejoin(&error.to_string());
                }
            }
            LinkEvent::Closed(reason) => self.on_link_lost(HeadlessError::Signal(reason)),
            LinkEvent::Refused { status, text } => {
                self.on_link_lost(HeadlessError::Refused { status, text });
            }
        }
    }

    fn on_link_lost(&mut self, error: HeadlessError) {
        self.link = None;
        let first = self.joined.take_if(|_| self.phase == Phase::Joining);
        if let Some(joined) = first {
            let _gone = joined.send(Err(error));
            self.phase = Phase::Ended;
            return;
        }
        match self.phase {
            Phase::Up => {
                self.tell(ParticipantEvent::SignalLost);
                self.away = Some(Instant::now());
                self.phase = Phase::Resuming;
                self.retry(true);
            }
            Phase::Resuming if matches!(error, HeadlessError::Refused { .. }) => {
                self.rejoin(&error.to_string());
            }
            Phase::Resuming | Phase::Joining => self.retry(false),
            Phase::Ended => {}
        }
    }

    /// Plans the next try, or gives up.
    fn retry(&mut self, first: bool) {
        self.tries = if first { 0 } else { self.tries + 1 };
        if self.phase == Phase::Resuming && self.tries >= RESUMES_MAX {
            self.rejoin("resume failed");
            return;
        }
        match RETRY_MS.get(self.tries) {
            Some(wait) => self.retry_at = Some(Instant::now() + Duration::from_millis(*wait)),
            None => self.end("no way back"),
        }
    }

    /// Starts everything anew, keeping what was published.
    fn rejoin(&mut self, reason: &str) {
        if self.phase == Phase::Ended {
            return;
        }
        self.tell(ParticipantEvent::Rejoining { reason: reason.to_owned() });
        let fresh = self.phase != Phase::Joining;
        self.link = None;
        self.transports = None;
        self.keys.clear();
        self.publications.iter_mut().for_each(Publication::detach);
        self.away.get_or_insert_with(Instant::now);
        self.phase = Phase::Joining;
        self.retry(fresh);
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.open_link(self.phase == Phase::Resuming);
        }
        if self.ping_at <= now {
            self.ping_at = now + self.ping_interval;
            let timestamp = i64::try_from(super::media::clock_ns(now) / 1_000_000).unwrap_or(0);
            self.send(Message::PingReq(proto::Ping { timestamp, rtt: 0 }));
        }
        self.miss_answers(now);
        let both = self.transports.as_ref().zip(self.joined_at);
        if both.is_some_and(|(both, joined_at)| both.are_late(joined_at, now)) {
            self.rejoin("transports did not connect");
        }
    }

    /// Gives up a WebSocket on which the server is silent.
    fn miss_answers(&mut self, now: Instant) {
        let (since, patience) = match self.phase {
            Phase::Up => (self.pong_at, self.ping_timeout),
            Phase::Joining | Phase::Resuming => (self.link_opened_at, ANSWER_MAX),
            Phase::Ended => return,
        };
        if self.link.is_some() && now > since + patience {
            self.on_link_lost(HeadlessError::Signal("the server does not answer".to_owned()));
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::PublishAudio { reply } => self.publish(Publication::audio("mic"), reply),
            Command::PublishVideo { simulcast, reply } => {
                self.publish(Publication::video("camera", simulcast), reply);
            }
            Command::Data { payload, reliable, destinations } => {
                self.send_data(payload, reliable, destinations);
            }
            Command::Mute { sid, muted } => {
                for publication in &mut self.publications {
                    if publication.sid.as_deref() == Some(&sid) {
                        publication.muted = muted;
                    }
                }
                self.send(Message::Mute(proto::MuteTrackRequest { sid, muted }));
            }
            Command::CutSignal => {
                self.on_link_lost(HeadlessError::Signal("cut".to_owned()));
            }
            Command::Leave => {
                self.send(Message::Leave(proto::LeaveRequest::default()));
                self.phase = Phase::Ended;
            }
        }
    }

    fn publish(&mut self, publication: Publication, reply: oneshot::Sender<String>) {
        self.replies.insert(publication.cid.clone(), reply);
        if self.phase == Phase::Up {
            self.send(Message::AddTrack(publication.announcement()));
        }
        self.publications.push(publication);
    }

    fn send(&self, message: Message) {
        if let Some(link) = &self.link {
            link.send(message);
        }
    }

    fn tell(&self, event: ParticipantEvent) {
        let full = self.events.as_ref().is_some_and(|events| events.try_send(event).is_err());
        self.shared.queue_full.fetch_add(u64::from(full), Ordering::Relaxed);
    }

    /// What the room needs is connected: whoever waits for us hears of it.
    fn on_connected(&mut self) {
        let mut totals = lock(&self.shared.totals);
        if let Some(joined) = self.joined.take() {
            totals.connected = Some(since(self.started));
            drop(totals);
            self.tell(ParticipantEvent::Joined);
            let _gone = joined.send(Ok(()));
        } else if let Some(away) = self.away.take() {
            totals.rejoins += 1;
            drop(totals);
            self.tell(ParticipantEvent::Rejoined { after: since(away) });
        }
    }

    fn end(&mut self, reason: &str) {
        self.phase = Phase::Ended;
        self.tell(ParticipantEvent::Ended { reason: reason.to_owned() });
        if let Some(joined) = self.joined.take() {
            let _gone = joined.send(Err(HeadlessError::SentAway(reason.to_owned())));
        }
    }
}

struct Wake {
    link: Option<LinkEvent>,
    /// `Some(None)`: the handle is gone.
    command: Option<Option<Command>>,
}

/// The local address from which packets go to the server. Sends nothing.
fn route_to(url: &str, address: Option<SocketAddr>) -> Result<IpAddr, HeadlessError> {
    let server = match address {
        Some(address) => address,
        None => {
            let uri: http::Uri = url.parse().map_err(|_| HeadlessError::Url(url.to_owned()))?;
            let host = uri.host().ok_or_else(|| HeadlessError::Url(url.to_owned()))?;
            let host = host.trim_matches(['[', ']']).to_owned();
            let mut addresses = (host.as_str(), uri.port_u16().unwrap_or(80)).to_socket_addrs()?;
            addresses.next().ok_or_else(|| HeadlessError::Url(url.to_owned()))?
        }
    };
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}
