//! Load on any LiveKit server: rooms, publishers and subscribers, and what they experienced.
//!
//! Starts headless participants, lets them run, and adds up their accounts. Knows nothing of the
//! server but its URL, key and, for CPU time, its process id. Invariant: what is printed covers
//! the measuring window only, and says so when the generator itself was the bottleneck.

pub mod bench;
mod process;
mod report;

use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::headless::{HeadlessError, Options, Participant, Received, TrackKind, token};
pub use process::Usage;
pub use report::Report;

/// Joins at once: enough to load a server's door, few enough that the generator keeps up.
const JOINS_AT_ONCE: usize = 16;
/// Tries of one participant to get in.
const JOIN_TRIES: u32 = 3;

/// What to do.
#[derive(Debug, Clone, clap::Parser)]
#[command(about = "Puts meetings on a LiveKit server and measures them")]
pub struct Settings {
    /// Server, as `ws://host:port`
    #[arg(long, default_value = "ws://127.0.0.1:7880")]
    pub url: String,
    /// API key
    #[arg(long, env = "LIVEKIT_API_KEY", default_value = "devkey")]
    pub key: String,
    /// API secret
    #[arg(long, env = "LIVEKIT_API_SECRET")]
    pub secret: String,
    /// Rooms at once
    #[arg(long, default_value_t = 1)]
    pub rooms: u32,
    /// Prefix of the rooms' names
    #[arg(long, default_value = "load")]
    pub room_prefix: String,
    /// Participants per room that publish audio only
    #[arg(long, default_value_t = 0)]
    pub audio_publishers: u32,
    /// Participants per room that publish video only
    #[arg(long, default_value_t = 0)]
    pub video_publishers: u32,
    /// Participants per room that publish both
    #[arg(long, default_value_t = 0)]
    pub publishers: u32,
    /// Participants per room that only receive
    #[arg(long, default_value_t = 1)]
    pub subscribers: u32,
    /// Publishers receive as well, as in a meeting
    #[arg(long)]
    pub publishers_subscribe: bool,
    /// One video layer instead of three
    #[arg(long)]
    pub no_simulcast: bool,
    /// Size at which subscribers show video, such as 320x180; by default the largest layer
    #[arg(long, value_parser = size)]
    pub video_size: Option<(u32, u32)>,
    /// Seconds before measuring begins
    #[arg(long, default_value_t = 5)]
    pub warm_up: u64,
    /// Seconds of measuring
    #[arg(long, default_value_t = 15)]
    pub duration: u64,
    /// Process id of the server, for CPU time per packet and memory
    #[arg(long)]
    pub server_pid: Option<u32>,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

fn size(text: &str) -> Result<(u32, u32), String> {
    let parsed = text
        .split_once('x')
        .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    parsed.ok_or_else(|| format!("`{text}` is not of the form 640x360"))
}

#[derive(Debug, Clone, Copy)]
struct Role {
    audio: bool,
    video: bool,
    subscribes: bool,
}

impl Settings {
    fn roles(&self) -> Vec<Role> {
        let subscribes = self.publishers_subscribe;
        let some = |count: u32, audio, video, subscribes| {
            std::iter::repeat_n(Role { audio, video, subscribes }, count as usize)
        };
        some(self.audio_publishers, true, false, subscribes)
            .chain(some(self.video_publishers, false, true, subscribes))
            .chain(some(self.publishers, true, true, subscribes))
            .chain(some(self.subscribers, false, false, true))
            .collect()
    }

    /// Tracks that one room's participants should receive together.
    fn tracks_expected(&self) -> u64 {
        let roles = self.roles();
        let tracks = |role: &Role| u64::from(role.audio) + u64::from(role.video);
        let published: u64 = roles.iter().map(tracks).sum();
        let each = |role: &Role| if role.subscribes { published - tracks(role) } else { 0 };
        roles.iter().map(each).sum::<u64>() * u64::from(self.rooms)
    }
}

struct Member {
    participant: Participant,
    subscribes: bool,
}

/// Runs the load.
///
/// # Errors
/// When nobody can join at all, or the server's process cannot be read.
pub async fn run(settings: &Settings) -> anyhow::Result<Report> {
    let gathering = Gathering::join(settings).await?;
    gathering.warm_up(settings).await;
    let report = gathering.measure(settings).await?;
    gathering.leave().await;
    Ok(report)
}

/// Everyone who is in.
struct Gathering {
    members: Vec<Member>,
    failures: Vec<HeadlessError>,
}

impl Gathering {
    async fn join(settings: &Settings) -> anyhow::Result<Self> {
        let (members, failures) = join_all(settings).await;
        if members.is_empty() {
            let reason = failures.first().map_or_else(String::new, ToString::to_string);
            anyhow::bail!("nobody could join {}: {reason}", settings.url);
        }
        Ok(Self { members, failures })
    }

    async fn warm_up(&self, settings: &Settings) {
        tokio::time::sleep(Duration::from_secs(settings.warm_up)).await;
    }

