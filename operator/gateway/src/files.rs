//! The mounted files: keys and certificates, taken over when they change, without a restart.
//!
//! Decides whether a changed file replaces what is in use. Invariant: a file that cannot be read or
//! is refused changes nothing; what was in use goes on serving, and the refusal is counted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use livekit_contract::keys_file;
use livekit_contract::token::{KeyRing, Strength};
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::tls::{self, ClientTls, TlsError};

/// Longest file read, in bytes: a certificate chain with its key is a few KiB.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is longer than any file of its kind.
    #[error("{0}: longer than {FILE_BYTES_MAX} bytes")]
    TooLong(PathBuf),
    /// The keys file is refused.
    #[error("{0}: {1}")]
    Keys(PathBuf, keys_file::KeysFileError),
    /// The certificate is refused.
    #[error("{0}: {1}")]
    Tls(PathBuf, TlsError),
}

/// The settings in use, replaced as a whole when their files change.
pub struct Files {
    /// The API keys.
    pub keys: ArcSwap<KeyRing>,
    /// Towards media nodes and placers.
    pub client: ArcSwap<ClientTls>,
    /// The public certificate, when the gateway ends TLS itself.
    pub public: Option<ArcSwap<ServerConfig>>,
}

struct Sources {
    keys: PathBuf,
    client: PathBuf,
    public: Option<PathBuf>,
}

/// The bytes last seen, so that only a change is looked at.
#[derive(Default)]
struct Seen {
    keys: Vec<u8>,
    client: Vec<Vec<u8>>,
    public: Vec<Vec<u8>>,
}

impl Files {
    /// Reads every file for the first time, and then whenever it changes, until `stop`.
    ///
    /// # Errors
    /// When a file cannot be used at the start.
    pub fn load_and_follow(
        config: &Config,
        metrics: &Metrics,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, FileError> {
        let sources = Sources {
            keys: config.keys_file.clone(),
            client: config.tls_dir.clone(),
            public: config.public_tls_dir.clone(),
        };
        let mut seen = Seen::default();
        let keys = read(&sources.keys)?;
        let client = read_client(&sources.client)?;
        let public = sources.public.as_deref().map(read_public).transpose()?;
        let files = Arc::new(Self {
            keys: ArcSwap::from_pointee(parse_keys(&sources.keys, &keys)?),
            client: ArcSwap::from_pointee(parse_client(&sources.client, &client)?),
            public: match (&sources.public, &public) {
                (Some(path), Some(bytes)) => Some(ArcSwap::new(parse_public(path, bytes)?)),
                _ => None,
            },
        });
        seen.keys = keys;
        seen.client = client;
        seen.public = public.unwrap_or_default();
        let (every, metrics, following) =
            (config.reload_every, metrics.clone(), Arc::clone(&files));
        tokio::spawn(async move {
            while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
                following.look(&sources, &mut seen, &metrics);
            }
        });
        Ok(files)
    }

    fn look(&self, sources: &Sources, seen: &mut Seen, metrics: &Metrics) {
        let keys = changed(read(&sources.keys), &mut seen.keys);
        let keys = keys.map(|bytes| bytes.and_then(|bytes| parse_keys(&sources.keys, &bytes)));
        report("keys", keys.map(|keys| keys.map(|keys| self.keys.store(Arc::new(keys)))), metrics);
        let client = changed(read_client(&sources.client), &mut seen.client);
        let client =
            client.map(|bytes| bytes.and_then(|bytes| parse_client(&sources.client, &bytes)));
        let stored = client.map(|tls| tls.map(|tls| self.client.store(Arc::new(tls))));
        report("client_certificate", stored, metrics);
        if let (Some(path), Some(slot)) = (&sources.public, &self.public) {
            let public = changed(read_public(path), &mut seen.public);
            let public = public.map(|bytes| bytes.and_then(|bytes| parse_public(path, &bytes)));
            let stored = public.map(|tls| tls.map(|tls| slot.store(tls)));
            report("public_certificate", stored, metrics);
        }
    }
}

/// The new bytes, if they are other than those last seen. An unreadable file is a change each time.
fn changed<T: Clone + PartialEq>(
    read: Result<T, FileError>,
    seen: &mut T,
) -> Option<Result<T, FileError>> {
    match read {
        Ok(bytes) if bytes == *seen => None,
        Ok(bytes) => {
            seen.clone_from(&bytes);
            Some(Ok(bytes))
        }
        Err(error) => Some(Err(error)),
    }
}

fn report(file: &str, result: Option<Result<(), FileError>>, metrics: &Metrics) {
    match result {
        None => {}
        Some(Ok(())) => {
            metrics.reloads.with_label_values(&[&format!("{file}_ok")]).inc();
            tracing::info!(file, "a changed file was taken over");
        }
        Some(Err(error)) => {
            metrics.reloads.with_label_values(&[&format!("{file}_refused")]).inc();
            tracing::warn!(file, %error, "a changed file is refused; the former one stays in use");
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    use std::io::Read;
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::TooLong(path.to_owned()));
    }
    Ok(bytes)
}

fn read_client(directory: &Path) -> Result<Vec<Vec<u8>>, FileError> {
    ["tls.crt", "tls.key", "ca.crt"].iter().map(|name| read(&directory.join(name))).collect()
}

fn read_public(directory: &Path) -> Result<Vec<Vec<u8>>, FileError> {
    ["tls.crt", "tls.key"].iter().map(|name| read(&directory.join(name))).collect()
}

fn parse_keys(path: &Path, bytes: &[u8]) -> Result<KeyRing, FileError> {
    let text = String::from_utf8_lossy(bytes);
    keys_file::parse(&text, Strength::Strict)
        .map_err(|error| FileError::Keys(path.to_owned(), error))
}

fn parse_client(directory: &Path, files: &[Vec<u8>]) -> Result<ClientTls, FileError> {
    let part = |index: usize| files.get(index).map_or(&[][..], Vec::as_slice);
    tls::client(part(0), part(1), part(2))
        .map_err(|error| FileError::Tls(directory.to_owned(), error))
}

fn parse_public(directory: &Path, files: &[Vec<u8>]) -> Result<Arc<ServerConfig>, FileError> {
    let part = |index: usize| files.get(index).map_or(&[][..], Vec::as_slice);
    tls::server(part(0), part(1)).map_err(|error| FileError::Tls(directory.to_owned(), error))
}
