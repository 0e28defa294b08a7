//! The test bed: a real Kubernetes cluster on one Linux machine, without a container engine and
//! without a pulled image.
//!
//! One process (`unshare`) holds a mount, PID, network, IPC and UTS namespace in which everything
//! lives: the control plane, and every Kubernetes node again in namespaces of its own. Ending
//! that process ends everything; only cgroups and the state directory are then left to remove.
//! The bed never touches the machine's own network, save for one named cable (`door`) that a
//! person's browser may use.
//!
//! Invariant: whatever was killed half-way, the next `up` or `down` finds and removes it, because
//! every process of the bed, and of the demo or `verify` on it, sits in a cgroup that bears the
//! bed's name.

mod cgroup;
mod clock;
pub mod command;
mod control_plane;
mod door;
mod error;
mod faults;
mod forward;
mod kubernetes_node;
mod layout;
mod namespaces;
mod pki;
mod tools;
mod usage;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

pub use control_plane::Part;
pub use error::Error;
pub use forward::forward;
pub use layout::{BEDS_MAX, Layout, NODES_MAX, node_address, zone};
pub use tools::{Minor, Tools};
pub use usage::memory_mib;

use crate::process::{self, Wait, run};

/// Result of everything in the bed.
pub type Result<T> = std::result::Result<T, Error>;

/// Where a person can follow what the bed does.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// Set for every process that runs inside the bed.
const INSIDE: &str = "HEMICYCLE_BED_INSIDE";

/// Cluster DNS, applied as soon as the API server answers.
const COREDNS: &str = include_str!("coredns.yaml");

/// A test bed, running or not yet.
#[derive(Debug)]
pub struct Bed {
    layout: Layout,
    tools: Tools,
}

impl Bed {
    /// A bed that is still to be started with `tools`.
    #[must_use]
    pub fn new(layout: Layout, tools: Tools) -> Self {
        Self { layout, tools }
    }

    /// The bed that runs in `layout`.
    ///
    /// # Errors
    /// If none was started there.
    pub fn open(layout: Layout) -> Result<Self> {
        let list = layout.bins_file();
        let Ok(text) = fs::read_to_string(&list) else {
            return Err(Error::NotUp { state: layout.state().to_owned() });
        };
        let tools = Tools::from_directories(text.lines().map(Into::into).collect());
        Ok(Self { layout, tools })
    }

    /// Where this bed keeps its files.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The programs this bed runs.
    #[must_use]
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Whether the calling process runs inside the bed.
    #[must_use]
    pub fn is_inside() -> bool {
        std::env::var_os(INSIDE).is_some()
    }

    /// Starts the cluster with `nodes` Kubernetes nodes and returns when all are Ready; removes
    /// first what an earlier, half-killed one left. A bed that is up with as many nodes is left
    /// as it is.
    ///
    /// # Errors
    /// If something is missing or does not come up in time; the bed is taken down again then.
    pub fn up(&self, nodes: u8, progress: Progress<'_>) -> Result<Duration> {
        let begin = Instant::now();
        if self.is_complete(nodes) {
            progress("the bed is up already");
            return Ok(begin.elapsed());
        }
        self.down()?;
        let result = self.up_from_nothing(nodes, progress);
        if result.is_err() {
            // The state directory keeps the logs that say why; only the processes go.
            self.end_processes()?;
        }
        result.map(|()| begin.elapsed())
    }

    fn up_from_nothing(&self, nodes: u8, progress: Progress<'_>) -> Result<()> {
        self.layout.create(nodes)?;
        self.layout.write(&self.layout.bins_file(), &self.tools.list())?;
        self.keep_own_program()?;
        pki::write_all(&self.layout, nodes)?;
        self.start_sandbox()?;
        door::open(&self.layout)?;
        progress("certificates and namespaces are made; starting etcd and the API server");
        run(self.enter(self.layout.program()).arg("_up").arg(nodes.to_string()))
            .map(|said| said.lines().for_each(progress))?;
        self.layout.write(&self.layout.complete_file(), &nodes.to_string())
    }

