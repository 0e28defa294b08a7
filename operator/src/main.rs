//! The operator's process: reads the configuration, wires the parts, ends them in order on SIGTERM
//! or SIGINT. Decides nothing. Invariants: the Lease is released before the process ends; a signal
//! is heard from the first moment, because the first process of a container does not even die of
//! one that comes before it listens.

use std::sync::Arc;

use anyhow::Context as _;
use operator::{
    admission::policies,
    config::{AdmissionForm, Config},
    run, telemetry,
};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let (runtime, stop) = begin().unwrap_or_else(|error| {
        eprintln!("operator: {error:#}");
        std::process::exit(1);
    });
    let config = Config::from_process();
    if let Some(form) = config.print_admission {
        print!(
            "{}",
            match form {
                AdmissionForm::Yaml => policies::yaml(&config.admission()),
                AdmissionForm::Helm => policies::helm(),
            }
        );
        return;
    }
    if let Err(error) = telemetry::install(config.log_format, &config.log) {
        eprintln!("operator: {error}");
        std::process::exit(2);
    }
    if let Err(error) = runtime.block_on(run::run(Arc::new(config), stop)) {
        eprintln!("operator: {error:#}");
        std::process::exit(1);
    }
}

/// The runtime, and the order to stop, which SIGTERM or SIGINT gives from here on.
fn begin() -> anyhow::Result<(Runtime, CancellationToken)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime could be started")?;
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    let entered = runtime.enter();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be heard")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be heard")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        on_signal.cancel();
    });
    drop(entered);
    Ok((runtime, stop))
}
