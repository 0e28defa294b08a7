//! From text to meaning, one kind of value per function. Pure.
//!
//! Invariant: every refusal names the field, the value and what is allowed.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use media_api::ticket::PublicKey;

use super::settings::{Given, SETTINGS};
use super::{ConfigError, LogFormat};

/// Switches an optional setting off.
const OFF: &str = "off";

/// Finds values by setting name: what was given, else the default.
pub(super) struct Lookup<'a> {
    given: &'a Given,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(given: &'a Given) -> Self {
        Self { given }
    }

    pub(super) fn text(&self, field: &'static str) -> String {
        if let Some(value) = self.given.values.get(field) {
            return value.trim().to_owned();
        }
        let setting = SETTINGS.iter().find(|setting| setting.name == field);
        let default = setting.map_or("", |setting| match setting.default_dev {
            Some(dev) if self.given.dev => dev,
            _ => setting.default,
        });
        default.to_owned()
    }

    /// Somebody meant to give it and gave nothing.
    pub(super) fn given_empty(&self, field: &'static str) -> bool {
        self.given.values.get(field).is_some_and(|value| value.trim().is_empty())
    }

    pub(super) fn refused(&self, field: &'static str, allowed: &'static str) -> ConfigError {
        ConfigError::Value { field, value: self.text(field), allowed }
    }

    pub(super) fn switched_on(&self, field: &'static str) -> bool {
        let text = self.text(field);
        !(text.is_empty() || text == OFF)
    }

    pub(super) fn address(&self, field: &'static str) -> Result<SocketAddr, ConfigError> {
        self.text(field)
            .parse()
            .map_err(|_| self.refused(field, "an IP and a port, such as 0.0.0.0:7880"))
    }

    pub(super) fn optional_address(
        &self,
        field: &'static str,
    ) -> Result<Option<SocketAddr>, ConfigError> {
        if self.switched_on(field) { self.address(field).map(Some) } else { Ok(None) }
    }

    pub(super) fn optional_ip(&self, field: &'static str) -> Result<Option<IpAddr>, ConfigError> {
        if !self.switched_on(field) {
            return Ok(None);
        }
        let parsed = self.text(field).parse();
        parsed.map(Some).map_err(|_| self.refused(field, "an IP address"))
    }

    pub(super) fn optional_path(&self, field: &'static str) -> Option<PathBuf> {
        self.switched_on(field).then(|| PathBuf::from(self.text(field)))
    }

    /// A comma separated list; `local` stands for the addresses of this machine, that is none here.
    pub(super) fn addresses(&self, field: &'static str) -> Result<Vec<IpAddr>, ConfigError> {
        let text = self.text(field);
        if text == "local" {
            return Ok(Vec::new());
        }
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| {
                part.parse().map_err(|_| ConfigError::Value {
                    field,
                    value: part.to_owned(),
                    allowed: "IP addresses separated by commas",
                })
            })
            .collect()
    }

    /// The items of a comma separated list; none when it is off.
    pub(super) fn list(&self, field: &'static str) -> Vec<String> {
        if !self.switched_on(field) {
            return Vec::new();
        }
        let text = self.text(field);
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(ToOwned::to_owned).collect()
    }

    pub(super) fn public_keys(&self, field: &'static str) -> Result<Vec<PublicKey>, ConfigError> {
        const ALLOWED: &str = "Ed25519 public keys, 32 bytes each in base64, separated by commas";
        let keys = self.list(field).into_iter().map(|item| {
            item.parse().map_err(|_| ConfigError::Value { field, value: item, allowed: ALLOWED })
        });
        keys.collect()
    }

    pub(super) fn number(
        &self,
        field: &'static str,
        min: u64,
        max: u64,
    ) -> Result<u64, ConfigError> {
        if !self.switched_on(field) {
            return Ok(min);
        }
        let parsed = self.text(field).parse::<u64>().ok();
        parsed
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| self.refused(field, number_allowed(max)))
    }

    pub(super) fn flag(&self, field: &'static str) -> Result<bool, ConfigError> {
        match self.text(field).as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.refused(field, "true or false")),
        }
    }

    /// A number from 1 to `max`, or `auto`, which is given.
    pub(super) fn number_or_auto(
        &self,
        field: &'static str,
        auto: u64,
        max: u64,
        allowed: &'static str,
    ) -> Result<u64, ConfigError> {
        if self.text(field) == "auto" {
            return Ok(auto);
        }
        let parsed = self.text(field).parse::<u64>().ok();
        parsed
            .filter(|number| (1..=max).contains(number))
            .ok_or_else(|| self.refused(field, allowed))
    }

    pub(super) fn tenant(&self) -> Result<String, ConfigError> {
        const ALLOWED: &str = "`namespace/name` of the meeting cluster";
        let text = self.text("tenant");
        if text.is_empty() {
            return Err(ConfigError::Missing { field: "tenant", allowed: ALLOWED });
        }
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(text)
            }
            _ => Err(self.refused("tenant", ALLOWED)),
        }
    }

    pub(super) fn log_format(&self) -> Result<LogFormat, ConfigError> {
        match self.text("log_format").as_str() {
            "json" => Ok(LogFormat::Json),
            "text" => Ok(LogFormat::Text),
            _ => Err(self.refused("log_format", "json or text")),
        }
    }
}

/// Numbers come in five kinds; the text says the range in words a reader can check.
fn number_allowed(max: u64) -> &'static str {
    match max {
        65_535 => "a port from 0 to 65535, or `off`",
        3_600 => "a number of seconds from 0 to 3600",
        86_400 => "a number of seconds from 0 to 86400",
        u64::MAX => "a whole number",
        _ => "a number up to 100000",
    }
}
