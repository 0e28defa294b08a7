//! The demo: from nothing to a meeting on real pods, said step by step so that a person can follow.
//! Decides the order; `install` and `cast` do it.
//!
//! Invariant: everything it starts lives in the bed or is this process, so that the end of both is
//! the end of all.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bed::command::Release;
use crate::bed::{self, Bed, Layout, Minor, Tools};
use crate::cast::{self, Browsers, Credentials, Engine, Meeting, Person, Program, Visit};
use crate::process::{Wait, run as run_program};
use crate::{cache, images, install, page};

/// Namespace of the demo's meeting cluster.
const NAMESPACE: &str = "meetings";

/// The room they meet in.
const ROOM: &str = "council";

/// Nodes of the demo's bed.
const NODES: u8 = 3;

/// Port of the gateway on every Kubernetes node.
const NODE_PORT: u16 = 30_880;

/// A cold browser on a loaded machine takes ten seconds to its first frame.
const MEETING_SECONDS: u32 = 90;

/// How long the headless browser keeps a person company.
const STAY_SECONDS: u32 = 6 * 3600;

/// What a person asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// End after the meeting instead of staying up.
    pub check: bool,
    /// Port on this machine's localhost for a person's browser.
    pub port: u16,
    /// The Kubernetes of its cluster.
    pub release: Release,
}

/// A meeting cluster that stands, and how to get in.
#[derive(Debug)]
pub struct Venue {
    key: Credentials,
    url: String,
    /// Kind and name, as kubectl takes them.
    pub cluster: String,
    port: u16,
    forward: Child,
}

impl Drop for Venue {
    fn drop(&mut self) {
        // Inside the bed it is this child; from outside it ends with the bed.
        let _ = self.forward.kill();
        let _ = self.forward.wait();
    }
}

/// Prints steps with the time since the beginning.
#[derive(Debug)]
struct Teller(Instant);

impl Teller {
    fn say(&self, text: &str) {
        println!("[{:>6.1} s] {text}", self.0.elapsed().as_secs_f64());
    }
}

/// The whole demo.
///
/// # Errors
/// The first step that failed, and what to do.
pub fn run(options: &Options) -> Result<()> {
    let teller = Teller(Instant::now());
    let say = |text: &str| teller.say(text);
    let layout = Layout::from_environment();
    let minor = options.release.minor()?;
    let tools = prepare(minor, &say)?;
    let archives = images::product(&say)?;
    say(&format!("starting a Kubernetes {} cluster of {NODES} nodes", minor.name()));
    let bed = Bed::new(layout, tools);
    let result = on_bed(&bed, &archives, options, &say);
    say("taking everything down");
    bed.down()?;
    result
}

/// Everything that needs the network, before the bed, which has none.
fn prepare(minor: Minor, say: bed::Progress<'_>) -> Result<Tools> {
    say("packages for page, browsers and the Python participant");
    page::build()?;
    cast::python_packages()?;
    Ok(Tools::ensure(minor, say)?)
}

fn on_bed(
    bed: &Bed,
    archives: &[PathBuf],
    options: &Options,
    say: bed::Progress<'_>,
) -> Result<()> {
    bed.up(NODES, say)?;
    install_all(bed, archives, say)?;
    let venue = Venue::open(bed, say)?;
    let directory = cache::directory().join("demo");
    let met = meet(bed, &venue, &directory, say)?;
    print!("{met}");
    println!("{}", look(bed)?);
    if !options.check {
        stay(bed, &venue, options, &directory)?;
    }
    Ok(())
}

/// Loads the images and installs the product, for whoever has a bed.
///
/// # Errors
/// If a node or the API server refuses.
pub fn install_all(bed: &Bed, archives: &[PathBuf], say: bed::Progress<'_>) -> Result<()> {
    say("loading the three images on every node");
    load(bed, archives)?;
    install::charts(bed, archives, say)?;
    install::scope(bed, say)?;
    Ok(())
}