    /// What runs inside the bed to bring the cluster up, once its namespaces stand.
    ///
    /// # Errors
    /// If a part does not come up in time.
    pub fn up_inside(&self, nodes: u8) -> Result<()> {
        let begin = Instant::now();
        let since = || begin.elapsed().as_secs_f64();
        self.start(Part::Etcd)?;
        self.start(Part::ApiServer)?;
        Wait::new("the API server's readiness", 120)
            .log(self.layout.log(Part::ApiServer.name()))
            .until(|| run(self.kubectl().args(["get", "--raw", "/readyz"])).is_ok())?;
        println!("API server ready after {:.1} s", since());
        self.start(Part::ControllerManager)?;
        self.start(Part::Scheduler)?;
        let coredns = self.layout.state().join("coredns.yaml");
        self.layout.write(&coredns, COREDNS)?;
        std::thread::scope(|scope| {
            let dns = scope.spawn(|| run(self.kubectl().args(["apply", "-f"]).arg(&coredns)));
            let starts: Vec<_> =
                (1..=nodes).map(|n| scope.spawn(move || self.start_node(n))).collect();
            for start in starts {
                start.join().map_err(|_| Error::Crashed { what: "starting a node" })??;
            }
            dns.join().map_err(|_| Error::Crashed { what: "applying cluster DNS" })?
        })?;
        for n in 1..=nodes {
            self.wait_node_ready(n)?;
        }
        Wait::new("the default ServiceAccount", 60)
            .until(|| run(self.kubectl().args(["get", "serviceaccount", "default"])).is_ok())?;
        println!("{nodes} nodes ready after {:.1} s", since());
        Wait::new("cluster DNS", 120).until(|| {
            let rollout = "rollout status deployment/coredns -n kube-system --timeout 60s";
            run(self.kubectl().args(rollout.split(' '))).is_ok()
        })?;
        println!("cluster DNS ready after {:.1} s", since());
        Ok(())
    }

    /// Ends everything of the bed and leaves nothing of it behind. Doing it twice is no error.
    ///
    /// # Errors
    /// If a process or a cgroup resists.
    pub fn down(&self) -> Result<()> {
        self.end_processes()?;
        self.layout.remove()
    }

    /// Ends the demo or `verify` that a script runs on this bed, and all that it started.
    ///
    /// # Errors
    /// As [`Bed::down`].
    pub fn end_run(&self) -> Result<()> {
        for group in [self.layout.run_cgroup(), self.layout.aside_cgroup()] {
            end_group(&group)?;
            cgroup::remove(&group)?;
        }
        Ok(())
    }

    fn end_processes(&self) -> Result<()> {
        let root = self.layout.cgroup("");
        end_group(&root)?;
        door::close(&self.layout);
        cgroup::remove(&root)
    }

    /// Waits until the kubelet of node `n` says that it is Ready.
    ///
    /// # Errors
    /// If it does not within two minutes.
    pub fn wait_node_ready(&self, n: u8) -> Result<()> {
        let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        let node = format!("node/n{n}");
        Wait::new(&format!("readiness of {node}"), 120)
            .log(self.layout.log(&format!("n{n}.kubelet")))
            .until(|| {
                let said = run(self.kubectl().args(["get", &node, "-o", path]));
                said.is_ok_and(|text| text.trim() == "True")
            })
    }

    /// `kubectl` as the cluster's administrator; only inside the bed does it reach the API server.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(self.tools.path("kubectl"));
        command.arg("--kubeconfig").arg(self.layout.kubeconfig("admin"));
        command
    }

    /// A command that runs `program` inside the bed, with `KUBECONFIG` and `PATH` set.
    #[must_use]
    pub fn enter(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = if Self::is_inside() {
            Command::new(program)
        } else {
            let init = process::read_pid(&self.layout.pid("outer"))
                .and_then(process::child_of)
                .unwrap_or(0);
            let mut command = Command::new("nsenter");
            command.args(["-t", &init.to_string(), "-a"]);
            if let Ok(here) = std::env::current_dir() {
                command.arg(format!("-w{}", here.display()));
            }
            command.arg("--").arg(program);
            command
        };
        command.env(INSIDE, "1");
        command.env(layout::STATE_VARIABLE, self.layout.state());
        command.env("KUBECONFIG", self.layout.kubeconfig("admin"));
        // Helm's too; by default it is in the home directory.
        command.env("KUBECACHEDIR", self.layout.kubectl_cache());
        command.env("PATH", self.tools.search_path());
        command
    }

    /// Whether the bed's processes run.
    #[must_use]
    pub fn is_up(&self) -> bool {
        Self::is_inside() || self.runs("outer")
    }

    /// Whether a bed of `nodes` nodes came up here and still runs.
    fn is_complete(&self, nodes: u8) -> bool {
        let said = fs::read_to_string(self.layout.complete_file()).unwrap_or_default();
        said.trim() == nodes.to_string()
            && self.runs("outer")
            && !cgroup::processes(&self.layout.cgroup("")).is_empty()
            && Self::open(self.layout.clone()).is_ok_and(|up| up.tools == self.tools)
    }

    /// A copy of this program beside the state, so that a rebuild does not pull it from under the
    /// bed.
    fn keep_own_program(&self) -> Result<()> {
        // Through /proc, which has it even where a rebuild has removed the file by now.
        let own = Path::new("/proc/self/exe");
        fs::copy(own, self.layout.program())
            .map(|_| ())
            .map_err(|source| Error::file("copy", own, source))
    }
}

fn end_group(group: &Path) -> Result<()> {
    Wait::new(&format!("the end of the processes in cgroup {}", group.display()), 30).until(|| {
        let left = cgroup::processes(group);
        process::kill_all(&left);
        left.is_empty()
    })
}
