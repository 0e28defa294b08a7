//! Configuration from flags and environment, checked once.
//!
//! Decides what values are allowed. Reads no file but to see whether a public certificate is there.
//! Invariant: an error is one line that names the field, the value and what is allowed.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;

/// How often files are looked at for changes: a Secret takes about a minute to reach a pod, so two
/// seconds more are not felt.
const RELOAD_EVERY: Duration = Duration::from_secs(2);

/// Flags and environment as given; values are checked in [`Config::check`].
#[derive(Clone, Debug, Parser)]
#[command(name = "gateway", about = "The public door of a hemicycle meeting cluster", version)]
struct Arguments {
    /// Public address. Default: 0.0.0.0:8443 with TLS, else 0.0.0.0:8080.
    #[arg(long, env = "HEMICYCLE_LISTEN")]
    listen: Option<String>,
    /// TLS on the public address: auto (when the certificate is there), on, off.
    #[arg(long, env = "HEMICYCLE_PUBLIC_TLS", default_value = "auto")]
    public_tls: String,
    /// Directory with the public certificate, tls.crt and tls.key.
    #[arg(long, env = "HEMICYCLE_PUBLIC_TLS_DIR", default_value = "/etc/hemicycle/public-tls")]
    public_tls_dir: PathBuf,
    /// Address for /healthz, /readyz and /metrics.
    #[arg(long, env = "HEMICYCLE_ADMIN_LISTEN", default_value = "0.0.0.0:8082")]
    admin_listen: String,
    /// The meeting cluster, as namespace/name.
    #[arg(long, env = "HEMICYCLE_TENANT", default_value = "")]
    tenant: String,
    /// Where placers answer: host:port, or several, comma separated; a host may have many
    /// addresses.
    #[arg(long, env = "HEMICYCLE_PLACER_ADDRESS", default_value = "")]
    placer_address: String,
    /// Name in the placer's certificate. Default: placer.<name>.<namespace>.hemicycle.internal.
    #[arg(long, env = "HEMICYCLE_PLACER_SERVER_NAME")]
    placer_server_name: Option<String>,
    /// YAML map of API key to secret.
    #[arg(long, env = "HEMICYCLE_KEYS_FILE", default_value = "/etc/hemicycle/keys/keys.yaml")]
    keys_file: PathBuf,
    /// Directory with the internal certificate: tls.crt, tls.key and ca.crt.
    #[arg(long, env = "HEMICYCLE_TLS_DIR", default_value = "/etc/hemicycle/tls")]
    tls_dir: PathBuf,
    /// Directory of a static page, served at /meet/.
    #[arg(long, env = "HEMICYCLE_PAGE_DIR")]
    page_dir: Option<PathBuf>,
    /// Origins whose pages may call, comma separated, such as https://visio.example; empty: any.
    #[arg(long, env = "HEMICYCLE_ALLOWED_ORIGINS", default_value = "")]
    allowed_origins: String,
    /// Whether joining brings a room into being: true or false.
    #[arg(long, env = "HEMICYCLE_ROOM_AUTO_CREATE", default_value = "true")]
    room_auto_create: String,
    /// How many proxies before us append to X-Forwarded-For; 0 means that it is not believed.
    #[arg(long, env = "HEMICYCLE_TRUSTED_HOPS", default_value = "0")]
    trusted_hops: String,
    /// Unauthenticated requests per second and client address.
    #[arg(long, env = "HEMICYCLE_ANONYMOUS_RATE", default_value = "200")]
    anonymous_rate: String,
    /// Unauthenticated requests that a client address may make at once.
    #[arg(long, env = "HEMICYCLE_ANONYMOUS_BURST", default_value = "2000")]
    anonymous_burst: String,
    /// Connections per second and client address, when clients connect directly.
    #[arg(long, env = "HEMICYCLE_CONNECTION_RATE", default_value = "200")]
    connection_rate: String,
    /// Connections that a client address may open at once, when clients connect directly.
    #[arg(long, env = "HEMICYCLE_CONNECTION_BURST", default_value = "2000")]
    connection_burst: String,
    /// Connections, and WebSockets, held at once; a WebSocket takes about 30 KiB, and more with
    /// TLS on the public side.
    #[arg(long, env = "HEMICYCLE_CONNECTIONS_MAX", default_value = "8000")]
    connections_max: String,
    /// Of these, how many one client address may hold, so that none takes all of them.
    #[arg(long, env = "HEMICYCLE_CONNECTIONS_PER_ADDRESS_MAX", default_value = "4000")]
    connections_per_address_max: String,
    /// Seconds without a byte from a client after which its WebSocket is closed.
    #[arg(long, env = "HEMICYCLE_IDLE_S", default_value = "60")]
    idle_s: String,
    /// Seconds that one write to a client or a media node may take.
    #[arg(long, env = "HEMICYCLE_WRITE_S", default_value = "20")]
    write_s: String,
    /// Seconds for which connections are still accepted after SIGTERM.
    #[arg(long, env = "HEMICYCLE_STOP_GRACE_S", default_value = "3")]
    stop_grace_s: String,
    /// Seconds over which WebSockets are closed after that.
    #[arg(long, env = "HEMICYCLE_STOP_SPREAD_S", default_value = "5")]
    stop_spread_s: String,
    /// Zone that new rooms prefer; empty: none.
    #[arg(long, env = "HEMICYCLE_ZONE", default_value = "")]
    zone: String,
    /// What is logged, as of tracing's EnvFilter.
    #[arg(long, env = "HEMICYCLE_LOG", default_value = "info")]
    log: String,
    /// How it is logged: json or text.
    #[arg(long, env = "HEMICYCLE_LOG_FORMAT", default_value = "json")]
    log_format: String,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Public address.
    pub listen: SocketAddr,
    /// Where the public certificate lies; none means plain HTTP.
    pub public_tls_dir: Option<PathBuf>,
    /// Address of the admin listener.
    pub admin_listen: SocketAddr,
    /// The meeting cluster.
    pub tenant: Tenant,
    /// host:port of the placers.
    pub placer_address: String,
    /// Name in the placer's certificate.
    pub placer_server_name: String,
    /// The keys file.
    pub keys_file: PathBuf,
    /// Where the internal certificate lies.
    pub tls_dir: PathBuf,
    /// The static page.
    pub page_dir: Option<PathBuf>,
    /// Origins that may call; empty means any.
    pub allowed_origins: Vec<String>,
    /// Whether joining brings a room into being.
    pub room_auto_create: bool,
    /// Proxies before us.
    pub trusted_hops: u8,
    /// Unauthenticated requests per second and address.
    pub anonymous_rate: u32,
    /// Unauthenticated requests at once and address.
    pub anonymous_burst: u32,
    /// Connections per second and address.
    pub connection_rate: u32,
    /// Connections at once and address.
    pub connection_burst: u32,
    /// Connections, and WebSockets, held at once.
    pub connections_max: usize,
    /// Of these, those of one address.
    pub connections_per_address_max: usize,
    /// Longest silence of a client.
    pub idle: Duration,
    /// Longest write.
    pub write: Duration,
    /// For how long connections are accepted after the order to stop.
    pub stop_grace: Duration,
    /// Over what time WebSockets are closed after that.
    pub stop_spread: Duration,
    /// Preferred zone of new rooms.
    pub zone: String,
    /// Log filter.
    pub log: String,
    /// Log format.
    pub log_format: LogFormat,
    /// How often files are looked at.
    pub reload_every: Duration,
}