/// Loads images on every Kubernetes node.
///
/// # Errors
/// If a node refuses.
pub fn load(bed: &Bed, archives: &[PathBuf]) -> Result<()> {
    let load = bed.enter(bed.layout().program()).arg("load").args(archives).status()?;
    ensure!(load.success(), "the images could not be loaded");
    Ok(())
}

impl Venue {
    /// Applies the sample meeting cluster, waits until it is Ready and opens a way in.
    ///
    /// # Errors
    /// If it does not become Ready in half a minute.
    pub fn open(bed: &Bed, say: bed::Progress<'_>) -> Result<Self> {
        install::namespace(bed, NAMESPACE)?;
        let key = install::credentials(bed, NAMESPACE, "demo-keys")?;
        say("kubectl apply -f samples/meetingcluster.yaml");
        let begin = Instant::now();
        let sample = install::samples().join("meetingcluster.yaml");
        let cluster = install::apply(bed, &sample, Some(NAMESPACE))?;
        install::ready(bed, &cluster, NAMESPACE, 120)?;
        say(&format!("{cluster} is Ready after {:.1} s", begin.elapsed().as_secs_f64()));
        say("switching on the meeting page and a port on every Kubernetes node");
        let patch = ["-n", NAMESPACE, "patch", &cluster, "--type=merge", "--patch", &opening()];
        install::kubectl(bed, &patch)?;
        install::rolled_out(bed, &cluster, NAMESPACE, 60)?;
        let port = free_port()?;
        let forward = forward_inside(bed, port)?;
        let url = format!("ws://localhost:{port}");
        let venue = Self { key, url, cluster, port, forward };
        let page = venue.page(port);
        Wait::new("the meeting page at the gateway", 60).until(|| {
            run_program(bed.enter("curl").args(["-sf", "-o", "/dev/null", &page])).is_ok()
        })?;
        Ok(venue)
    }

    /// The meeting as programs in the bed see it, for one that is to meet `expect` others.
    #[must_use]
    pub fn meeting(&self, expect: u32) -> Meeting<'_> {
        let Self { key, url, .. } = self;
        Meeting { url, key, room: ROOM, expect, seconds: MEETING_SECONDS }
    }

    fn page(&self, port: u16) -> String {
        format!("http://localhost:{port}/meet/")
    }

    /// A whole link, for a person's own browser.
    fn link(&self, port: u16, who: &str) -> Result<String> {
        let token = cast::join_token(&self.key, ROOM, who)?;
        Ok(format!("{}#url=ws://localhost:{port}&token={token}", self.page(port)))
    }

    fn person(&self, engine: Engine, name: &str) -> Result<Person> {
        let token = cast::join_token(&self.key, ROOM, name)?;
        Ok(Person { engine, name: name.to_owned(), token })
    }

    fn visit<'a>(&'a self, page: &'a str, expect: u32, seconds: u32, hold: u32) -> Visit<'a> {
        Visit { page, url: &self.url, expect, seconds, hold }
    }
}

