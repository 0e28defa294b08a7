//! How the live tests are told: a namespace of its own for each, conditions instead of pauses, and
//! the cluster's own account when something did not happen.
//!
//! Runs inside the bed, with the product installed. Decides nothing about what must be true.
//! Invariant: the namespace goes afterwards, whether the story ended well or not, and every media
//! pod is gone before the next story.

mod away;
mod gathering;
mod meeting_cluster;
mod mend;
mod scene;
mod scope;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bed::{Bed, Layout, Part, Result as BedResult};
use crate::install;
use crate::process::{Wait, run, tail};

pub use away::OperatorAway;
pub use gathering::{Gathering, Manner, Noticed};
pub use meeting_cluster::{MeetingClusterBuilder, Meetings};
pub use scene::Scene;
pub use scope::Scope;

/// How often a condition is looked at in the beginning.
const LOOK: Duration = Duration::from_millis(200);

/// Later it is looked at after this part of the time that has passed: every look costs a tenth of a
/// second of a processor that others wait for.
const LOOK_PART: u32 = 20;

/// After an outage Kubernetes' controllers and kubelets come back within a minute, one after the
/// other.
const CLEARED_SECONDS: u64 = 180;

/// What the namespaces of stories begin with.
const NAMESPACE_PREFIX: &str = "story-";

/// One story and its namespace.
#[derive(Debug)]
pub struct Story {
    bed: Bed,
    namespace: String,
    begin: Instant,
}

/// Tells a story called `name`, which names its namespace too.
///
/// # Panics
/// If the story does not end well: then with the cluster's account of what happened.
pub fn tell(name: &str, scenes: impl FnOnce(&Story) -> Result<()>) {
    let story = Story::begin(name).unwrap_or_else(|error| panic!("cannot begin: {error:#}"));
    let told = scenes(&story);
    let account = told.as_ref().err().map(|_| story.account());
    let ended = story.end();
    if let Err(error) = told {
        panic!("{name}: {error:#}\n{}", account.unwrap_or_default());
    }
    if let Err((error, account)) = ended {
        panic!("{name} cannot be cleared away: {error:#}\n{account}");
    }
}

impl Story {
    fn begin(name: &str) -> Result<Self> {
        ensure!(Bed::is_inside(), "live tests run inside the test bed: ./verify live");
        let bed = Bed::open(Layout::from_environment())?;
        mend::whole(&bed)?;
        let namespace = format!("{NAMESPACE_PREFIX}{name}");
        // What an interrupted run left would tell another story.
        install::remove_namespace(&bed, &namespace, CLEARED_SECONDS)
            .context("cannot remove an earlier namespace")?;
        install::namespace(&bed, &namespace)?;
        Ok(Self { bed, namespace, begin: Instant::now() })
    }

    /// The bed around it.
    #[must_use]
    pub fn bed(&self) -> &Bed {
        &self.bed
    }

    /// The namespace that goes with it.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Says what happens next, with the time since the beginning.
    pub fn say(&self, text: &str) {
        println!("{:>7.1} s  {text}", self.begin.elapsed().as_secs_f64());
    }

    /// `kubectl` in the story's namespace.
    ///
    /// # Errors
    /// If it fails; its message is the error.
    pub fn kubectl(&self, line: &str) -> BedResult<String> {
        let mut words = vec!["-n", &self.namespace];
        words.extend(line.split_whitespace());
        install::kubectl(&self.bed, &words)
    }

    /// One value of an object, empty where there is none.
    #[must_use]
    pub fn value(&self, object: &str, path: &str) -> String {
        let path = format!("jsonpath={path}");
        let line = ["-n", &self.namespace, "get", object, "-o", &path];
        install::kubectl(&self.bed, &line).unwrap_or_default()
    }

