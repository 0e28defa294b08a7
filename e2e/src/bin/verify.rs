//! `verify [--kubernetes MINOR] [STAGE...]`: runs the stages of `e2e::verify` and ends with their
//! sum.

use std::process::ExitCode;

use clap::Parser;
use e2e::bed::command::Release;

/// Proves that everything holds: `N passed, N failed` at the end.
#[derive(Debug, Parser)]
struct Line {
    /// Only these stages, in their usual order.
    stages: Vec<String>,
    #[command(flatten)]
    release: Release,
    /// Print the stages and end.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    if let Some(code) = e2e::bed::command::take_over() {
        return code;
    }
    let line = Line::parse();
    if line.list {
        print!("{}", e2e::verify::list());
        return ExitCode::SUCCESS;
    }
    match e2e::verify::run(&line.stages, &line.release) {
        Ok(sum) if sum.failed == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("verify: {error:#}");
            ExitCode::FAILURE
        }
    }
}
