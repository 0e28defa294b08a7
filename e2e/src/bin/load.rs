//! `load`: meetings on a LiveKit server, and what they cost and felt like.
//!
//! Only reads arguments and prints; the work is in `e2e::load`.

use clap::Parser;
use e2e::load::{Settings, run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let report = run(&settings).await?;
    if settings.json {
        println!("{}", report.to_json());
    } else {
        println!("{report}");
    }
    Ok(())
}
