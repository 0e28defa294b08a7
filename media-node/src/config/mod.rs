//! Configuration: flags over environment over one YAML file over defaults, all from one table.
//!
//! Decides what a value means and refuses what makes no sense; opens nothing but the YAML file.
//! Invariant: a [`Config`] that exists can be served; an error is one line that names the field,
//! the value and what is allowed.

mod settings;
mod values;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use media_api::ticket::PublicKey;
use media_core::io::RoomOptions;
pub use settings::{Given, SETTINGS, Setting, command, printed_default};
use values::Lookup;

/// Why a configuration is refused. Each is one line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("{field}: `{}` is not allowed; allowed is {allowed}", .value.escape_debug())]
    Value { field: &'static str, value: String, allowed: &'static str },
    #[error(
        "{}: unknown field `{}`; `--print-config` lists the known ones",
        .file.escape_debug(),
        .field.escape_debug()
    )]
    UnknownField { file: String, field: String },
    #[error("{}: {reason}", .file.escape_debug())]
    File { file: String, reason: String },
    #[error("{field}: nothing given, but needed outside `--dev`; allowed is {allowed}")]
    Missing { field: &'static str, allowed: &'static str },
}

/// What `media-node` was asked to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// Alone, for developers: no TLS, no operator, generated secret, tokens handed out freely.
    pub dev: bool,
    pub tenant: String,
    pub media_node_name: String,
    pub signal_address: SocketAddr,
    /// None: nobody claims rooms, joins create them.
    pub control_address: Option<SocketAddr>,
    pub admin_address: SocketAddr,
    /// Local addresses the media sockets are bound to.
    pub media_addresses: Vec<IpAddr>,
    /// Addresses clients are told; empty: those the sockets are bound to.
    pub advertised_addresses: Vec<IpAddr>,
    /// Shard n listens on this port plus n.
    pub udp_port_first: u16,
    /// None: no media over TCP.
    pub tcp_port: Option<u16>,
    pub shards: usize,
    /// What the process may use, in thousandths of a CPU.
    pub cpu_millicores: u64,
    /// None: a generated key, with `dev` only.
    pub keys_file: Option<PathBuf>,
    /// Holds `tls.crt`, `tls.key`, `ca.crt`. None: plain HTTP.
    pub tls_directory: Option<PathBuf>,
    /// Where the highest epoch is kept over a restart of the process. None: nowhere.
    pub state_directory: Option<PathBuf>,
    /// A lower epoch is not obeyed, even if none was seen yet.
    pub epoch_floor: u64,
    /// Whose tickets count; none without a control listener.
    pub ticket_keys: Vec<PublicKey>,
    pub pod_uid: String,
    pub kubernetes_node: String,
    pub scopes: Vec<String>,
    /// A join creates its room (without an operator only).
    pub auto_create: bool,
    pub rooms_max: usize,
    pub room: RoomOptions,
    /// How long a stop waits for participants to be told where to go.
    pub stop_timeout: Duration,
    pub log_format: LogFormat,
    pub log_filter: String,
    pub page_directory: Option<PathBuf>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl Config {
    /// The configuration out of everything that was given. `cpus` is what `auto` counts.
    pub fn resolve(given: &Given, cpus: usize) -> Result<Self, ConfigError> {
        let dev = given.dev;
        let from = Lookup::new(given);
        let tenant = from.tenant()?;
        let mut signal_address = from.address("signal_address")?;
        let mut admin_address = from.address("admin_address")?;
        if let Some(bind) = from.optional_ip("bind")? {
            signal_address.set_ip(bind);
            admin_address.set_ip(bind);
        }
        let control_address = from.optional_address("control_address")?;
        let tls_directory = from.optional_path("tls_directory");
        if control_address.is_some() && tls_directory.is_none() {
            return Err(ConfigError::Missing {
                field: "tls_directory",
                allowed: "a directory, or control_address `off` as well",
            });
        }
        if control_address.is_some() && from.given_empty("advertised_addresses") {
            // The operator has not written it yet; the kubelet starts the container again.
            return Err(ConfigError::Missing {
                field: "advertised_addresses",
                allowed: "IP addresses separated by commas",
            });
        }
        if control_address.is_some() {
            ticket_fields(&from)?;
        }
        let keys_file = from.optional_path("keys_file");
        if keys_file.is_none() && !dev {
            return Err(ConfigError::Missing { field: "keys_file", allowed: "a file" });
        }
        let (shards, cpu_millicores) = processors(&from, cpus)?;
        let udp_port_first = from.number("udp_port_first", 0, 65_535)? as u16;
        if udp_port_first != 0 && usize::from(udp_port_first) + shards > 65_536 {
            return Err(from.refused("udp_port_first", "a port with room for every shard above it"));
        }
        let tcp_port = from.number("tcp_port", 0, 65_535)? as u16;
        Ok(Self {
            dev,
            tenant,
            media_node_name: from.text("media_node_name"),
            signal_address,
            control_address,
            admin_address,
            media_addresses: from.addresses("media_addresses")?,
            advertised_addresses: from.addresses("advertised_addresses")?,
            udp_port_first,
            tcp_port: from.switched_on("tcp_port").then_some(tcp_port),
            shards,
            cpu_millicores,
            keys_file,
            tls_directory,
            state_directory: from.optional_path("state_directory"),
            epoch_floor: from.number("epoch_floor", 0, u64::MAX)?,
            ticket_keys: from.public_keys("ticket_keys")?,
            pod_uid: from.text("pod_uid"),
            kubernetes_node: from.text("kubernetes_node"),
            scopes: from.list("scopes"),
            auto_create: from.flag("auto_create")?,
            rooms_max: from.number("rooms_max", 1, 100_000)? as usize,
            room: room_options(&from)?,
            stop_timeout: Duration::from_secs(from.number("stop_timeout_seconds", 0, 3_600)?),
            log_format: from.log_format()?,
            log_filter: from.text("log_level"),
            page_directory: from.optional_path("page_directory"),
        })
    }
}

