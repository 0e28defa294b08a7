//! Sets up logging: one subscriber for the process, JSON or text, to standard error.
//! Decides nothing about what is worth a line; filters by the configured directive only.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Installs the process-wide subscriber.
///
/// # Errors
/// When `filter` is not a valid directive, or a subscriber was installed before.
pub fn install(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| anyhow::anyhow!("log filter {filter:?} is not valid: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        // Colours are noise in what `kubectl logs` shows.
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("logging cannot be set up: {error}"))
}
