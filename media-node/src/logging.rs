//! Log lines: text for people, JSON for machines, both to standard error.
//!
//! Decides form only. Names, addresses and tokens never come here in the clear: their types
//! redact themselves (`livekit_contract::privacy`).

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigError, LogFormat};

/// Installs the subscriber of this process.
pub fn install(config: &Config) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(&config.log_filter).map_err(|_| ConfigError::Value {
        field: "log_level",
        value: config.log_filter.clone(),
        allowed: "a tracing filter, such as `info` or `media_node=debug`",
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let lines = lines.with_ansi(stderr().is_terminal());
    // The default hook would print messages made from what clients sent.
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(tracing::field::display);
        let fixed = panic.payload().downcast_ref::<&'static str>();
        tracing::error!(at, message = fixed.copied().unwrap_or("(made from data)"), "panicked");
    }));
    // A second install in one process (tests) keeps the first.
    let _ = match config.log_format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text => lines.try_init(),
    };
    Ok(())
}