    async fn measure(&self, settings: &Settings) -> anyhow::Result<Report> {
        let before = Snapshot::take(settings, &self.members)?;
        for member in &self.members {
            member.participant.reset_received();
        }
        tokio::time::sleep(Duration::from_secs(settings.duration)).await;
        let after = Snapshot::take(settings, &self.members)?;
        Ok(add_up(settings, &self.members, &self.failures, &before, &after))
    }

    async fn leave(self) {
        let leaving = self.members.into_iter().map(|member| member.participant.disconnect());
        futures_util::future::join_all(leaving).await;
    }
}

async fn join_all(settings: &Settings) -> (Vec<Member>, Vec<HeadlessError>) {
    let gate = Semaphore::new(JOINS_AT_ONCE);
    let joins = (0..settings.rooms).flat_map(|room| {
        let roles = settings.roles().into_iter().enumerate();
        roles.map(move |(at, role)| (room, at, role))
    });
    let joining = joins.map(|(room, at, role)| {
        let gate = &gate;
        async move {
            let _permit = gate.acquire().await;
            join(settings, room, at, role).await
        }
    });
    let mut members = Vec::new();
    let mut failures = Vec::new();
    for outcome in futures_util::future::join_all(joining).await {
        match outcome {
            Ok(member) => members.push(member),
            Err(error) => failures.push(error),
        }
    }
    (members, failures)
}

async fn join(
    settings: &Settings,
    room: u32,
    at: usize,
    role: Role,
) -> Result<Member, HeadlessError> {
    let room = format!("{}-{room}", settings.room_prefix);
    let identity = format!("{room}-{at}");
    let token = token(&settings.key, &settings.secret, &room, &identity)
        .map_err(|error| HeadlessError::Signal(error.to_string()))?;
    let options = Options {
        auto_subscribe: role.subscribes,
        video_size: settings.video_size,
        ..Options::default()
    };
    let mut tries = 1;
    let participant = loop {
        match Participant::connect(&settings.url, &token, options.clone()).await {
            Ok(participant) => break participant,
            Err(error) if tries >= JOIN_TRIES => return Err(error),
            Err(_) => tries += 1,
        }
    };
    if role.audio {
        participant.publish_audio().await?;
    }
    if role.video {
        participant.publish_video(!settings.no_simulcast).await?;
    }
    Ok(Member { participant, subscribes: role.subscribes })
}

/// Counters at one moment.
struct Snapshot {
    at: Instant,
    sent: u64,
    send_blocked: u64,
    rejoins: u64,
    generator: Usage,
    server: Option<Usage>,
}

impl Snapshot {
    fn take(settings: &Settings, members: &[Member]) -> anyhow::Result<Self> {
        let totals: Vec<_> = members.iter().map(|member| member.participant.totals()).collect();
        Ok(Self {
            at: Instant::now(),
            sent: totals.iter().map(|totals| totals.packets_sent).sum(),
            send_blocked: totals.iter().map(|totals| totals.send_blocked).sum(),
            rejoins: totals.iter().map(|totals| totals.rejoins + totals.resumes).sum(),
            generator: Usage::of(std::process::id())?,
            server: settings.server_pid.map(Usage::of).transpose()?,
        })
    }
}

fn add_up(
    settings: &Settings,
    members: &[Member],
    failures: &[HeadlessError],
    before: &Snapshot,
    after: &Snapshot,
) -> Report {
    let mut report = Report {
        seconds: after.at.duration_since(before.at).as_secs_f64(),
        participants: members.len() as u64,
        joins_failed: failures.len() as u64,
        tracks_expected: settings.tracks_expected(),
        packets_in: after.sent - before.sent,
        send_blocked: after.send_blocked - before.send_blocked,
        reconnects: after.rejoins - before.rejoins,
        generator: after.generator.since(&before.generator),
        server: after.server.as_ref().zip(before.server.as_ref()).map(|(a, b)| a.since(b)),
        ..Report::default()
    };
    for member in members {
        let totals = member.participant.totals();
        report.join.add(totals.join);
        report.connected.add(totals.connected.unwrap_or(totals.join));
        report.lateness.merge(&totals.lateness);
        if !member.subscribes {
            continue;
        }
        for (key, track) in member.participant.received() {
            report.add_track(key.kind, &track);
        }
    }
    report
}

impl Report {
    fn add_track(&mut self, kind: TrackKind, track: &Received) {
        self.tracks_received += u64::from(track.packets > 0);
        self.packets_out += track.packets;
        self.bytes_out += track.bytes;
        self.lost += track.lost;
        self.late += track.late;
        self.disorder += track.disorder;
        self.corrupt += track.corrupt;
        self.gap_max = self.gap_max.max(track.gap_max);
        if kind == TrackKind::Video {
            self.freezes += track.freezes;
            self.frames += track.frames;
        }
        self.delay.merge(&track.delay);
    }
}
