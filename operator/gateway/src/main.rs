//! Starts a gateway: configuration, logs, signals. Decides nothing about requests.
//! Invariants: bad configuration costs one line on standard error and exit code 2; a signal is
//! heard from the first moment, because the first process of a container does not even die of one
//! that comes before it listens.

use std::process::ExitCode;

use gateway::config::{Config, ConfigError, LogFormat};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (runtime, stop) = match begin() {
        Ok(begun) => begun,
        Err(error) => {
            eprintln!("gateway: cannot start the runtime or listen for signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    let config = match Config::from_process() {
        Ok(config) => config,
        Err(ConfigError::Help(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("gateway: {error}");
            return ExitCode::from(2);
        }
    };
    match run(config, &runtime, stop) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The runtime, and the order to stop, which SIGTERM or SIGINT gives from here on.
fn begin() -> std::io::Result<(Runtime, CancellationToken)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    let entered = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        on_signal.cancel();
    });
    drop(entered);
    Ok((runtime, stop))
}

fn run(config: Config, runtime: &Runtime, stop: CancellationToken) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
    runtime.block_on(async move {
        let gateway = gateway::server::start(config).await?;
        gateway.run_until(stop).await;
        Ok(())
    })
}
