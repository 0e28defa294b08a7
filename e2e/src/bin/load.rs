//! `load`: meetings on a LiveKit server, and what they cost and felt like; with `--bench`, the same
//! for a media node on a network of its own, beside the floor; with `--placement`, how fast rooms
//! get their homes.
//!
//! Only reads arguments and prints; the work is in `e2e::load` and `e2e::placement_load`.

use clap::Parser;
use e2e::load::{Settings, bench, run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let asked = |flag: &str| std::env::args().any(|argument| argument == flag);
    if asked("--placement") {
        return placement().await;
    }
    if asked("--bench") {
        return bench::run(&bench::Options::parse()).await;
    }
    let settings = Settings::parse();
    let report = run(&settings).await?;
    if settings.json {
        println!("{}", report.to_json());
    } else {
        println!("{report}");
    }
    Ok(())
}

/// Arguments behind `--placement`.
#[cfg(feature = "placement")]
#[derive(Parser)]
struct Placement {
    /// Measure placement instead of meetings.
    #[arg(long)]
    placement: bool,
    /// New rooms asked for each second.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Seconds for which they are.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Simulated media nodes.
    #[arg(long, default_value_t = 10)]
    media_nodes: u8,
    /// Seconds for which a room lives.
    #[arg(long, default_value_t = 10)]
    room_seconds: u64,
    /// Kill the leading replica afterwards and wait for the next.
    #[arg(long)]
    kill_leader: bool,
}

#[cfg(feature = "placement")]
async fn placement() -> anyhow::Result<()> {
    use e2e::placement_load::{self, Options};
    use std::time::Duration;

    let given = Placement::parse();
    anyhow::ensure!(given.placement && given.rate > 0, "--rate is a number of rooms above 0");
    let options = Options {
        rooms_per_second: given.rate,
        duration: Duration::from_secs(given.seconds),
        media_nodes: given.media_nodes,
        room_lifetime: Duration::from_secs(given.room_seconds),
        kill_leader: given.kill_leader,
    };
    let figures = placement_load::run(&options).await?;
    anyhow::ensure!(figures.double == 0, "{} rooms had two homes", figures.double);
    Ok(())
}

#[cfg(not(feature = "placement"))]
async fn placement() -> anyhow::Result<()> {
    anyhow::bail!("--placement needs the operator in this program: add `--features placement`")
}
