//! Headless participants meet on a media node of their own: media, data, resume, rejoin.
//!
//! Starts `media-node --dev` from this build on free ports of the loopback and ends it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
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

/// Builds the media node, unless the test command has done so, and starts it.
fn serve() -> Server {
    let target = std::env::current_exe().unwrap();
    let binary = target.parent().unwrap().parent().unwrap().join("media-node");
    if !binary.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "-p", "media-node"]).status();
        assert!(built.unwrap().success(), "media-node does not build");
    }
    let mut process = Command::new(binary)
        .args(["--dev", "--media-addresses", "127.0.0.1"])
        .args(["--signal-address", &format!("127.0.0.1:{}", free_port("tcp"))])
        .args(["--admin-address", &format!("127.0.0.1:{}", free_port("tcp"))])
        .args(["--udp-port-first", &free_port("udp").to_string()])
        .args(["--tcp-port", "off"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let (mut url, mut key, mut secret) = (None, None, None);
    for line in lines {
        let value = |name: &str| line.strip_prefix(name).map(|rest| rest.trim().to_owned());
        url = url.or(value("url:"));
        key = key.or(value("key:"));
        secret = secret.or(value("secret:"));
        if secret.is_some() {
            break;
        }
    }
    Server { process, url: url.unwrap(), key: key.unwrap(), secret: secret.unwrap() }
}

impl Server {
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
