//! `load --bench`: what a forwarded packet costs a media node, beside what it cannot cost less
//! than, on a network of the command's own.
//!
//! Server and generator sit in a network namespace and on a CPU each. For every load a media node
//! is started, filled, measured and ended; then the floor is measured in its place, and then, if
//! there is one, livekit-server. Judges only what `--check` asks. Invariant: figures that stand
//! beside each other come from one run.

mod cases;
mod floor;
mod namespaces;
mod row;
mod server;
mod versus;

use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::{Gathering, Settings, Usage};
pub use cases::Case;
pub use floor::{Cost, Shape};
pub use row::{Account, Row};
use server::{Metrics, Product, Server};
use versus::Versus;

/// Loss that is borne, as a share.
const LOSS_MAX: f64 = 0.001;
/// Long enough for handshakes and a first packet each way.
const VISIT: Duration = Duration::from_secs(1);

/// What to measure.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "load --bench",
    about = "Measures a media node in namespaces of its own: CPU per packet, delay, loss, memory",
    long_about = "Measures a media node: CPU per forwarded packet beside the floor (AES-GCM and \
                  one sendto at the same rate, in the same bursts), added delay, loss and memory. \
                  Server and generator get a network namespace each, joined by a veth pair, and a \
                  CPU each; needs root. With `--livekit-server` that program gets the same load \
                  from the same generator in turn. Everything ends with the command."
)]
pub struct Options {
    /// Measure in namespaces
    #[arg(long)]
    bench: bool,
    /// The media node; by default the one that was built beside this program
    #[arg(long)]
    media_node: Option<PathBuf>,
    /// A livekit-server to measure beside it
    #[arg(long, conflicts_with = "check")]
    livekit_server: Option<PathBuf>,
    /// Times that each load is measured, on each server in turn; medians count
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// A load to measure, may be given again; by default all of them
    #[arg(long = "case", value_enum)]
    cases: Vec<Case>,
    /// Seconds before measuring begins, of each load
    #[arg(long, default_value_t = 8)]
    warm_up: u64,
    /// Seconds of measuring, of each load and of its floor
    #[arg(long, default_value_t = 10)]
    duration: u64,
    /// CPU of the media node
    #[arg(long, default_value_t = 0)]
    server_cpu: usize,
    /// CPU of the generator
    #[arg(long, default_value_t = 1)]
    generator_cpu: usize,
    /// Leave the floor out, and fail if a track does not arrive or more than 0.1 % is lost
    #[arg(long)]
    check: bool,
    /// Print one JSON object for each load instead of text
    #[arg(long)]
    json: bool,
    /// The part of this command that runs in the namespaces
    #[arg(long, hide = true)]
    inside: bool,
    /// The part of this command that sends the floor
    #[arg(long, hide = true, value_parser = Shape::parse)]
    floor: Option<Shape>,
}

/// Does what the options say and prints it.
///
/// # Errors
/// If the namespaces cannot be had, a media node does not serve, or a check fails.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(shape) = options.floor {
        let cost = floor::send(shape)?;
        println!("{} {}", cost.user, cost.system);
        return Ok(());
    }
    if !options.inside {
        let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        arguments.push("--inside".into());
        let passed = namespaces::enter(options.generator_cpu, &arguments)?;
        ensure!(passed, "the measurement failed");
        return Ok(());
    }
    namespaces::prepare().context("cannot make network namespaces; this needs root")?;
    let cases = if options.cases.is_empty() { &Case::ALL[..] } else { &options.cases };
    for case in cases {
        rounds(*case, options).await.with_context(|| case.name())?;
    }
    Ok(())
}