/// A meeting cluster's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    namespace: String,
    name: String,
}

impl Tenant {
    /// "namespace/name", as it stands in a `RoomKey`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The end that every name in this meeting cluster's certificates has.
    #[must_use]
    pub fn domain(&self) -> String {
        format!("{}.{}.hemicycle.internal", self.name, self.namespace)
    }
}

impl FromStr for Tenant {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let label = |text: &str| {
            !text.is_empty()
                && text.len() <= 63
                && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
        };
        match text.split_once('/') {
            Some((namespace, name)) if label(namespace) && label(name) => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(()),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that is not allowed.
    #[error("{field} is {value:?}; allowed: {allowed}")]
    Value {
        /// Its environment variable and flag.
        field: &'static str,
        /// What was given.
        value: String,
        /// What would do.
        allowed: &'static str,
    },
    /// The command line itself.
    #[error("{0}")]
    Usage(String),
    /// Not an error: help or version was asked for.
    #[error("{0}")]
    Help(String),
}

fn value<T: FromStr>(
    field: &'static str,
    text: &str,
    allowed: &'static str,
) -> Result<T, ConfigError> {
    text.parse().map_err(|_| refused(field, text, allowed))
}

fn refused(field: &'static str, value: impl Display, allowed: &'static str) -> ConfigError {
    ConfigError::Value { field, value: value.to_string(), allowed }
}

fn within<T>(
    field: &'static str,
    text: &str,
    range: std::ops::RangeInclusive<T>,
    allowed: &'static str,
) -> Result<T, ConfigError>
where
    T: FromStr + PartialOrd,
{
    let number: T = value(field, text, allowed)?;
    if range.contains(&number) { Ok(number) } else { Err(refused(field, text, allowed)) }
}

impl Config {
    /// From the process's flags and environment.
    ///
    /// # Errors
    /// When a value is not allowed, or help was asked for.
    pub fn from_process() -> Result<Self, ConfigError> {
        Self::from_arguments(std::env::args_os())
    }

