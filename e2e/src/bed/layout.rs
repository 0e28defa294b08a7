//! Addresses, names and file paths of the bed. Decides where everything is; starts nothing.
//!
//! 198.18.0.1 control plane and tests · 198.18.0.(10+N) node N · 198.19.N.0/24 pods of node N ·
//! 198.18.240.0/20 Services, .10 of it DNS · 198.18.0.254 the machine's end of the door. All from
//! the block set aside for test networks (RFC 2544), so that nothing real is ever meant.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Error, Result};

/// More nodes than this were never tried; `fs.inotify.max_user_instances` ends it somewhere above.
pub const NODES_MAX: u8 = 9;

/// Beds that one run may have at once, so that whatever ends it knows all of their names.
pub const BEDS_MAX: u8 = 3;

/// The environment variable that moves the state directory, so that two beds do not clash.
pub(super) const STATE_VARIABLE: &str = "HEMICYCLE_BED";

/// Marks a directory as a bed's, which may be emptied.
const MARK: &str = ".hemicycle-bed";

/// The API server as nodes and tests see it.
pub(super) const API_SERVER: &str = "https://198.18.0.1:6443";

/// Address of node `n`.
#[must_use]
pub fn node_address(n: u8) -> String {
    format!("198.18.0.{}", u16::from(n) + 10)
}

/// The provider's region that the bed's machines say they are in.
const REGION: &str = "eu-example-1";

/// Zone of node `n`, as a provider would label it: one of three, the first node's in the first.
#[must_use]
pub fn zone(n: u8) -> String {
    let letter = ["a", "b", "c"][usize::from(n.saturating_sub(1)) % 3];
    format!("{REGION}{letter}")
}

/// `spec.providerID` of node `n`, as a cloud's machine would have it.
pub(super) fn machine(n: u8) -> String {
    format!("example:///{}/i-{n:08}", zone(n))
}

/// First address part of the pods of node `n`.
pub(super) fn pod_block(n: u8) -> String {
    format!("198.19.{n}.0/24")
}

/// The state directory of a bed and what lies in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    state: PathBuf,
}

impl Layout {
    /// The layout in `state`, an absolute path.
    #[must_use]
    pub fn new(state: PathBuf) -> Self {
        Self { state }
    }

    /// `$HEMICYCLE_BED`, by default `/var/tmp/hemicycle-bed`.
    #[must_use]
    pub fn from_environment() -> Self {
        let state = std::env::var_os(STATE_VARIABLE).unwrap_or("/var/tmp/hemicycle-bed".into());
        let state = PathBuf::from(state);
        Self::new(std::path::absolute(&state).unwrap_or(state))
    }

    /// The layouts of all beds that a run on this one may have, itself first.
    #[must_use]
    pub fn all_of_run(&self) -> Vec<Self> {
        let further = |n| Self::new(self.state.with_added_extension(format!("bed{n}")));
        std::iter::once(self.clone()).chain((2..=BEDS_MAX).map(further)).collect()
    }

    /// The directory itself.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Log of the part or node called `name`.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.state.join("log").join(name)
    }

    /// Kubeconfig of `user`.
    #[must_use]
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.pki(&format!("{user}.kubeconfig"))
    }

    /// What kubectl remembers of an API server, by its address alone, which every bed has.
    pub(super) fn kubectl_cache(&self) -> PathBuf {
        self.state.join("kubectl-cache")
    }

    pub(super) fn pki(&self, file: &str) -> PathBuf {
        self.state.join("pki").join(file)
    }

    pub(super) fn pid(&self, name: &str) -> PathBuf {
        self.state.join("pid").join(name)
    }

    pub(super) fn node(&self, n: u8) -> PathBuf {
        self.state.join(format!("n{n}"))
    }

    /// Where the kubelet of node `n` looks for static pods, which no API server was asked about.
    #[must_use]
    pub fn static_pods(&self, n: u8) -> PathBuf {
        self.node(n).join("etc-cni/static")
    }

    /// The command `testbed` that belongs to this bed.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.state.join("testbed")
    }

    pub(super) fn bins_file(&self) -> PathBuf {
        self.state.join("bins")
    }

    pub(super) fn complete_file(&self) -> PathBuf {
        self.state.join("complete")
    }

    pub(super) fn door_file(&self) -> PathBuf {
        self.state.join("door")
    }

    pub(super) fn ready_file(&self) -> PathBuf {
        self.state.join("ready")
    }

    /// The numbers of the nodes that this bed was started with.
    pub fn nodes(&self) -> Vec<u8> {
        (1..=NODES_MAX).filter(|n| self.node(*n).is_dir()).collect()
    }

    /// The cgroup of `part` (of the whole bed, if empty) below each controller's root.
    pub(super) fn cgroup(&self, part: &str) -> PathBuf {
        let name = self.state.file_name().unwrap_or("hemicycle-bed".as_ref());
        if part.is_empty() { name.into() } else { Path::new(name).join(part) }
    }

    /// The cgroup of what a script runs on the bed, beside the bed's own.
    pub(super) fn run_cgroup(&self) -> PathBuf {
        self.cgroup("").with_added_extension("run")
    }

    /// The cgroup of what a script runs only while no bed wants the processor.
    pub(super) fn aside_cgroup(&self) -> PathBuf {
        self.cgroup("").with_added_extension("aside")
    }

    pub(super) fn create(&self, nodes: u8) -> Result<()> {
        if nodes == 0 || nodes > NODES_MAX {
            let known = format!("1 to {NODES_MAX}");
            return Err(Error::Unknown { name: format!("a bed of {nodes} nodes"), known });
        }
        fs::create_dir_all(&self.state)
            .map_err(|source| Error::file("create", &self.state, source))?;
        self.write(&self.state.join(MARK), "made by testbed up, emptied by testbed down\n")?;
        let parts = ["log", "pid", "pki", "etcd"].map(|part| self.state.join(part));
        for directory in parts.into_iter().chain((1..=nodes).map(|n| self.node(n))) {
            fs::create_dir_all(&directory)
                .map_err(|source| Error::file("create", &directory, source))?;
        }
        Ok(())
    }

    /// Removes the state directory; never one that a bed did not make.
    pub(super) fn remove(&self) -> Result<()> {
        let used = fs::read_dir(&self.state).is_ok_and(|mut entries| entries.next().is_some());
        if used && !self.state.join(MARK).exists() {
            return Err(Error::Machine {
                what: format!("{} holds files that no test bed made", self.state.display()),
                remedy: "set HEMICYCLE_BED to a directory that may be emptied",
            });
        }
        match fs::remove_dir_all(&self.state) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file("remove", &self.state, source))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn write(&self, path: &Path, text: &str) -> Result<()> {
        fs::write(path, text).map_err(|source| Error::file("write", path, source))
    }
}
