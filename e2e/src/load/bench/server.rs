//! One server in its namespace, a media node of ours or a livekit-server, and what ours says of
//! itself.
//!
//! Starts it, reads its metrics, ends it. Invariant: it ends with the value that holds it.

use std::path::PathBuf;
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
/// A server that does not serve by then will not.
const START_MAX: Duration = Duration::from_secs(10);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// These lie below a `/run` of our own, which goes with the namespaces.
const KEYS_FILE: &str = "/run/bench-keys.yaml";
const LIVEKIT_FILE: &str = "/run/bench-livekit.yaml";

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Product {
    /// Ours.
    MediaNode(PathBuf),
    /// The peer: <https://github.com/livekit/livekit>, at its defaults.
    LivekitServer(PathBuf),
}

impl Product {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::MediaNode(_) => "media-node",
            Self::LivekitServer(_) => "livekit-server",
        }
    }

    /// How it starts on `cpu`.
    fn command(&self, cpu: usize) -> std::io::Result<std::process::Command> {
        match self {
            Self::MediaNode(program) => {
                std::fs::write(KEYS_FILE, format!("{KEY}: {SECRET}\n"))?;
                let mut command = namespaces::in_server(cpu, program);
                let own = SERVER.to_string();
                command.args(["--tenant", "bench/bench", "--media-node-name", "bench"]);
                command.args(["--control-address", "off", "--tls-directory", "off"]);
                command.args(["--bind", &own, "--media-addresses", &own, "--shards", "1"]);
                command.args(["--log-level", "error", "--keys-file", KEYS_FILE]);
                Ok(command)
            }
            Self::LivekitServer(program) => {
                std::fs::write(LIVEKIT_FILE, livekit_settings())?;
                let mut command = namespaces::in_server(cpu, program);
                command.args(["--config", LIVEKIT_FILE]);
                Ok(command)
            }
        }
    }
}

/// What the namespace asks for; all else is as livekit-server comes (`config-sample.yaml`).
fn livekit_settings() -> String {
    format!(
        "port: {SIGNAL_PORT}\nbind_addresses: [{SERVER}]\nkeys: {{{KEY}: {SECRET}}}\n\
         rtc: {{node_ip: {SERVER}, use_external_ip: false}}\nlogging: {{level: error}}\n"
    )
}

/// A running server.
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
    /// Starts `product` on `cpu` and waits until it serves.
    ///
    /// # Errors
    /// If it does not.
    pub(super) async fn start(product: &Product, cpu: usize) -> anyhow::Result<Self> {
        let command = product.command(cpu).context("cannot write its settings")?;
        let child = Command::from(command).stdin(Stdio::null()).kill_on_drop(true).spawn();
        let mut server = Self { child: child.context("cannot run `ip netns exec`")? };
        let deadline = tokio::time::Instant::now() + START_MAX;
        while TcpStream::connect((SERVER, SIGNAL_PORT)).await.is_err() {
            let ended = server.child.try_wait()?;
            ensure!(ended.is_none(), "{} ended at once", product.name());
            let late = tokio::time::Instant::now() > deadline;
            ensure!(!late, "{} does not serve after {START_MAX:?}", product.name());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(server)
    }

    pub(super) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the server has ended")
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

    /// Reads `/metrics` of a media node.
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
