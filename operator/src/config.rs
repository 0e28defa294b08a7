//! Reads the operator's configuration from flags and environment, once, at start.
//! Decides nothing later: what is here does not change while the process runs.
//! Invariant: an invalid configuration is told in one line and ends the process with code 2.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;

use hemicycle_proof::retention::{Retention, RetentionError};

use crate::{
    admission::policies::{Digests, Settings},
    witness,
};

/// Pages of the journal are kept for six months at least, as SecNumCloud 3.2 (12.6.c) asks.
const JOURNAL_MONTHS_MIN: u16 = 6;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line, for a log pipeline.
    Json,
    /// Plain text, for a person at a terminal.
    Text,
}

/// How the admission policies are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AdmissionForm {
    /// As this configuration makes them, to be read or applied.
    Yaml,
    /// As the chart's template.
    Helm,
}

/// What the process is told at start.
#[derive(Clone, Debug, Parser)]
#[command(name = "operator", version, about = "Reconciles MeetingClusters and places rooms")]
pub struct Config {
    /// Namespace of the Lease and of this replica.
    #[arg(long, env = "HEMICYCLE_NAMESPACE", default_value = "hemicycle-system")]
    pub namespace: String,
    /// Name of this replica, the pod's name.
    #[arg(long, env = "HEMICYCLE_POD_NAME", default_value = "operator")]
    pub pod_name: String,
    /// Name of the Lease that the replicas contend for.
    #[arg(long, env = "HEMICYCLE_LEASE_NAME", default_value = "hemicycle-operator")]
    pub lease_name: String,
    /// Seconds after which an unchanged Lease may be taken by another replica. New rooms wait about
    /// as long when a leader dies; its writes end a second earlier when it cannot renew.
    #[arg(
        long,
        env = "HEMICYCLE_LEASE_SECONDS",
        default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(4..=60)
    )]
    pub lease_seconds: u32,
    /// Number of operator replicas; a leader cut off from the API server needs a majority of them.
    #[arg(
        long,
        env = "HEMICYCLE_REPLICAS",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=9)
    )]
    pub replicas: u32,
    /// Address of the admin listener: /healthz, /readyz, /metrics.
    #[arg(long, env = "HEMICYCLE_ADMIN_ADDRESS", default_value = "0.0.0.0:8082")]
    pub admin_address: SocketAddr,
    /// Address of the placement listener (gRPC over mutual TLS).
    #[arg(long, env = "HEMICYCLE_PLACER_LISTEN_ADDRESS", default_value = "0.0.0.0:7400")]
    pub placer_listen_address: SocketAddr,
    /// Name and port under which gateways and the other replicas find all replicas' placers.
    #[arg(
        long,
        env = "HEMICYCLE_PLACER_ADDRESS",
        default_value = "hemicycle-operator-placer.hemicycle-system.svc:7400"
    )]
    pub placer_address: String,
    /// Image of media nodes where a MeetingCluster names none.
    #[arg(
        long,
        env = "HEMICYCLE_MEDIA_NODE_IMAGE",
        default_value = "localhost/hemicycle/media-node:dev"
    )]
    pub media_node_image: String,
    /// Image of gateways where a MeetingCluster names none.
    #[arg(
        long,
        env = "HEMICYCLE_GATEWAY_IMAGE",
        default_value = "localhost/hemicycle/gateway:dev"
    )]
    pub gateway_image: String,
    /// Pull policy of both images: Always, IfNotPresent or Never.
    #[arg(
        long,
        env = "HEMICYCLE_IMAGE_PULL_POLICY",
        default_value = "IfNotPresent",
        value_parser = ["Always", "IfNotPresent", "Never"]
    )]
    pub image_pull_policy: String,
    /// User name by which the API server knows the operator; by default the ServiceAccount
    /// hemicycle-operator of its namespace.
    #[arg(long, env = "HEMICYCLE_OPERATOR_USER", value_parser = user_name)]
    pub operator_user: Option<String>,
    /// What images of media pods may begin with, comma separated, each ending in `/`; none: any.
    #[arg(
        long,
        env = "HEMICYCLE_IMAGE_PREFIXES",
        value_delimiter = ',',
        value_parser = image_prefix
    )]
    pub image_prefixes: Vec<String>,
    /// Whether images of media pods must be named by digest.
    #[arg(long, env = "HEMICYCLE_IMAGE_DIGESTS", default_value = "optional")]
    pub image_digests: Digests,
    /// Print the admission policies and end: as this configuration makes them, or as the chart's
    /// template.
    #[arg(long)]
    pub print_admission: Option<AdmissionForm>,
    /// Directory on a volume that all replicas share, for the proof of where meetings ran and the
    /// audit journal. Absent: no proof is kept, and acts are in the log alone.
    #[arg(long, env = "HEMICYCLE_PROOF_DIRECTORY")]
    pub proof_directory: Option<PathBuf>,
    /// Seconds that a signed statement covers at most: what a dying leader loses.
    #[arg(
        long,
        env = "HEMICYCLE_PROOF_EVERY_SECONDS",
        default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(5..=86_400)
    )]
    pub proof_every_seconds: u64,
    /// Months after which a page of the audit journal is deleted.
    #[arg(
        long,
        env = "HEMICYCLE_JOURNAL_MONTHS",
        default_value_t = 12,
        value_parser = clap::value_parser!(u16).range(6..=36)
    )]
    pub journal_months: u16,
    /// How log lines are written.
    #[arg(long, env = "HEMICYCLE_LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,
    /// What is logged, in tracing's filter syntax.
    #[arg(long, env = "HEMICYCLE_LOG", default_value = "info")]
    pub log: String,
}

