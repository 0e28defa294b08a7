//! Headless participants meet on a media node of their own: media, data, resume, rejoin.
//!
//! Starts `media-node --dev` from this build on free ports of the loopback and ends it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::headless::{Options, Participant, ParticipantEvent, TrackKind, token};

/// The longest any single expectation may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    process: Child,
    url: String,
    key: String,
    secret: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _status = self.process.wait();
    }
}

fn free_port(kind: &str) -> u16 {
    let any = "127.0.0.1:0";
    match kind {
        "tcp" => std::net::TcpListener::bind(any).unwrap().local_addr().unwrap().port(),
        _ => std::net::UdpSocket::bind(any).unwrap().local_addr().unwrap().port(),
    }
}

/// The binary; built, unless the test command has done so.
fn media_node() -> Command {
    let target = std::env::current_exe().unwrap();
    let binary = target.parent().unwrap().parent().unwrap().join("media-node");
    if !binary.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "-p", "media-node"]).status();
        assert!(built.unwrap().success(), "media-node does not build");
    }
    let mut command = Command::new(binary);
    command.args(["--dev", "--media-addresses", "127.0.0.1", "--tcp-port", "off"]);
    command.stdout(Stdio::piped());
    command
}

/// Where a media node listens, and by which keys; one after another may take the place.
struct Place {
    signal: u16,
    admin: u16,
    udp: u16,
    keys: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _already_gone = std::fs::remove_file(&self.keys);
    }
}

/// A key for all media nodes of a place.
const KEY: (&str, &str) = ("APIplace", "0123456789abcdef0123456789abcdef");

impl Place {
    fn new() -> Self {
        let [signal, admin] = [free_port("tcp"), free_port("tcp")];
        let keys = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("keys-{signal}.yaml"));
        std::fs::write(&keys, format!("{}: {}\n", KEY.0, KEY.1)).unwrap();
        Self { signal, admin, udp: free_port("udp"), keys }
    }

    fn serve(&self) -> Server {
        let mut process = media_node()
            .args(["--signal-address", &format!("127.0.0.1:{}", self.signal)])
            .args(["--admin-address", &format!("127.0.0.1:{}", self.admin)])
            .args(["--udp-port-first", &self.udp.to_string()])
            .args(["--shards", "1", "--keys-file"])
            .arg(&self.keys)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line =
            lines.take(1).find_map(|line| Some(line.strip_prefix("url:")?.trim().to_owned()));
        Server { process, url: line.unwrap(), key: KEY.0.to_owned(), secret: KEY.1.to_owned() }
    }
}

fn serve() -> Server {
    Place::new().serve()
}

impl Server {
    /// Tells it to stop and waits until it has.
    async fn stop(mut self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let mut status = None;
        until("the media node ends", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        })
        .await;
        assert_eq!(status.and_then(|status| status.code()), Some(0));
    }

    async fn join(&self, identity: &str) -> Participant {
        let token = token(&self.key, &self.secret, "room", identity).unwrap();
        Participant::connect(&self.url, &token, Options::default()).await.unwrap()
    }
}

/// Waits until `ready` holds.
async fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let waiting = async {
        while !ready() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

async fn event(
    participant: &mut Participant,
    what: &str,
    wanted: impl Fn(&ParticipantEvent) -> bool,
) -> ParticipantEvent {
    let waiting = async {
        loop {
            let event = participant.event().await.unwrap();
            if wanted(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_participants_meet_talk_and_survive_a_lost_websocket() {
    let server = serve();
    let mut alice = server.join("alice").await;
    let mut bob = server.join("bob").await;
    alice.publish_audio().await.unwrap();
    alice.publish_video(true).await.unwrap();

    until("bob receives audio and the highest layer", || {
        let tracks = bob.received();
        let audio =
            tracks.iter().any(|(key, track)| key.kind == TrackKind::Audio && track.packets > 50);
        let video = tracks.iter().any(|(key, track)| {
            key.kind == TrackKind::Video && track.layer == 2 && track.frames > 30
        });
        audio && video
    })
    .await;
    for (key, track) in bob.received() {
        assert_eq!(key.identity, "alice");
        assert_eq!((track.disorder, track.corrupt), (0, 0), "{key:?}");
        assert_eq!(track.lost, 0, "{key:?}");
    }

    event(&mut bob, "alice speaks", |event| {
        matches!(event, ParticipantEvent::Speakers(speakers)
            if speakers.iter().any(|(who, level)| who == "alice" && *level > 0.0))
    })
    .await;

    alice.send_data(b"bonjour".to_vec(), true, Vec::new()).await.unwrap();
    let data = tokio::time::timeout(PATIENCE, bob.data()).await.unwrap().unwrap();
    assert_eq!((data.identity.as_str(), data.payload.as_slice()), ("alice", &b"bonjour"[..]));

    bob.reset_received();
    bob.cut_signal().await.unwrap();
    alice.cut_signal().await.unwrap();
    let resumed = |event: &ParticipantEvent| matches!(event, ParticipantEvent::Resumed { .. });
    event(&mut bob, "bob resumes", resumed).await;
    event(&mut alice, "alice resumes", resumed).await;
    let before: u64 = bob.received().values().map(|track| track.packets).sum();
    until("media after the resume", || {
        bob.received().values().map(|track| track.packets).sum::<u64>() > before + 500
    })
    .await;
    for (key, track) in bob.received() {
        assert!(track.gap_max < Duration::from_millis(1000), "{key:?}: {:?}", track.gap_max);
        assert_eq!((track.disorder, track.corrupt), (0, 0), "{key:?}");
    }
    alice.disconnect().await;
    bob.disconnect().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_sends_everyone_on_to_the_next_media_node() {
    let place = Place::new();
    let first = place.serve();
    let mut alice = first.join("alice").await;
    let mut bob = first.join("bob").await;
    alice.publish_audio().await.unwrap();
    let heard = |bob: &Participant| bob.received().values().any(|track| track.packets > 50);
    until("bob hears alice", || heard(&bob)).await;

    first.stop().await;
    let second = place.serve();
    bob.reset_received();
    for one in [&mut alice, &mut bob] {
        event(one, "sent on, not away", |event| {
            matches!(event, ParticipantEvent::Rejoining { reason }
                if reason == "leave: ServerShutdown, Reconnect")
        })
        .await;
        event(one, "back", |event| matches!(event, ParticipantEvent::Rejoined { .. })).await;
    }
    until("bob hears alice again", || heard(&bob)).await;
    for (one, name) in [(&mut alice, "alice"), (&mut bob, "bob")] {
        let events = one.events();
        let gone = events.iter().find(|event| matches!(event, ParticipantEvent::Ended { .. }));
        assert_eq!(gone, None, "{name} was thrown out");
        assert_eq!(one.totals().rejoins, 1, "{name} came back once");
    }
    alice.disconnect().await;
    bob.disconnect().await;
    second.stop().await;
}
