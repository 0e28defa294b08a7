//! The operator's process: reads the configuration, wires the parts, ends them in order on SIGTERM
//! or SIGINT. Decides nothing. Invariant: the Lease is released before the process ends.

use std::sync::Arc;

use anyhow::Context as _;
use operator::{
    admission::policies,
    config::{AdmissionForm, Config},
    run, telemetry,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
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
    if let Err(error) = start(config) {
        eprintln!("operator: {error:#}");
        std::process::exit(1);
    }
}

fn start(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime could be started")?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be heard")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be heard")?;
        let on_signal = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            on_signal.cancel();
        });
        run::run(Arc::new(config), stop).await
    })
}