    /// Changes an object as `kubectl edit` would; a null takes a field away.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn patch(&self, object: &str, change: &Value) -> Result<()> {
        let change = change.to_string();
        let line = ["-n", &self.namespace, "patch", object, "--type=merge", "-p", &change];
        install::kubectl(&self.bed, &line).map(|_| ()).with_context(|| format!("patch {object}"))
    }

    /// Waits until `condition` holds and returns how long it took.
    ///
    /// # Errors
    /// If it does not within `seconds`.
    pub fn until(
        &self,
        what: &str,
        seconds: u64,
        mut condition: impl FnMut() -> bool,
    ) -> Result<Duration> {
        let begin = Instant::now();
        while !condition() {
            ensure!(begin.elapsed().as_secs() < seconds, "{what}: not within {seconds} s");
            std::thread::sleep(LOOK.max(begin.elapsed() / LOOK_PART));
        }
        self.say(&format!("{what} (after {:.1} s)", begin.elapsed().as_secs_f64()));
        Ok(begin.elapsed())
    }

    /// What the cluster says of the story: objects, events, logs.
    #[must_use]
    pub fn account(&self) -> String {
        let mut text = String::new();
        let mut add = |line: &[&str]| {
            text.push_str(&format!("--- kubectl {}\n", line.join(" ")));
            match install::kubectl(&self.bed, line) {
                Ok(said) => text.push_str(&said),
                Err(error) => text.push_str(&error.to_string()),
            }
            text.push('\n');
        };
        let own = &["-n", &self.namespace];
        add(&["get", "namespace", &self.namespace, "-o", "jsonpath={.status}"]);
        add(&[own, &["get", "all,mc,mn", "-o", "wide"][..]].concat());
        add(&[own, &["get", "mc,mn,services,endpointslices", "-o", "yaml"][..]].concat());
        add(&[own, &["get", "events", "--sort-by=.lastTimestamp"][..]].concat());
        let logs = ["logs", "--prefix", "--all-containers", "--tail=25"];
        for component in ["media-node", "gateway"] {
            let label = format!("-lhemicycle.dev/component={component}");
            add(&[own, &logs[..], &[&label]].concat());
        }
        let operator = ["-n", install::OPERATOR_NAMESPACE];
        add(&[&operator, &logs[..], &["-lapp.kubernetes.io/name=hemicycle-operator"]].concat());
        add(&["get", "nodes", "-o", "wide"]);
        for n in self.bed.layout().nodes() {
            text.push_str(&self.routes_of(n));
        }
        text.push_str(&format!("--- {}\n", Part::ControllerManager.name()));
        let log = self.bed.layout().log(Part::ControllerManager.name());
        text.push_str(&tail(&std::fs::read_to_string(&log).unwrap_or_default(), 30));
        text
    }

    /// What node `n` does with packets to the story's Services, and what its kube-proxy says.
    fn routes_of(&self, n: u8) -> String {
        let rules = run(self.bed.on_node(n).args(["nft", "list", "ruleset"]));
        let rules = rules.unwrap_or_else(|error| error.to_string());
        let ours: Vec<_> = rules.lines().filter(|line| line.contains(&self.namespace)).collect();
        let log = self.bed.layout().log(&format!("n{n}.kube-proxy"));
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        let (ours, said) = (ours.join("\n"), tail(&log, 10));
        format!("--- nft on n{n}\n{ours}\n--- kube-proxy on n{n}\n{said}\n")
    }

    /// Removes what the story made. The namespace goes on its own, which takes Kubernetes ten
    /// seconds even if it is empty; [`nothing_left`] waits for all of them at once.
    fn end(self) -> Result<(), (anyhow::Error, String)> {
        let (bed, namespace) = (&self.bed, self.namespace.as_str());
        let cleared = install::remove_meeting_clusters(bed, namespace, CLEARED_SECONDS);
        let delete = ["delete", "namespace", namespace, "--ignore-not-found", "--wait=false"];
        let going = cleared.and_then(|()| install::kubectl(bed, &delete));
        going
            .map(|_| ())
            .context("what the story made does not go")
            .map_err(|error| (error, self.account()))
    }
}

/// Waits until the namespaces of all stories that were told on `bed` are gone.
///
/// # Errors
/// If one is still there when Kubernetes had time enough; with what it says of it.
pub fn nothing_left(bed: &Bed) -> Result<()> {
    let mut said = String::new();
    let path = "jsonpath={range .items[*]}{.metadata.name} {.status}{\"\\n\"}{end}";
    let left = || {
        let all = install::kubectl(bed, &["get", "namespaces", "-o", path])?;
        let of_stories = all.lines().filter(|line| line.starts_with(NAMESPACE_PREFIX));
        BedResult::Ok(of_stories.collect::<Vec<_>>().join("\n"))
    };
    let gone = Wait::new("the end of the stories' namespaces", CLEARED_SECONDS).until(|| {
        said = left().unwrap_or_else(|error| error.to_string());
        said.is_empty()
    });
    gone.with_context(|| format!("these are left:\n{said}"))
}
