//! The command `testbed`: its verbs, and the hidden ones by which the bed starts its own parts.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use super::{Bed, Error, Layout, Minor, Part, Result, Tools, forward, namespaces};

/// A real Kubernetes cluster on one Linux machine, with no container engine and no image pulled.
#[derive(Debug, Parser)]
#[command(name = "testbed", version)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

/// Which Kubernetes a command runs.
#[derive(Debug, Clone, Args)]
pub struct Release {
    /// Kubernetes minor release: 1.37 or 1.34.
    #[arg(long = "kubernetes", value_name = "MINOR", default_value = "1.37")]
    name: String,
}

impl Release {
    /// The release that was named.
    ///
    /// # Errors
    /// If it is not pinned in `e2e/tools`.
    pub fn minor(&self) -> Result<Minor> {
        Minor::named(&self.name)
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start a control plane and nodes; all are Ready when it returns.
    Up {
        /// How many Kubernetes nodes.
        #[arg(default_value_t = 3)]
        nodes: u8,
        #[command(flatten)]
        release: Release,
    },
    /// End everything, further beds of a run included, and leave nothing behind.
    Down,
    /// Build the programs of the cluster and start nothing.
    Tools {
        #[command(flatten)]
        release: Release,
    },
    /// Run a command inside the bed, with KUBECONFIG and PATH set.
    #[command(trailing_var_arg = true)]
    Run {
        /// The command.
        #[arg(required = true, allow_hyphen_values = true)]
        line: Vec<OsString>,
    },
    /// Run a command on node N.
    #[command(trailing_var_arg = true)]
    Node {
        /// The node's number.
        n: u8,
        /// The command.
        #[arg(required = true, allow_hyphen_values = true)]
        line: Vec<OsString>,
    },
    /// Import OCI archives on every node.
    Load {
        /// The archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// The power of node N goes: every process on it dies at once.
    NodeLoss {
        /// The node's number.
        n: u8,
    },
    /// Only kubelet and containerd of node N die; its pods go on.
    NodeCrash {
        /// The node's number.
        n: u8,
    },
    /// Take node N off the network.
    NodeCut {
        /// The node's number.
        n: u8,
    },
    /// Put node N back on the network.
    NodeMend {
        /// The node's number.
        n: u8,
    },
    /// Set the wall clock of a pod's processes ahead by so many seconds, or back; 0 sets it right.
    ClockSkew {
        /// `metadata.uid` of the pod.
        uid: String,
        /// Seconds; negative: back.
        #[arg(allow_hyphen_values = true)]
        seconds: i32,
    },
    /// Start node N again after loss or crash, with its disk as it was.
    NodeStart {
        /// The node's number.
        n: u8,
    },
    /// Kill a part of the control plane.
    Stop {
        /// etcd, kube-apiserver, kube-controller-manager or kube-scheduler.
        part: String,
    },
    /// Start a part of the control plane.
    Start {
        /// etcd, kube-apiserver, kube-controller-manager or kube-scheduler.
        part: String,
    },
    /// Processor time and memory so far, by part.
    Usage,
    /// Forward a TCP port inside the bed until killed, to the first target that answers.
    Forward {
        /// Where to listen, as in 127.0.0.1:8080.
        listen: SocketAddr,
        /// Where to connect to.
        #[arg(required = true)]
        targets: Vec<SocketAddr>,
    },
    #[command(name = "_in", hide = true, trailing_var_arg = true)]
    In {
        group: String,
        #[arg(required = true, allow_hyphen_values = true)]
        line: Vec<OsString>,
    },
    #[command(name = "_run", hide = true, trailing_var_arg = true)]
    RunBeside {
        #[arg(required = true, allow_hyphen_values = true)]
        line: Vec<OsString>,
    },
    #[command(name = "_aside", hide = true, trailing_var_arg = true)]
    Aside {
        #[arg(required = true, allow_hyphen_values = true)]
        line: Vec<OsString>,
    },
    #[command(name = "_init", hide = true)]
    Init,
    #[command(name = "_boot", hide = true)]
    Boot { n: u8 },
    #[command(name = "_up", hide = true)]
    UpInside { nodes: u8 },
}

/// Acts as `testbed` if this program was started under that name: the bed keeps a copy of whichever
/// program started it and runs its parts with it.
#[must_use]
pub fn take_over() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    (Path::new(&name).file_name()? == "testbed").then(main)
}

/// The command itself.
#[must_use]
pub fn main() -> ExitCode {
    match act(Line::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testbed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn act(verb: Verb) -> Result<()> {
    let layout = Layout::from_environment();
    let progress = |text: &str| println!("{text}");
    match verb {
        Verb::Up { nodes, release } => {
            let tools = Tools::ensure(release.minor()?, &progress)?;
            let took = Bed::new(layout, tools).up(nodes, &progress)?;
            println!("up after {:.1} s", took.as_secs_f64());
            Ok(())
        }
        Verb::Down => {
            let bed = |layout| Bed::new(layout, Tools::from_directories(Vec::new()));
            bed(layout.clone()).end_run()?;
            layout.all_of_run().into_iter().try_for_each(|layout| bed(layout).down())
        }
        Verb::Tools { release } => Tools::ensure(release.minor()?, &progress).map(|_| ()),
        Verb::In { group, line } => namespaces::join_and_become(&layout.cgroup(&group), &line),
        Verb::RunBeside { line } => namespaces::join_and_become(&layout.run_cgroup(), &line),
        Verb::Aside { line } => namespaces::become_aside(&layout.aside_cgroup(), &line),
        Verb::Run { line } => become_inside(&Bed::open(layout)?, &line),
        verb => act_on(&Bed::open(layout)?, verb),
    }
}

/// The verbs that need a bed; those that need to be inside it are handed on to a copy that is.
fn act_on(bed: &Bed, verb: Verb) -> Result<()> {
    match verb {
        Verb::Usage => {
            print!("{}", bed.usage());
            Ok(())
        }
        Verb::Init => bed.become_init(),
        Verb::Boot { n } => bed.become_node(n),
        _ if !Bed::is_inside() => {
            let mut line = vec![bed.layout.program().into()];
            line.extend(std::env::args_os().skip(1));
            become_inside(bed, &line)
        }
        Verb::UpInside { nodes } => bed.up_inside(nodes),
        Verb::Node { n, line } => {
            let mut command = bed.on_node(n);
            Err(not_started(command.args(line).exec(), "nsenter"))
        }
        Verb::Load { archives } => bed.load(&archives),
        Verb::NodeLoss { n } => bed.lose_node(n),
        Verb::NodeCrash { n } => bed.crash_node(n),
        Verb::NodeCut { n } => bed.cut_node(n),
        Verb::NodeMend { n } => bed.mend_node(n),
        Verb::ClockSkew { uid, seconds } => bed.skew_clock(&uid, seconds),
        Verb::NodeStart { n } => bed.start_node(n),
        Verb::Stop { part } => bed.stop(Part::named(&part)?),
        Verb::Start { part } => bed.start(Part::named(&part)?),
        Verb::Forward { listen, targets } => {
            forward(listen, targets)?;
            loop {
                std::thread::park();
            }
        }
        // All others were handled by `act`.
        _ => Ok(()),
    }
}

fn become_inside(bed: &Bed, line: &[OsString]) -> Result<()> {
    let Some((program, arguments)) = line.split_first() else {
        return Ok(());
    };
    if !bed.is_up() {
        return Err(Error::NotUp { state: bed.layout.state().to_owned() });
    }
    let source = bed.enter(program).args(arguments).exec();
    Err(not_started(source, &program.to_string_lossy()))
}

fn not_started(source: std::io::Error, program: &str) -> Error {
    Error::Start { program: program.to_owned(), source }
}
