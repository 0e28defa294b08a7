//! The table of settings, and the three places a value may come from.
//!
//! Decides precedence (flag, environment, file, default) and nothing about meaning. Invariant: a
//! setting that is not in the table exists nowhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Deserialize;

use super::ConfigError;

/// One thing that can be configured.
pub struct Setting {
    /// Field of the YAML file; the flag is the same in kebab case, the variable in upper case.
    pub name: &'static str,
    pub default: &'static str,
    /// The default with `--dev`, where it differs.
    pub default_dev: Option<&'static str>,
    pub about: &'static str,
}

const fn setting(name: &'static str, default: &'static str, about: &'static str) -> Setting {
    Setting { name, default, default_dev: None, about }
}

const fn setting_dev(
    name: &'static str,
    default: &'static str,
    default_dev: &'static str,
    about: &'static str,
) -> Setting {
    Setting { name, default, default_dev: Some(default_dev), about }
}

/// Every setting, in the order in which `--print-config` shows them.
pub const SETTINGS: &[Setting] = &[
    setting_dev(
        "tenant",
        "",
        "dev/dev",
        "meeting cluster this media node serves, as `namespace/name`",
    ),
    setting_dev("media_node_name", "", "dev", "name of its MediaNode resource"),
    setting_dev(
        "signal_address",
        "0.0.0.0:7880",
        "127.0.0.1:7880",
        "listener for `/rtc` and `/twirp`; mutual TLS for the gateway unless tls_directory is off",
    ),
    setting_dev(
        "control_address",
        "0.0.0.0:7881",
        "off",
        "listener for the operator (gRPC, mutual TLS); `off`: rooms need no claim",
    ),
    setting_dev(
        "admin_address",
        "0.0.0.0:7882",
        "127.0.0.1:7882",
        "listener for /healthz, /readyz and /metrics (plain HTTP)",
    ),
    setting("bind", "off", "one IP for the signal and admin listeners instead of those above"),
    setting_dev(
        "media_addresses",
        "0.0.0.0",
        "local",
        "IPs the media sockets are bound to, comma separated; `local`: those of this machine",
    ),
    setting(
        "advertised_addresses",
        "local",
        "IPs clients are told, at most one per media address; `local`: the media addresses",
    ),
    setting("udp_port_first", "50000", "UDP port of shard 0; shard n has this port plus n"),
    setting("tcp_port", "7883", "port for media over TCP; `off`: none"),
    setting("shards", "auto", "packet threads; `auto`: one less than the CPUs, at least 1"),
    setting(
        "cpu_millicores",
        "auto",
        "what the process may use of a second's CPU time, as the pod's limit has it; `auto`: the \
         CPUs that it may run on",
    ),
    setting_dev(
        "keys_file",
        "/etc/hemicycle/keys/keys.yaml",
        "off",
        "YAML map of API key to secret (32 bytes or more), read again when it changes; \
         `off`: a key of this run's own, with --dev only",
    ),
    setting_dev(
        "tls_directory",
        "/etc/hemicycle/tls",
        "off",
        "holds tls.crt, tls.key, ca.crt, read again when they change; `off`: plain HTTP",
    ),
    setting(
        "state_directory",
        "off",
        "writable, and as long-lived as the pod: the highest epoch is kept there over a restart",
    ),
    setting("epoch_floor", "0", "no leader of a lower epoch is obeyed, such as the pod's maker's"),
    setting(
        "ticket_keys",
        "off",
        "the operator's public keys in base64, comma separated; a room is admitted only under a \
         ticket that one of them proves; `off`: only when control_address is off as well",
    ),
    setting("pod_uid", "", "metadata.uid of the pod, which tickets name"),
    setting("kubernetes_node", "", "spec.nodeName of the pod, which tickets name"),
    setting("scopes", "", "scopes that the pod was made for, comma separated, one in each ticket"),
    setting(
        "auto_create",
        "true",
        "whether a join creates its room; without effect when rooms are claimed",
    ),
    setting("rooms_max", "2000", "rooms at once"),
    setting("room_empty_timeout_seconds", "300", "life of a room nobody joined"),
    setting("room_departure_timeout_seconds", "20", "life of a room after the last one left"),
    setting("room_participants_max", "0", "participants per room; 0: no limit"),
    setting("room_enable_remote_unmute", "false", "whether a room admin may unmute others"),
    setting(
        "room_sync_streams",
        "true",
        "whether a participant's audio and video reach browsers in one stream, for lip sync",
    ),
    setting("stop_timeout_seconds", "5", "how long a stop waits for participants to leave"),
    setting("log_format", "json", "`json` or `text`"),
    setting(
        "log_level",
        "info,str0m=error,is=error,dimpl=error,sctp_proto=error",
        "a tracing filter; the libraries in it can name addresses at lower levels",
    ),
    setting_dev("page_directory", "off", "e2e/web/dist", "static page served at `/` with --dev"),
];

