//! The auditor's and the owner's program: verify a bundle or a journal, export a store, make keys
//! and declarations.
//!
//! Reads and writes files; decides nothing that the library does not decide. Exit 0: sound. Exit 1:
//! not sound, each finding on a line. Exit 2: bad usage, or a file that cannot be read or written.

mod files;

use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use hemicycle_proof::account::Account;
use hemicycle_proof::declaration::Declaration;
use hemicycle_proof::moment::DAY_MS;
use hemicycle_proof::plain::{self, Lang};
use hemicycle_proof::{Moment, PublicKey, RoomHashKey, SigningKey, Text, bundle, journal};

/// Proof of where meetings ran: verify it offline, export it, make keys and declarations.
#[derive(Parser)]
#[command(name = "hemicycle-proof", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a bundle with nothing but the public key, and say what it proves and what not.
    Verify(Verify),
    /// Write the store of a meeting cluster (records/*.json, checkpoint.json) as one bundle.
    Export {
        /// Directory of the store.
        directory: PathBuf,
    },
    /// Look at the audit journal.
    Audit {
        #[command(subcommand)]
        command: Audit,
    },
    /// Make a signing key (PKCS#8 PEM, mode 0600) and its public key; overwrites nothing.
    Keygen {
        /// File for the private key.
        #[arg(long)]
        private: PathBuf,
        /// File for the public key.
        #[arg(long)]
        public: PathBuf,
        /// File for a key under which rooms are hashed (mode 0600), when one is wanted.
        #[arg(long)]
        room_key: Option<PathBuf>,
    },
    /// Sign that a Kubernetes node lies in a scope; the line goes to standard output.
    Declare(Declare),
}

#[derive(Args)]
struct Verify {
    /// The bundle; `-` for standard input.
    bundle: PathBuf,
    /// The public key, as PEM or base64.
    #[arg(long)]
    key: PathBuf,
    /// Language of the verdict.
    #[arg(long, value_enum, default_value_t = Language::En)]
    lang: Language,
    /// The key under which rooms are hashed, to find meetings by their names.
    #[arg(long, requires = "room")]
    room_key: Option<PathBuf>,
    /// Name of a room to find; may be given several times.
    #[arg(long, requires = "room_key")]
    room: Vec<String>,
}

#[derive(Subcommand)]
enum Audit {
    /// Check that no entry of daily files, given in order, is altered or missing.
    Verify {
        /// The files, oldest first.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// A bundle whose signed checkpoint vouches for the journal.
        #[arg(long, requires = "key")]
        bundle: Option<PathBuf>,
        /// The public key of the bundle.
        #[arg(long, requires = "bundle")]
        key: Option<PathBuf>,
        /// Language of the verdict.
        #[arg(long, value_enum, default_value_t = Language::En)]
        lang: Language,
    },
}

#[derive(Args)]
struct Declare {
    /// The private key of the scope's owner.
    #[arg(long)]
    key: PathBuf,
    /// Name of the Kubernetes node.
    #[arg(long)]
    kubernetes_node: String,
    /// Its `spec.providerID`.
    #[arg(long)]
    provider_id: String,
    /// Name of the `QualificationScope`.
    #[arg(long)]
    scope: String,
    /// For how many days it holds.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=1_096))]
    days: u16,
    /// From when on, such as 2026-11-28T00:00:00.000Z; now unless given.
    #[arg(long)]
    issued_at: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Language {
    /// English.
    En,
    /// French.
    Fr,
}

impl From<Language> for Lang {
    fn from(language: Language) -> Self {
        match language {
            Language::En => Self::English,
            Language::Fr => Self::French,
        }
    }
}

/// Whether what was looked at is sound.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Sound,
    NotSound,
}

/// What to print, and the verdict; or what went wrong.
type Outcome = Result<(Vec<u8>, Verdict), String>;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Verify(wanted) => verify(&wanted),
        Command::Export { directory } => {
            files::bundle(&directory).map(|bundle| (bundle, Verdict::Sound))
        }
        Command::Audit { command } => audit(&command),
        Command::Keygen { private, public, room_key } => keygen(&private, &public, room_key),
        Command::Declare(wanted) => declare(&wanted),
    };
    let shown = outcome.and_then(|(text, verdict)| {
        let mut out = std::io::stdout().lock();
        let written = out.write_all(&text).and_then(|()| out.flush());
        written.map(|()| verdict).map_err(|error| format!("standard output: {error}"))
    });
    match shown {
        Ok(Verdict::Sound) => ExitCode::SUCCESS,
        Ok(Verdict::NotSound) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hemicycle-proof: {error}");
            ExitCode::from(2)
        }
    }
}

