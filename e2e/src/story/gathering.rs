//! People of a story in one room: headless participants that publish, and weigh what they receive.
//! Says what they noticed; the test says what they may.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Runtime;

use super::{Meetings, Story};
use crate::cast::join_token;
use crate::headless::{Options, Participant, ParticipantEvent, TrackKind};

/// Packets of a track that say it flows: a second of sound, a few pictures.
const PACKETS_FLOW: u64 = 50;

/// Where tests are in the bed.
const MEDIA_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));

/// A busy machine joins three people in less.
const JOIN_SECONDS: u64 = 30;

/// What people of a gathering publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Sound alone, where many people are wanted and not many packets.
    Sound,
    /// Sound and a picture in three layers.
    SoundAndPicture,
}

impl Manner {
    const fn kinds(self) -> &'static [TrackKind] {
        match self {
            Self::Sound => &[TrackKind::Audio],
            Self::SoundAndPicture => &[TrackKind::Audio, TrackKind::Video],
        }
    }
}

/// People in one room.
pub struct Gathering<'a> {
    story: &'a Story,
    runtime: Runtime,
    manner: Manner,
    people: Vec<(String, Participant)>,
}

/// What the people of a gathering noticed since the last time they were asked.
#[derive(Debug, Clone, Default)]
pub struct Noticed {
    /// The longest pause in anyone's track.
    pub pause_max: Duration,
    /// Who did not receive what of whom in it, and how long ago it was over when it was asked for.
    pub pause_of: String,
    /// How often someone came back on the same transports.
    pub resumed: usize,
    /// How often someone had to join anew.
    pub rejoined: usize,
    /// Why, for each time.
    pub reasons: Vec<String>,
    /// Who is gone for good, and why.
    pub gone: Vec<String>,
}

impl<'a> Gathering<'a> {
    /// Lets `count` people join `room`, publish sound and picture, and wait for each other's.
    ///
    /// # Errors
    /// If someone does not get in, or does not receive everyone in time.
    pub fn begin(
        story: &'a Story,
        meetings: &Meetings<'_>,
        room: &str,
        count: usize,
    ) -> Result<Self> {
        let begin = Instant::now();
        let gathering = Self::join(story, meetings, room, count, Manner::SoundAndPicture)?;
        gathering.flow(JOIN_SECONDS)?;
        let took = begin.elapsed().as_secs_f64();
        story.say(&format!("{count} people meet in room {room} (after {took:.1} s)"));
        Ok(gathering)
    }

    /// Lets `count` people join `room` and publish; whether it flows is asked later.
    ///
    /// # Errors
    /// If someone does not get in.
    pub fn join(
        story: &'a Story,
        meetings: &Meetings<'_>,
        room: &str,
        count: usize,
        manner: Manner,
    ) -> Result<Self> {
        let runtime = Runtime::new().context("cannot start the participants' threads")?;
        let mut gathering = Self { story, runtime, manner, people: Vec::new() };
        let url = meetings.url()?;
        for n in 1..=count {
            let identity = format!("{room}-{n}");
            let token = join_token(&meetings.credentials, room, &identity)?;
            // Signalling goes through localhost, which leads to no media node.
            let options = Options { media_ip: Some(MEDIA_ADDRESS), ..Options::default() };
            let joined = gathering.runtime.block_on(async {
                let someone = Participant::connect(&url, &token, options).await?;
                someone.publish_audio().await?;
                if manner == Manner::SoundAndPicture {
                    someone.publish_video(true).await?;
                }
                Ok::<_, crate::headless::HeadlessError>(someone)
            });
            let someone = joined.with_context(|| format!("{identity} does not get in"))?;
            gathering.people.push((identity, someone));
        }
        Ok(gathering)
    }

    /// The one address that everybody's media goes to and comes from, as their own transports see
    /// it: where the room really is, whatever anybody says.
    ///
    /// # Errors
    /// If it is not one.
    pub fn media_address(&self) -> Result<SocketAddr> {
        let mut found = BTreeSet::new();
        for (who, someone) in &self.people {
            let totals = someone.totals();
            found.insert(totals.media_to.with_context(|| format!("{who} sends no media"))?);
            found.insert(totals.media_from.with_context(|| format!("{who} receives no media"))?);
        }
        let one = found.first().copied().context("nobody is there")?;
        ensure!(found.len() == 1, "their media goes to several places: {found:?}");
        Ok(one)
    }