/// Measures one load as often as asked, on every server that is.
async fn rounds(case: Case, options: &Options) -> anyhow::Result<()> {
    let ours = Product::MediaNode(match &options.media_node {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("media-node"),
    });
    let peer = options.livekit_server.clone().map(Product::LivekitServer);
    let mut versus = Versus::default();
    for _ in 0..options.rounds {
        let row = measure(case, &ours, options).await?;
        print(&row, row.to_json(), options);
        if options.check {
            check(&row)?;
        }
        versus.ours.push(row);
        if let Some(peer) = &peer {
            let row = measure(case, peer, options).await?;
            print(&row, row.to_json(), options);
            versus.theirs.push(row);
        }
    }
    if peer.is_some() {
        print(&versus, versus.to_json(), options);
    }
    Ok(())
}

fn print(text: &impl Display, json: serde_json::Value, options: &Options) {
    if options.json {
        println!("{json}");
    } else {
        println!("{text}\n");
    }
}

/// Counts only: what a busy machine shows as well as an idle one.
fn check(row: &Row) -> anyhow::Result<()> {
    let report = &row.report;
    let (received, expected) = (report.tracks_received, report.tracks_expected);
    ensure!(received == expected, "{}: {received} of {expected} tracks", row.name);
    let (name, share) = (row.name, report.loss() * 100.0);
    ensure!(report.loss() <= LOSS_MAX, "{name}: {share:.3} % of the packets were lost");
    Ok(())
}

async fn measure(case: Case, product: &Product, options: &Options) -> anyhow::Result<Row> {
    let server = Server::start(product, options.server_cpu).await?;
    let mut settings = case.settings(options.warm_up, options.duration);
    settings.server_pid = Some(server.pid()?);
    visit(&settings).await?;
    let empty = Usage::of(server.pid()?)?;
    let gathering = Gathering::join(&settings).await?;
    gathering.warm_up(&settings).await;
    let (report, account) = match product {
        Product::MediaNode(_) => {
            let account = account(options.duration);
            let (report, account) = tokio::join!(gathering.measure(&settings), account);
            (report?, Some(account?))
        }
        Product::LivekitServer(_) => (gathering.measure(&settings).await?, None),
    };
    gathering.leave().await;
    server.stop().await?;
    let empty_bytes = empty.resident_bytes;
    let (name, server) = (case.name(), product.name());
    let mut row = Row { name, server, empty_bytes, account, report, floor: None };
    if let (Some(account), Some((receivers, run)), false) =
        (&row.account, case.burst(), options.check)
    {
        let packets_per_second = row.report.packets_out as f64 / row.report.seconds;
        let shape = Shape {
            receivers,
            run,
            bursts_per_second: packets_per_second / f64::from(receivers) / f64::from(run),
            bytes: (account.bytes / account.packets.max(1.0)) as usize,
            seconds: options.duration,
        };
        row.floor = Some(floor::measure(options.server_cpu, shape).await?);
    }
    Ok(row)
}

/// Two people come, one with camera and voice, and leave: the pages of its own code that a media
/// node touches then, and once, are not what a participant costs.
async fn visit(settings: &Settings) -> anyhow::Result<()> {
    let visitors = Settings {
        room_prefix: "visit".to_owned(),
        audio_publishers: 0,
        video_publishers: 0,
        publishers: 1,
        subscribers: 1,
        ..settings.clone()
    };
    let gathering = Gathering::join(&visitors).await?;
    tokio::time::sleep(VISIT).await;
    gathering.leave().await;
    Ok(())
}

/// The media node's own account of `seconds`.
async fn account(seconds: u64) -> anyhow::Result<Account> {
    let before = Server::metrics().await?;
    let (mut after, mut delays) = (before, Vec::new());
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.tick().await;
    for _ in 0..seconds {
        second.tick().await;
        after = Server::metrics().await?;
        let Metrics { delay_p50, delay_p99, .. } = after;
        delays.push((Duration::from_secs_f64(delay_p50), Duration::from_secs_f64(delay_p99)));
    }
    Ok(Account {
        messages: after.messages - before.messages,
        packets: after.packets_sent - before.packets_sent,
        bytes: after.bytes_sent - before.bytes_sent,
        dropped: after.dropped - before.dropped,
        delays,
    })
}