/// The bed has no load balancer, and the sample shows no page to the world.
fn opening() -> String {
    let service = format!(r#"{{"type": "NodePort", "nodePort": {NODE_PORT}}}"#);
    format!(r#"{{"spec": {{"gateway": {{"meetingPage": "Enabled", "service": {service}}}}}}}"#)
}

/// `localhost` is a secure context, which a camera needs.
fn forward_inside(bed: &Bed, port: u16) -> Result<Child> {
    let mut command = bed.enter(bed.layout().program());
    command.args(["forward", &format!("127.0.0.1:{port}")]);
    command.args(entrances().map(|entrance| entrance.to_string()));
    command.stdin(Stdio::null()).spawn().context("cannot start the forwarder")
}

fn entrances() -> impl Iterator<Item = SocketAddr> {
    let address = |n: u8| SocketAddr::from((Ipv4Addr::new(198, 18, 0, 10 + n), NODE_PORT));
    (1..=NODES).map(address)
}

/// Two browsers and a program meet; returns what each received, for a person to read.
///
/// # Errors
/// If one of them did not see and hear both others.
pub fn meet(bed: &Bed, venue: &Venue, directory: &Path, say: bed::Progress<'_>) -> Result<String> {
    let _ = fs::remove_dir_all(directory);
    fs::create_dir_all(directory).context("cannot make the directory of reports")?;
    say("Chromium, Firefox and a Python program enter the room");
    let others = 2;
    let people =
        vec![venue.person(Engine::Chromium, "Ada")?, venue.person(Engine::Firefox, "Blaise")?];
    let page = venue.page(venue.port);
    let visit = venue.visit(&page, others, MEETING_SECONDS, 0);
    let browsers = Browsers::open(bed, people, visit, directory)?;
    let python = Program::python(bed, venue.meeting(others), directory)?;
    let mut text = String::new();
    let mut failures = Vec::new();
    match browsers.end() {
        Ok(reports) => {
            for (name, report, screenshot) in reports {
                text.push_str(&received(&name, &report));
                text.push_str(&format!("  screenshot {}\n", screenshot.display()));
            }
        }
        Err(error) => failures.push(format!("{error:#}")),
    }
    match python.end() {
        Ok(report) => text.push_str(&received("Python", &report)),
        Err(error) => failures.push(format!("{error:#}")),
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    say("they saw and heard each other");
    Ok(text)
}

/// One line for each participant that was received.
fn received(who: &str, report: &Value) -> String {
    let mut text = format!("{who} received\n");
    let others = report.get("received").and_then(Value::as_object).into_iter().flatten();
    for (identity, what) in others {
        let pairs = what.as_object().into_iter().flatten();
        let pairs: Vec<_> = pairs.map(|(name, value)| format!("{name} {}", short(value))).collect();
        text.push_str(&format!("  from {identity:<8} {}\n", pairs.join(", ")));
    }
    text
}

fn short(value: &Value) -> String {
    match (value.as_str(), value.as_i64(), value.as_f64()) {
        (Some(text), ..) => text.to_owned(),
        (None, None, Some(number)) => format!("{number:.2}"),
        _ => value.to_string(),
    }
}

/// What an operator sees.
fn look(bed: &Bed) -> Result<String> {
    let get = ["get", "mc,mn", "-A", "-o", "wide"];
    let pods = ["get", "pods", "-n", NAMESPACE, "-o", "wide"];
    let (objects, pods) = (install::kubectl(bed, &get)?, install::kubectl(bed, &pods)?);
    Ok(format!("\n$ kubectl get mc,mn -A -o wide\n{objects}\n$ kubectl get pods\n{pods}"))
}

/// Lets a person in until Ctrl-C.
fn stay(bed: &Bed, venue: &Venue, options: &Options, directory: &Path) -> Result<()> {
    let door = bed.open_door()?;
    if door {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
        bed::forward(listen, entrances().collect())?;
    }
    let company = vec![venue.person(Engine::Chromium, "Ada")?];
    let page = venue.page(venue.port);
    // Meets nobody, and stays for whoever comes.
    let visit = venue.visit(&page, 0, MEETING_SECONDS, STAY_SECONDS);
    let company = Browsers::open(bed, company, visit, directory)?;
    if door {
        println!("\nJoin them with your own browser on this machine (Ada stays in the room):\n");
        println!("  {}\n", venue.link(options.port, "You")?);
    } else {
        println!("\nAnother test bed holds the machine's way in: no link for your own browser.\n");
    }
    println!("Look around, from the repository, in another terminal:\n");
    println!("  ./testbed run kubectl get mc,mn -A -o wide");
    println!("  ./testbed run kubectl -n {NAMESPACE} describe {}", venue.cluster);
    println!("  ./testbed node-loss 1      # and see who comes back where");
    println!("  ./testbed help\n");
    println!("Ctrl-C ends it and leaves nothing behind.");
    drop(company.end());
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// A port that is free outside is free inside, where nothing else listens on localhost but the
/// control plane, whose ports are below.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}