/// What was given, by setting name, before it is understood.
#[derive(Debug, Default, Clone)]
pub struct Given {
    pub dev: bool,
    pub(super) values: BTreeMap<&'static str, String>,
}

/// A scalar or a list of scalars of the YAML file, as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum FileValue {
    Flag(bool),
    Number(i64),
    Text(String),
    List(Vec<String>),
}

impl FileValue {
    fn text(self) -> String {
        match self {
            Self::Flag(flag) => flag.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
            Self::List(items) => items.join(","),
        }
    }
}

/// The command line, made from the table.
pub fn command() -> Command {
    let mut command = Command::new("media-node")
        .about("Hosts meetings: LiveKit-compatible signalling and media forwarding")
        .version(env!("CARGO_PKG_VERSION"))
        .arg(
            Arg::new("dev")
                .long("dev")
                .action(ArgAction::SetTrue)
                .help("run alone on this machine; prints URL, key, secret and a join link"),
        )
        .arg(
            Arg::new("config")
                .long("config")
                .env("HEMICYCLE_CONFIG")
                .help("YAML file with the fields that --print-config shows"),
        )
        .arg(
            Arg::new("print-config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("print the documented default configuration and exit"),
        );
    for setting in SETTINGS {
        let argument = Arg::new(setting.name)
            .long(setting.name.replace('_', "-"))
            .env(format!("HEMICYCLE_{}", setting.name.to_uppercase()))
            .hide_env(true)
            .help(setting.about)
            .num_args(1);
        command = command.arg(argument);
    }
    command
}

impl Given {
    /// What a file of that name says, alone.
    pub fn from_yaml(dev: bool, file: &str, text: &str) -> Result<Self, ConfigError> {
        Ok(Self { dev, values: read_yaml(file, text)? })
    }

    /// Collects flags, environment and the file they name.
    pub fn from_matches(matches: &ArgMatches) -> Result<Self, ConfigError> {
        let dev = matches.get_flag("dev");
        let mut values = match matches.get_one::<String>("config") {
            Some(path) => read_file(Path::new(path))?,
            None => BTreeMap::new(),
        };
        for setting in SETTINGS {
            if let Some(value) = matches.get_one::<String>(setting.name) {
                values.insert(setting.name, value.clone());
            }
        }
        Ok(Self { dev, values })
    }
}

fn read_file(path: &Path) -> Result<BTreeMap<&'static str, String>, ConfigError> {
    let file = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => read_yaml(&file, &text),
        Err(error) => Err(unreadable(&file, &error)),
    }
}

fn unreadable(file: &str, reason: &impl ToString) -> ConfigError {
    let reason = reason.to_string();
    let reason = reason.lines().next().unwrap_or_default().to_owned();
    ConfigError::File { file: file.to_owned(), reason }
}

fn read_yaml(file: &str, text: &str) -> Result<BTreeMap<&'static str, String>, ConfigError> {
    let read: BTreeMap<String, FileValue> =
        serde_saphyr::from_str(text).map_err(|error| unreadable(file, &error))?;
    let mut values = BTreeMap::new();
    for (field, value) in read {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name == field) else {
            return Err(ConfigError::UnknownField { file: file.to_owned(), field });
        };
        values.insert(setting.name, value.text());
    }
    Ok(values)
}

/// A commented YAML file with every default, which is itself a valid `--config`.
pub fn printed_default() -> String {
    let mut text = String::from(
        "# media-node: every setting with its default. A flag (--udp-port-first) wins over the\n\
         # environment (HEMICYCLE_UDP_PORT_FIRST), which wins over this file.\n",
    );
    for setting in SETTINGS {
        let _ = write!(text, "\n# {}", setting.about);
        if let Some(dev) = setting.default_dev {
            let _ = write!(text, " (with --dev: {dev})");
        }
        let _ = write!(text, "\n{}: \"{}\"\n", setting.name, setting.default);
    }
    text
}