    /// Every STUN and TURN server that anybody was told to ask.
    #[must_use]
    pub fn ice_urls(&self) -> BTreeSet<String> {
        self.people.iter().flat_map(|(_, someone)| someone.totals().ice_urls).collect()
    }

    /// Waits until everyone receives sound and picture of everyone else, from now on.
    ///
    /// # Errors
    /// If someone does not within `seconds`.
    pub fn flow(&self, seconds: u64) -> Result<Duration> {
        let begin = Instant::now();
        for (_, someone) in &self.people {
            someone.reset_received();
        }
        loop {
            let missing = self.missing();
            if missing.is_empty() {
                return Ok(begin.elapsed());
            }
            let late = begin.elapsed().as_secs() >= seconds;
            ensure!(!late, "after {seconds} s these do not flow: {}", missing.join(", "));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What does not flow, as `who receives no kind of whom`.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (who, someone) in &self.people {
            let received = someone.received();
            for (whom, _) in self.people.iter().filter(|(whom, _)| whom != who) {
                for kind in self.manner.kinds().iter().copied() {
                    let tracks = received
                        .iter()
                        .filter(|(key, _)| key.identity == *whom && key.kind == kind);
                    let packets: u64 = tracks.map(|(_, track)| track.packets).sum();
                    if packets < PACKETS_FLOW {
                        missing.push(format!("{who} has {packets} {kind:?} packets of {whom}"));
                    }
                }
            }
        }
        missing
    }

    /// Lets `fault` happen and waits at most `seconds` until everything flows again.
    ///
    /// # Errors
    /// If the fault cannot be made, or something does not flow again in time.
    pub fn through(
        &mut self,
        what: &str,
        seconds: u64,
        fault: impl FnOnce() -> Result<()>,
    ) -> Result<Noticed> {
        self.noticed();
        for (_, someone) in &self.people {
            someone.reset_received();
        }
        fault().with_context(|| format!("cannot make it happen: {what}"))?;
        let before = self.pause_max();
        self.flow(seconds).with_context(|| what.to_owned())?;
        let mut noticed = self.noticed();
        if before.0 > noticed.pause_max {
            (noticed.pause_max, noticed.pause_of) = before;
        }
        self.story.say(&format!(
            "{what}: longest pause {} ms ({}), {} resumed, {} joined anew, {} gone",
            noticed.pause_max.as_millis(),
            noticed.pause_of,
            noticed.resumed,
            noticed.rejoined,
            noticed.gone.len()
        ));
        for reason in &noticed.reasons {
            self.story.say(&format!("  joined anew because: {reason}"));
        }
        Ok(noticed)
    }

    fn pause_max(&self) -> (Duration, String) {
        let mut longest = (Duration::ZERO, String::new());
        for (who, someone) in &self.people {
            for (key, track) in someone.received() {
                if track.gap_max > longest.0 {
                    let gap = track.gaps.iter().find(|gap| gap.length == track.gap_max);
                    let ago = gap.map(|gap| (gap.from + gap.length).elapsed().as_secs_f64());
                    let ago = ago.map(|ago| format!(", {ago:.1} s ago")).unwrap_or_default();
                    let of = format!("{:?} of {} at {who}{ago}", key.kind, key.identity);
                    longest = (track.gap_max, of);
                }
            }
        }
        longest
    }

    fn noticed(&mut self) -> Noticed {
        let (pause_max, pause_of) = self.pause_max();
        let mut noticed = Noticed { pause_max, pause_of, ..Noticed::default() };
        for (who, someone) in &mut self.people {
            for event in someone.events() {
                match event {
                    ParticipantEvent::Resumed { .. } => noticed.resumed += 1,
                    ParticipantEvent::Rejoined { .. } => noticed.rejoined += 1,
                    ParticipantEvent::Rejoining { reason } => noticed.reasons.push(reason),
                    ParticipantEvent::Ended { reason } => {
                        noticed.gone.push(format!("{who}: {reason}"));
                    }
                    _ => {}
                }
            }
        }
        noticed
    }

    /// Everyone leaves.
    pub fn end(self) {
        let Self { runtime, people, .. } = self;
        for (_, someone) in people {
            runtime.block_on(someone.disconnect());
        }
    }
}
