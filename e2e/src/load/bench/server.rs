//! One media node in the server's namespace, and what it says of itself.
//!
//! Starts it, reads its metrics, ends it. Invariant: it ends with the value that holds it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::namespaces::{self, SERVER};

const SIGNAL_PORT: u16 = 7_880;
const ADMIN_PORT: u16 = 7_882;
/// API key and secret; the namespaces have no way in from outside.
const KEY: &str = "bench";
const SECRET: &str = "bench-bench-bench-bench-bench-bench";
/// A media node that does not serve by then will not.
const START_MAX: Duration = Duration::from_secs(10);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Lies below a `/run` of our own, which goes with the namespaces.
const KEYS_FILE: &str = "/run/bench-keys.yaml";

/// A running media node.
pub(super) struct Server {
    child: Child,
}

/// Some of the metrics.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Metrics {
    pub(super) packets_sent: f64,
    pub(super) bytes_sent: f64,
    pub(super) messages: f64,
    pub(super) dropped: f64,
    /// Over the second before, in seconds.
    pub(super) delay_p50: f64,
    pub(super) delay_p99: f64,
}

impl Server {
    /// Starts `program` on `cpu` and waits until it serves.
    ///
    /// # Errors
    /// If it does not.
    pub(super) async fn start(program: &Path, cpu: usize) -> anyhow::Result<Self> {
        std::fs::write(KEYS_FILE, format!("{KEY}: {SECRET}\n")).context("cannot write keys")?;
        let mut command = namespaces::in_server(cpu, program);
        command.args(["--tenant", "bench/bench", "--media-node-name", "bench", "--shards", "1"]);
        command.args(["--control-address", "off", "--tls-directory", "off"]);
        command.args(["--bind", &SERVER.to_string(), "--media-addresses", &SERVER.to_string()]);
        command.args(["--log-level", "error", "--keys-file", KEYS_FILE]);
        let child = Command::from(command).stdin(Stdio::null()).kill_on_drop(true).spawn();
        let mut server = Self { child: child.context("cannot run `ip netns exec`")? };
        let deadline = tokio::time::Instant::now() + START_MAX;
        while TcpStream::connect((SERVER, SIGNAL_PORT)).await.is_err() {
            let ended = server.child.try_wait()?;
            ensure!(ended.is_none(), "{} ended at once", program.display());
            let late = tokio::time::Instant::now() > deadline;
            ensure!(!late, "{} does not serve after {START_MAX:?}", program.display());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(server)
    }

    pub(super) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the media node has ended")
    }

    pub(super) fn url() -> String {
        format!("ws://{SERVER}:{SIGNAL_PORT}")
    }

    pub(super) fn credentials() -> (String, String) {
        (KEY.to_owned(), SECRET.to_owned())
    }

    /// Ends it.
    ///
    /// # Errors
    /// If it cannot be ended.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Reads `/metrics`.
    ///
    /// # Errors
    /// If it does not answer.
    pub(super) async fn metrics() -> anyhow::Result<Metrics> {
        let mut stream = TcpStream::connect((SERVER, ADMIN_PORT)).await?;
        let request = format!("GET /metrics HTTP/1.0\r\nHost: {SERVER}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let value = |name: &str| {
            let start = format!("hemicycle_media_node_{name}");
            let own = text.lines().filter(|line| line.starts_with(&start));
            let values = own.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            values.sum()
        };
        Ok(Metrics {
            packets_sent: value("packets_sent_total"),
            bytes_sent: value("bytes_sent_total"),
            messages: value("send_messages_total"),
            dropped: value("packets_dropped_socket_full_total"),
            delay_p50: value("forwarding_delay_p50_seconds"),
            delay_p99: value("forwarding_delay_p99_seconds"),
        })
    }
}
