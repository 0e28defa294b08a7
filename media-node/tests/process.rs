//! The binary as a platform sees it: exit codes, one-line errors, a stop that sends people on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use harness::{claims, get, sign};
use livekit_contract::frame::{self, Encoding};
use livekit_protocol::leave_request::Action;
use livekit_protocol::signal_response;
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

const PATIENCE: Duration = Duration::from_secs(20);

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_media-node"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// A running binary; ended by its id when the test ends, however it ends.
struct Running {
    child: Child,
    signal: SocketAddr,
    _files: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let keys = files.path().join("keys.yaml");
        std::fs::write(&keys, format!("{}: {}\n", harness::KEY, harness::SECRET)).unwrap();
        let mut child = binary()
            .arg("--keys-file")
            .arg(&keys)
            .args(["--tenant=ns/mc", "--control-address=off", "--tls-directory=off"])
            .args(["--signal-address=127.0.0.1:0", "--admin-address=127.0.0.1:0"])
            .args(["--media-addresses=127.0.0.1", "--udp-port-first=0", "--tcp-port=off"])
            .args(["--shards=1", "--log-format=json"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let signal = loop {
            let line = lines.next().expect("it ended").unwrap();
            if let Some((_, rest)) = line.split_once("\"signal\":\"") {
                break rest.split('"').next().unwrap().parse().unwrap();
            }
        };
        // Keep reading, so that the binary never waits for its log.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, signal, _files: files }
    }

    fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    async fn exit(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[test]
fn bad_configuration_is_one_line_and_exit_code_2() {
    for (arguments, field) in [
        (&["--dev", "--shards", "0"][..], "shards"),
        (&["--dev", "--config", "/does/not/exist"], "/does/not/exist"),
        (&["--dev", "--log-level", "=="], "log_level"),
        (&[], "tenant"),
    ] {
        let output = binary().args(arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(field), "{text}");
    }
    let output = binary().arg("--no-such-flag").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_default_configuration_is_printed() {
    let output = binary().arg("--print-config").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(text.contains("\nudp_port_first: \"50000\"\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_clients_to_reconnect_and_ends_within_its_bound() {
    let mut node = Running::start(&["--stop-timeout-seconds=5"]);
    let token = sign(&claims("ada", "room"));
    let url = format!("ws://{}/rtc?protocol=16&sdk=js&access_token={token}", node.signal);
    let (mut socket, _) = connect_async(url).await.unwrap();
    let mut next = async || loop {
        match timeout(PATIENCE, socket.next()).await.unwrap() {
            Some(Ok(Message::Binary(bytes))) => {
                return frame::decode_response(Encoding::Binary, &bytes).unwrap().message;
            }
            Some(Ok(_)) => {}
            _ => return None,
        }
    };
    assert!(matches!(next().await, Some(signal_response::Message::Join(_))));
    node.terminate();
    let leave = loop {
        let message = next().await.expect("the line was cut without a word");
        if let signal_response::Message::Leave(leave) = message {
            break leave;
        }
    };
    assert_eq!(leave.action(), Action::Reconnect);
    assert_eq!(node.exit().await, Some(0));
}

/// Whoever starts with a signal waiting is not killed by it, and does not lose it either: the first
/// process of a container would do that, and hold its pod for the whole grace.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_comes_while_it_starts_is_heard() {
    let files = tempfile::tempdir().unwrap();
    let configuration = files.path().join("configuration.yaml");
    assert!(Command::new("mkfifo").arg(&configuration).status().unwrap().success());
    let child = binary()
        .args(["--dev", "--media-addresses=127.0.0.1", "--udp-port-first=0", "--tcp-port=off"])
        .args(["--signal-address=127.0.0.1:0", "--admin-address=127.0.0.1:0", "--shards=1"])
        .arg("--config")
        .arg(&configuration)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut node = Running { child, signal: ([127, 0, 0, 1], 0).into(), _files: files };
    let began = Instant::now();
    // Can be opened once the media node reads, which then waits for the text.
    let text = loop {
        let mut writable = std::fs::OpenOptions::new();
        match writable.write(true).custom_flags(libc::O_NONBLOCK).open(&configuration) {
            Ok(text) => break text,
            Err(_) => assert!(began.elapsed() < PATIENCE, "it does not read its configuration"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    node.terminate();
    drop(text);
    assert_eq!(node.exit().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let mut node = Running::start(&["--stop-timeout-seconds=3600"]);
    let token = sign(&claims("ada", "room"));
    let url = format!("ws://{}/rtc?protocol=16&sdk=js&access_token={token}", node.signal);
    // A client that neither reads nor closes keeps the stop waiting.
    let (_socket, _) = connect_async(url).await.unwrap();
    node.terminate();
    let stopping = async {
        loop {
            let token = sign(&claims("bob", "another"));
            let asked = get(node.signal, &format!("/rtc/validate?access_token={token}")).await;
            if asked.status != 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, stopping).await.unwrap();
    let second = Instant::now();
    node.terminate();
    assert_eq!(node.exit().await, Some(0));
    assert!(second.elapsed() < Duration::from_secs(1), "{:?}", second.elapsed());
}