fn verify(wanted: &Verify) -> Outcome {
    let lang = wanted.lang.into();
    let key = files::public_key(&wanted.key)?;
    let bytes = files::bytes(&wanted.bundle, bundle::BUNDLE_BYTES_MAX)?;
    let room_key = match &wanted.room_key {
        Some(path) => Some(RoomHashKey::parse(&files::text(path)?).map_err(|e| at(path, e))?),
        None => None,
    };
    let rooms = |account: &Account| -> String {
        let hashes = room_key.iter().flat_map(|key| {
            let tenant = account.checkpoint.tenant.as_str();
            wanted.room.iter().map(move |name| (name, key.hash(tenant, name)))
        });
        let stays = |hash| account.rooms.get(&hash).map(Vec::as_slice).unwrap_or_default();
        hashes.map(|(name, hash)| plain::room(lang, name, stays(hash))).collect()
    };
    Ok(match bundle::verify(&bytes, &key) {
        Ok(account) => {
            let page = plain::account(lang, &account) + &rooms(&account);
            (page.into_bytes(), Verdict::Sound)
        }
        Err(refused) => {
            let found = refused.account.as_deref().map(rooms).unwrap_or_default();
            let page = plain::refusal(lang, &refused) + &found;
            (page.into_bytes(), Verdict::NotSound)
        }
    })
}

fn audit(command: &Audit) -> Outcome {
    let Audit::Verify { files: paths, bundle, key, lang } = command;
    let lang = (*lang).into();
    let anchor = match (bundle, key) {
        (Some(bundle), Some(key)) => Some(anchor(bundle, &files::public_key(key)?)?),
        _ => None,
    };
    let mut text = Vec::new();
    for path in paths {
        text.extend(files::bytes(path, bundle::BUNDLE_BYTES_MAX)?);
    }
    Ok(match journal::verify(&text, anchor) {
        Ok(verified) => (plain::journal(lang, &verified).into_bytes(), Verdict::Sound),
        Err(findings) => (plain::journal_findings(lang, &findings).into_bytes(), Verdict::NotSound),
    })
}

/// The line of the journal that a bundle's checkpoint names; the bundle must be intact.
fn anchor(path: &std::path::Path, key: &PublicKey) -> Result<hemicycle_proof::Sha256, String> {
    let bytes = files::bytes(path, bundle::BUNDLE_BYTES_MAX)?;
    let account = match bundle::verify(&bytes, key) {
        Ok(account) => account,
        Err(refused) => *refused
            .account
            .ok_or_else(|| at(path, "the bundle is refused: look at it with `verify`"))?,
    };
    account.checkpoint.journal.ok_or_else(|| at(path, "its checkpoint names no journal"))
}

fn keygen(
    private: &std::path::Path,
    public: &std::path::Path,
    room_key: Option<PathBuf>,
) -> Outcome {
    let key = SigningKey::generate().map_err(|error| error.to_string())?;
    let pem = key.to_pem().map_err(|error| error.to_string())?;
    files::create(private, &pem, files::Readers::Owner)?;
    files::create(public, &key.public_key().to_pem(), files::Readers::All)?;
    if let Some(path) = room_key {
        let text = RoomHashKey::generate_text().map_err(|error| error.to_string())?;
        files::create(&path, &text, files::Readers::Owner)?;
    }
    let told = format!("{}\n", key.public_key().key_id());
    Ok((told.into_bytes(), Verdict::Sound))
}

fn declare(wanted: &Declare) -> Outcome {
    let key = SigningKey::from_pem(&files::text(&wanted.key)?).map_err(|e| at(&wanted.key, e))?;
    let issued_at = match &wanted.issued_at {
        Some(text) => Moment::parse(text).map_err(|error| format!("--issued-at: {error}"))?,
        None => now(),
    };
    let text =
        |flag: &str, given: &str| Text::new(given).map_err(|error| format!("--{flag}: {error}"));
    let declaration = Declaration {
        kubernetes_node: text("kubernetes-node", &wanted.kubernetes_node)?,
        provider_id: text("provider-id", &wanted.provider_id)?,
        scope: text("scope", &wanted.scope)?,
        issued_at,
        expires_at: issued_at.plus_ms(u64::from(wanted.days) * DAY_MS),
    };
    let line = declaration.sign(&key).map_err(|error| error.to_string())?.to_line();
    Ok((format!("{line}\n").into_bytes(), Verdict::Sound))
}

fn now() -> Moment {
    let unix_ms = jiff::Timestamp::now().as_millisecond();
    Moment::from_unix_ms(u64::try_from(unix_ms).unwrap_or_default())
}

fn at(path: &std::path::Path, what: impl Display) -> String {
    format!("{}: {what}", path.display())
}