/// Packet threads, and what the process may use in thousandths of a CPU, of which it sees `cpus`.
fn processors(from: &Lookup<'_>, cpus: usize) -> Result<(usize, u64), ConfigError> {
    let cpus = cpus as u64;
    let spare = cpus.saturating_sub(1).max(1);
    let allowed = "`auto` or a number from 1 to 256";
    let shards = from.number_or_auto("shards", spare, 256, allowed)? as usize;
    let allowed = "`auto` or a number from 1 to 1024000";
    let all = cpus.saturating_mul(1_000);
    Ok((shards, from.number_or_auto("cpu_millicores", all, 1_024_000, allowed)?))
}

fn room_options(from: &Lookup<'_>) -> Result<RoomOptions, ConfigError> {
    let seconds = |field| from.number(field, 0, 86_400).map(|seconds| seconds as u32);
    Ok(RoomOptions {
        empty_timeout_seconds: seconds("room_empty_timeout_seconds")?,
        departure_timeout_seconds: seconds("room_departure_timeout_seconds")?,
        participants_max: from.number("room_participants_max", 0, 100_000)? as u32,
        enable_remote_unmute: from.flag("room_enable_remote_unmute")?,
        sync_streams: from.flag("room_sync_streams")?,
        ..RoomOptions::default()
    })
}