    /// From these flags and the environment.
    ///
    /// # Errors
    /// As [`Config::from_process`].
    pub fn from_arguments<I, T>(arguments: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let arguments = Arguments::try_parse_from(arguments).map_err(|error| {
            let text = error.render().to_string();
            if !error.use_stderr() {
                return ConfigError::Help(text);
            }
            // One line: clap adds usage and hints below it.
            let line = text.lines().next().unwrap_or_default();
            ConfigError::Usage(line.trim_start_matches("error: ").to_owned())
        })?;
        Self::check(&arguments)
    }

    fn check(given: &Arguments) -> Result<Self, ConfigError> {
        let tenant: Tenant = value(
            "HEMICYCLE_TENANT (--tenant)",
            &given.tenant,
            "namespace/name of a MeetingCluster",
        )?;
        let public_tls_dir = public_tls(given)?;
        let default = if public_tls_dir.is_some() { "0.0.0.0:8443" } else { "0.0.0.0:8080" };
        let listen = given.listen.as_deref().unwrap_or(default);
        let server_name = given.placer_server_name.clone().filter(|name| !name.is_empty());
        let [anonymous_rate, anonymous_burst, connection_rate, connection_burst] = rates(given)?;
        let [connections, per_address] = connections(given)?;
        Ok(Self {
            listen: value("HEMICYCLE_LISTEN (--listen)", listen, "ip:port")?,
            public_tls_dir,
            admin_listen: value(
                "HEMICYCLE_ADMIN_LISTEN (--admin-listen)",
                &given.admin_listen,
                "ip:port",
            )?,
            placer_address: placer_address(&given.placer_address)?,
            placer_server_name: server_name
                .unwrap_or_else(|| format!("placer.{}", tenant.domain())),
            tenant,
            keys_file: given.keys_file.clone(),
            tls_dir: given.tls_dir.clone(),
            page_dir: given.page_dir.clone().filter(|path| !path.as_os_str().is_empty()),
            allowed_origins: allowed_origins(&given.allowed_origins)?,
            room_auto_create: value(
                "HEMICYCLE_ROOM_AUTO_CREATE (--room-auto-create)",
                &given.room_auto_create,
                "true or false",
            )?,
            trusted_hops: within(
                "HEMICYCLE_TRUSTED_HOPS (--trusted-hops)",
                &given.trusted_hops,
                0..=8,
                "a whole number, 0 to 8",
            )?,
            anonymous_rate,
            anonymous_burst,
            connection_rate,
            connection_burst,
            connections_max: connections,
            connections_per_address_max: per_address,
            idle: seconds("HEMICYCLE_IDLE_S (--idle-s)", &given.idle_s)?,
            write: seconds("HEMICYCLE_WRITE_S (--write-s)", &given.write_s)?,
            stop_grace: seconds("HEMICYCLE_STOP_GRACE_S (--stop-grace-s)", &given.stop_grace_s)?,
            stop_spread: seconds(
                "HEMICYCLE_STOP_SPREAD_S (--stop-spread-s)",
                &given.stop_spread_s,
            )?,
            zone: given.zone.clone(),
            log: log_filter(&given.log)?,
            log_format: log_format(&given.log_format)?,
            reload_every: RELOAD_EVERY,
        })
    }
}

fn seconds(field: &'static str, text: &str) -> Result<Duration, ConfigError> {
    within(field, text, 0..=3600, "a whole number of seconds, 0 to 3600").map(Duration::from_secs)
}

fn count(field: &'static str, text: &str) -> Result<u32, ConfigError> {
    within(field, text, 1..=1_000_000, "a whole number, 1 to 1000000")
}

fn rates(given: &Arguments) -> Result<[u32; 4], ConfigError> {
    Ok([
        count("HEMICYCLE_ANONYMOUS_RATE (--anonymous-rate)", &given.anonymous_rate)?,
        count("HEMICYCLE_ANONYMOUS_BURST (--anonymous-burst)", &given.anonymous_burst)?,
        count("HEMICYCLE_CONNECTION_RATE (--connection-rate)", &given.connection_rate)?,
        count("HEMICYCLE_CONNECTION_BURST (--connection-burst)", &given.connection_burst)?,
    ])
}

fn connections(given: &Arguments) -> Result<[usize; 2], ConfigError> {
    let all = count("HEMICYCLE_CONNECTIONS_MAX (--connections-max)", &given.connections_max)?;
    let field = "HEMICYCLE_CONNECTIONS_PER_ADDRESS_MAX (--connections-per-address-max)";
    let per_address = count(field, &given.connections_per_address_max)?;
    Ok([all, per_address].map(|number| usize::try_from(number).unwrap_or(usize::MAX)))
}

fn log_format(text: &str) -> Result<LogFormat, ConfigError> {
    match text {
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        other => Err(refused("HEMICYCLE_LOG_FORMAT (--log-format)", other, "json or text")),
    }
}

fn public_tls(given: &Arguments) -> Result<Option<PathBuf>, ConfigError> {
    let directory = given.public_tls_dir.clone();
    match given.public_tls.as_str() {
        "on" => Ok(Some(directory)),
        "off" => Ok(None),
        "auto" => Ok(directory.join("tls.crt").exists().then_some(directory)),
        other => Err(refused("HEMICYCLE_PUBLIC_TLS (--public-tls)", other, "auto, on or off")),
    }
}

fn placer_address(text: &str) -> Result<String, ConfigError> {
    let valid = |one: &str| {
        let port = one.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        port.and_then(|(_, port)| port.parse::<u16>().ok()).is_some_and(|port| port > 0)
    };
    if text.split(',').all(valid) {
        return Ok(text.to_owned());
    }
    let field = "HEMICYCLE_PLACER_ADDRESS (--placer-address)";
    Err(refused(field, text, "host:port, or several, comma separated"))
}

fn allowed_origins(text: &str) -> Result<Vec<String>, ConfigError> {
    let origins = text.split(',').map(str::trim).filter(|origin| !origin.is_empty());
    origins
        .map(|origin| {
            let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            if host.is_some_and(|host| !host.is_empty() && !host.contains('/')) {
                return Ok(origin.to_owned());
            }
            let field = "HEMICYCLE_ALLOWED_ORIGINS (--allowed-origins)";
            Err(refused(field, origin, "scheme://host[:port] without a path, comma separated"))
        })
        .collect()
}

fn log_filter(text: &str) -> Result<String, ConfigError> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => {
            let allowed = "a level or directives such as info,gateway=debug";
            Err(refused("HEMICYCLE_LOG (--log)", text, allowed))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(flags: &[&str]) -> Result<Config, ConfigError> {
        let fixed = ["gateway", "--tenant=ns/mc", "--placer-address=placer.test:7400"];
        Config::from_arguments(fixed.iter().chain(flags))
    }

    #[test]
    fn three_values_are_enough() {
        let config = with(&["--public-tls=off"]).expect("valid");
        assert_eq!(config.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(config.placer_server_name, "placer.mc.ns.hemicycle.internal");
        let config = with(&["--public-tls=on"]).expect("valid");
        assert_eq!(config.listen.to_string(), "0.0.0.0:8443");
    }

    #[test]
    fn an_error_is_one_line_with_field_value_and_what_is_allowed() {
        for (flag, field) in [
            ("--listen=here", "HEMICYCLE_LISTEN"),
            ("--public-tls=maybe", "HEMICYCLE_PUBLIC_TLS"),
            ("--trusted-hops=-1", "HEMICYCLE_TRUSTED_HOPS"),
            ("--anonymous-rate=0", "HEMICYCLE_ANONYMOUS_RATE"),
            ("--idle-s=1.5", "HEMICYCLE_IDLE_S"),
            ("--allowed-origins=visio.example", "HEMICYCLE_ALLOWED_ORIGINS"),
            ("--log-format=xml", "HEMICYCLE_LOG_FORMAT"),
            ("--log=a=b=c", "HEMICYCLE_LOG"),
            ("--room-auto-create=yes", "HEMICYCLE_ROOM_AUTO_CREATE"),
        ] {
            let text = with(&[flag]).expect_err(flag).to_string();
            assert!(text.starts_with(field) && text.contains("; allowed: "), "{text}");
            assert_eq!(text.lines().count(), 1);
        }
        let text = with(&["--nonsense"]).expect_err("unknown").to_string();
        assert!(text.contains("--nonsense") && text.lines().count() == 1, "{text}");
        let text = Config::from_arguments(["gateway", "--tenant=mc"]).expect_err("no namespace");
        assert!(text.to_string().starts_with("HEMICYCLE_TENANT"), "{text}");
    }
}
