//! The binary: reads the configuration, serves until a signal. Exit 2: bad configuration.
//!
//! Invariant: a signal is heard from the first moment. As the first process of its container it
//! would not even die of one that came before it listens, and hold its pod for the whole grace.

use std::process::ExitCode;

use media_node::config::{self, Config, ConfigError, Given};
use media_node::logging;
use media_node::serve::Process;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let process = match Process::begin() {
        Ok(process) => process,
        Err(error) => {
            eprintln!("media-node: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let matches = config::command().get_matches();
    if matches.get_flag("print-config") {
        print!("{}", config::printed_default());
        return ExitCode::SUCCESS;
    }
    let config = match configure(&matches) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("media-node: {error}");
            return ExitCode::from(2);
        }
    };
    match process.serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("media-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn configure(matches: &clap::ArgMatches) -> Result<Config, ConfigError> {
    let given = Given::from_matches(matches)?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let config = Config::resolve(&given, cpus)?;
    logging::install(&config)?;
    Ok(config)
}
