//! `demo`: from nothing to a meeting on real pods; see `e2e::demo`.

use std::process::ExitCode;

use clap::Parser;
use e2e::bed::command::Release;

/// A real Kubernetes cluster on this machine, the operator, and two browsers in one meeting.
#[derive(Debug, Parser)]
struct Line {
    /// End after the meeting, with an exit code, instead of staying up until Ctrl-C.
    #[arg(long)]
    check: bool,
    /// Port on localhost for your own browser.
    #[arg(long, default_value_t = 7880)]
    port: u16,
    #[command(flatten)]
    release: Release,
}

fn main() -> ExitCode {
    if let Some(code) = e2e::bed::command::take_over() {
        return code;
    }
    let Line { check, port, release } = Line::parse();
    match e2e::demo::run(&e2e::demo::Options { check, port, release }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