/// Whoever takes rooms from an operator must be able to tell its ticket from any other.
fn ticket_fields(from: &Lookup<'_>) -> Result<(), ConfigError> {
    for (field, allowed) in [
        ("ticket_keys", "public keys in base64, or control_address `off` as well"),
        ("pod_uid", "metadata.uid of the pod"),
        ("kubernetes_node", "spec.nodeName of the pod"),
        ("scopes", "names of scopes separated by commas"),
    ] {
        if !from.switched_on(field) {
            return Err(ConfigError::Missing { field, allowed });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 32 bytes, which is all that is asked of a public key here.
    const KEY: &str = "--ticket-keys=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    /// What the operator writes into every pod.
    const POD: [&str; 6] = [
        "--tenant=ns/visio",
        "--media-node-name=visio-1",
        KEY,
        "--pod-uid=uid-1",
        "--kubernetes-node=paris-1",
        "--scopes=gold,silver",
    ];

    fn given(arguments: &[&str]) -> Result<Given, ConfigError> {
        let line = std::iter::once("media-node").chain(arguments.iter().copied());
        let matches = command().try_get_matches_from(line).unwrap();
        Given::from_matches(&matches)
    }

    fn config(arguments: &[&str]) -> Result<Config, ConfigError> {
        Config::resolve(&given(arguments)?, 4)
    }

    #[test]
    fn dev_needs_nothing_and_stays_on_this_machine() {
        let config = config(&["--dev"]).unwrap();
        assert_eq!(config.signal_address.to_string(), "127.0.0.1:7880");
        assert_eq!((config.control_address, config.tls_directory), (None, None));
        assert_eq!(config.tenant, "dev/dev");
        assert_eq!(config.shards, 3);
    }

    #[test]
    fn a_pod_gets_the_listeners_of_the_contract() {
        let config = config(&POD).unwrap();
        assert_eq!(config.signal_address.to_string(), "0.0.0.0:7880");
        assert_eq!(config.control_address.unwrap().to_string(), "0.0.0.0:7881");
        assert_eq!(config.admin_address.to_string(), "0.0.0.0:7882");
        assert_eq!(config.tls_directory.unwrap().to_str(), Some("/etc/hemicycle/tls"));
    }

    #[test]
    fn with_an_operator_tickets_must_be_told_from_any_other() {
        for field in ["ticket_keys", "pod_uid", "kubernetes_node", "scopes"] {
            let flag = format!("--{}", field.replace('_', "-"));
            let without: Vec<&str> =
                POD.into_iter().filter(|argument| !argument.starts_with(&flag)).collect();
            let text = config(&without).unwrap_err().to_string();
            assert!(text.starts_with(&format!("{field}: nothing given")), "{text}");
            let off = format!("{flag}=off");
            let text = config(&[&without[..], &[&off]].concat()).unwrap_err().to_string();
            assert!(text.starts_with(&format!("{field}: nothing given")), "{text}");
            config(&[&without[..], &["--control-address=off"]].concat()).unwrap();
        }
        let read = config(&POD).unwrap();
        assert_eq!((read.ticket_keys.len(), read.scopes.len()), (1, 2));
    }

    #[test]
    fn an_error_is_one_line_with_field_value_and_what_is_allowed() {
        for (arguments, field, value) in [
            (&["--dev", "--udp-port-first", "70000"][..], "udp_port_first", "70000"),
            (&["--dev", "--udp-port-first", "65535"], "udp_port_first", "65535"),
            (&["--dev", "--shards", "many"], "shards", "many"),
            (&["--dev", "--signal-address", "here"], "signal_address", "here"),
            (&["--dev", "--auto-create", "maybe"], "auto_create", "maybe"),
            (&["--dev", "--media-addresses", "127.0.0.1,nine"], "media_addresses", "nine"),
            (&["--dev", "--log-format", "xml"], "log_format", "xml"),
            (&["--dev", "--ticket-keys", "c2hvcnQ="], "ticket_keys", "c2hvcnQ="),
            (&["--dev", "--tenant", "no-slash"], "tenant", "no-slash"),
        ] {
            let text = config(arguments).unwrap_err().to_string();
            assert!(text.contains(field) && text.contains(value), "{text}");
            assert!(text.contains("allowed") && !text.contains('\n'), "{text}");
        }
        let text = config(&[&POD[..], &["--keys-file=off"]].concat());
        assert!(text.unwrap_err().to_string().starts_with("keys_file: nothing given"));
        let text = config(&["--dev", "--shards", "two\nlines"]).unwrap_err().to_string();
        assert!(text.contains("two\\nlines") && !text.contains('\n'), "{text}");
        let text = config(&["--control-address=off"]).unwrap_err().to_string();
        assert!(text.starts_with("tenant: nothing given"), "{text}");
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("media-node.yaml");
        std::fs::write(
            &path,
            "udp_port_first: 40000\nauto_create: false\n\
             advertised_addresses: [192.0.2.1, \"2001:db8::1\"]\n",
        )
        .unwrap();
        let file = path.to_str().unwrap();
        let read = config(&["--dev", "--config", file]).unwrap();
        assert_eq!((read.udp_port_first, read.auto_create), (40_000, false));
        assert_eq!(read.advertised_addresses.len(), 2);
        let read = config(&["--dev", "--config", file, "--udp-port-first", "41000"]).unwrap();
        assert_eq!(read.udp_port_first, 41_000);
    }

    #[test]
    fn a_misspelt_field_of_the_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("media-node.yaml");
        std::fs::write(&path, "udp_port_frist: 1\n").unwrap();
        let text = given(&["--config", path.to_str().unwrap()]).unwrap_err().to_string();
        assert!(text.contains("`udp_port_frist`") && !text.contains('\n'), "{text}");
        std::fs::write(&path, "udp_port_first: [1\n").unwrap();
        let text = given(&["--config", path.to_str().unwrap()]).unwrap_err().to_string();
        assert!(!text.contains('\n'), "{text}");
    }

    #[test]
    fn the_printed_default_is_a_valid_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("media-node.yaml");
        std::fs::write(&path, printed_default()).unwrap();
        let given = given(&[&["--config", path.to_str().unwrap()], &POD[..]].concat()).unwrap();
        Config::resolve(&given, 2).unwrap();
    }
}
