//! The binary: reads the configuration, serves until a signal. Exit 2: bad configuration.

use std::process::ExitCode;

use media_node::config::{self, Config, ConfigError, Given};
use media_node::{logging, serve};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
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
    match serve::run_process(config) {
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