impl Config {
    /// How the proof and the journal are kept.
    ///
    /// # Errors
    /// When the months do not go together.
    pub fn witness(&self) -> Result<witness::Settings, RetentionError> {
        Ok(witness::Settings {
            directory: self.proof_directory.clone(),
            every: Duration::from_secs(self.proof_every_seconds),
            retention: Retention::new(JOURNAL_MONTHS_MIN, self.journal_months)?,
        })
    }

    /// What the admission policies are filled with.
    #[must_use]
    pub fn admission(&self) -> Settings {
        let own = || format!("system:serviceaccount:{}:hemicycle-operator", self.namespace);
        Settings {
            operator: self.operator_user.clone().unwrap_or_else(own),
            image_prefixes: self.image_prefixes.clone(),
            image_digests: self.image_digests,
        }
    }

    /// Reads flags and environment. Help and version go to standard output and end the process with
    /// code 0; anything invalid is told in one line on standard error and ends it with code 2.
    #[must_use]
    pub fn from_process() -> Self {
        match Self::try_parse() {
            Ok(config) => config,
            Err(error) if !error.use_stderr() => error.exit(),
            Err(error) => {
                eprintln!("operator: {}", one_line(&error.to_string()));
                std::process::exit(2);
            }
        }
    }
}

/// A user name that can stand between quotes in CEL.
fn user_name(text: &str) -> Result<String, String> {
    let plain = |letter: char| letter.is_ascii_graphic() && !"'\"\\".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err("a user name has no spaces, quotes or backslashes".to_owned())
}

/// Ends in `/`: otherwise `registry.example.fr` would allow `registry.example.fr.example.org`.
fn image_prefix(text: &str) -> Result<String, String> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "./:_-".contains(letter);
    if text.len() > 1 && text.ends_with('/') && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err("an image prefix is a registry or a path in one, and ends in /".to_owned())
}

/// The first paragraph of clap's message, without its prefix and line breaks.
fn one_line(message: &str) -> String {
    let paragraph = message.split("\n\n").next().unwrap_or(message);
    let joined = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    joined.strip_prefix("error: ").unwrap_or(&joined).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_value_is_told_in_one_line_that_names_it() {
        let error = Config::try_parse_from(["operator", "--admin-address", "here"])
            .expect_err("not an address");
        let line = one_line(&error.to_string());
        assert!(!line.contains('\n'), "{line}");
        assert!(line.contains("here") && line.contains("--admin-address"), "{line}");
    }

    #[test]
    fn an_image_prefix_that_another_registry_could_have_is_refused() {
        let prefixes = |text| {
            let line = ["operator", "--image-prefixes", text];
            Config::try_parse_from(line).map(|config| config.image_prefixes)
        };
        let both = prefixes("registry.example.fr/,localhost:5000/media/").expect("good");
        assert_eq!(both, ["registry.example.fr/", "localhost:5000/media/"]);
        for bad in ["registry.example.fr", "/", "", "a'/", "a /"] {
            assert!(prefixes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn defaults_are_complete() {
        Config::try_parse_from(["operator"]).expect("defaults suffice");
    }
}
