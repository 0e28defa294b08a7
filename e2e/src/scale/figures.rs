//! Reads what a step cost: the operator's own metrics, the API server's count of the operator's
//! requests, and the operator's memory and processor time. Judges nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};

use super::ground::{VERBS, flow_schema};
use crate::install::OPERATOR_NAMESPACE;
use crate::load::Usage;
use crate::process::run;

/// Verbs that change something.
const WRITES: [&str; 4] = ["create", "update", "patch", "delete"];
/// Where a replica serves its metrics.
const ADMIN_PORT: u16 = 8082;

/// One look at everything that is counted.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    at: Instant,
    /// By verb, as the operator's replicas count them.
    own: BTreeMap<String, f64>,
    /// By verb, as the API server counts them.
    server: BTreeMap<String, f64>,
    reconciles: f64,
    errors: f64,
    /// Reconciles that took no longer than so many seconds.
    buckets: Vec<(f64, f64)>,
    processor_seconds: f64,
    /// Largest resident memory of any replica since it began, and now, in MiB.
    pub(super) peak_mib: f64,
    pub(super) resident_mib: f64,
}

impl Reading {
    /// Looks.
    ///
    /// # Errors
    /// If a replica or the API server does not answer.
    pub(super) async fn take(client: &Client) -> Result<Self> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), OPERATOR_NAMESPACE);
        let label = ListParams::default().labels("app.kubernetes.io/name=hemicycle-operator");
        let server = http::Request::get("/metrics").body(Vec::new())?;
        let server = client.request_text(server).await.context("the API server's metrics")?;
        let mut texts = Vec::new();
        for pod in pods.list(&label).await? {
            let address = pod.status.and_then(|status| status.pod_ip);
            let address = address.context("an operator's pod has no address")?;
            let url = format!("http://{address}:{ADMIN_PORT}/metrics");
            texts.push(run(Command::new("curl").args(["-sf", "-m", "5", &url]))?);
        }
        ensure!(!texts.is_empty(), "no operator runs");
        let texts = texts.join("\n");
        let total = |name: &str| samples(&texts, name).map(|(_, value)| value).sum::<f64>();
        let mut own = BTreeMap::new();
        for (labels, calls) in samples(&texts, "hemicycle_operator_api_calls_total") {
            *own.entry(label_of(labels, "verb").to_owned()).or_default() += calls;
        }
        let counted = |verb: &str| {
            // A burst has some turned away, which the operator asks again.
            let ours = ["dispatched", "rejected"].map(|fate| {
                let name = format!("apiserver_flowcontrol_{fate}_requests_total");
                let all = samples(&server, &name);
                all.filter(|(labels, _)| label_of(labels, "flow_schema") == flow_schema(verb))
                    .map(|(_, value)| value)
                    .sum::<f64>()
            });
            (verb.to_owned(), ours.iter().sum())
        };
        let processes = Processes::look()?;
        Ok(Self {
            at: Instant::now(),
            own,
            server: VERBS.into_iter().map(counted).collect(),
            reconciles: total("hemicycle_operator_reconciles_total"),
            errors: total("hemicycle_operator_reconcile_errors_total"),
            buckets: buckets(&texts, "hemicycle_operator_reconcile_duration_seconds_bucket"),
            processor_seconds: processes.processor_seconds,
            peak_mib: processes.peak_mib,
            resident_mib: processes.resident_mib,
        })
    }

    /// What happened since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Cost {
        let less = |now: &BTreeMap<String, f64>, then: &BTreeMap<String, f64>| {
            let then = |verb| then.get(verb).copied().unwrap_or_default();
            now.iter().map(|(verb, count)| (verb.clone(), count - then(verb))).collect()
        };
        let before: BTreeMap<u64, f64> =
            earlier.buckets.iter().map(|(bound, count)| (bound.to_bits(), *count)).collect();
        let grown = |(bound, count): &(f64, f64)| {
            let then = before.get(&bound.to_bits()).copied().unwrap_or_default();
            (*bound, count - then)
        };
        Cost {
            seconds: self.at.duration_since(earlier.at).as_secs_f64(),
            own: less(&self.own, &earlier.own),
            server: less(&self.server, &earlier.server),
            reconciles: self.reconciles - earlier.reconciles,
            errors: self.errors - earlier.errors,
            buckets: self.buckets.iter().map(grown).collect(),
            processor_seconds: self.processor_seconds - earlier.processor_seconds,
        }
    }
}

/// What a step cost.
#[derive(Clone, Debug)]
pub(super) struct Cost {
    pub(super) seconds: f64,
    own: BTreeMap<String, f64>,
    server: BTreeMap<String, f64>,
    pub(super) reconciles: f64,
    pub(super) errors: f64,
    buckets: Vec<(f64, f64)>,
    processor_seconds: f64,
}

impl Cost {
    /// Requests that change something, by the API server's count.
    pub(super) fn writes(&self) -> f64 {
        WRITES.iter().filter_map(|verb| self.server.get(*verb)).sum()
    }

    /// Requests of `verb` a minute, by the API server's count.
    pub(super) fn a_minute(&self, verb: &str) -> f64 {
        self.server.get(verb).copied().unwrap_or_default() * 60.0 / self.seconds
    }

    /// Requests by verb, by the API server's count and by the operator's, for a person to compare.
    pub(super) fn by_verb(&self) -> String {
        format!("{:?} and {:?}", self.server, self.own)
    }

    /// Requests of any kind but long watches, by the API server's count and by the operator's.
    pub(super) fn both_counts(&self) -> (f64, f64) {
        let all = |counts: &BTreeMap<String, f64>| {
            counts.iter().filter(|(verb, _)| *verb != "watch").map(|(_, count)| count).sum()
        };
        (all(&self.server), all(&self.own))
    }

    /// Seconds that the given part of all reconciles, 0 to 1, stayed below: the upper bound of the
    /// histogram's bucket.
    fn reconcile_seconds(&self, part: f64) -> f64 {
        let all = self.buckets.last().map_or(0.0, |(_, count)| *count);
        let within = self.buckets.iter().find(|(_, count)| *count >= all * part);
        within.map_or(f64::INFINITY, |(bound, _)| *bound)
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let a_minute = 60.0 / self.seconds.max(f64::EPSILON);
        let verbs = VERBS.iter().filter_map(|verb| {
            let calls = self.server.get(*verb).copied().unwrap_or_default();
            (calls > 0.0).then(|| format!("{verb} {calls:.0} ({:.0}/min)", calls * a_minute))
        });
        write!(
            f,
            "{:.1} s; calls: {}; {:.2} writes/s; {:.0} reconciles, p50 ≤ {} s, p99 ≤ {} s, {:.0} \
             failed; {:.3} cores",
            self.seconds,
            verbs.collect::<Vec<_>>().join(", "),
            self.writes() / self.seconds,
            self.reconciles,
            self.reconcile_seconds(0.50),
            self.reconcile_seconds(0.99),
            self.errors,
            self.processor_seconds / self.seconds,
        )
    }
}

/// The operator's processes: the bed sees those in the containers of its Kubernetes nodes too.
struct Processes {
    processor_seconds: f64,
    peak_mib: f64,
    resident_mib: f64,
}

impl Processes {
    fn look() -> Result<Self> {
        let mut all = Self { processor_seconds: 0.0, peak_mib: 0.0, resident_mib: 0.0 };
        let mut found = 0;
        for entry in fs::read_dir("/proc")? {
            let process = entry?.path();
            let program = fs::read_link(process.join("exe")).unwrap_or_default();
            if program.as_os_str() != "/operator" {
                continue;
            }
            found += 1;
            let pid = process.file_name().and_then(|name| name.to_str()?.parse().ok());
            let usage = Usage::of(pid.context("a process without a number")?)?;
            let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
            all.peak_mib = all.peak_mib.max(mib(usage.peak_bytes));
            all.resident_mib = all.resident_mib.max(mib(usage.resident_bytes));
            all.processor_seconds += (usage.user + usage.system).as_secs_f64();
        }
        ensure!(found > 0, "no process of the operator is seen");
        Ok(all)
    }
}

/// Labels and value of every sample called `name` in Prometheus' text.
fn samples<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        Some((labels, value.trim().parse().ok()?))
    })
}

/// The value of label `key`, empty where there is none.
fn label_of<'a>(labels: &'a str, key: &str) -> &'a str {
    let pairs = labels.split("\",");
    let value = pairs.filter_map(|pair| pair.split_once("=\"")).find(|(name, _)| *name == key);
    value.map_or("", |(_, value)| value.trim_end_matches('"'))
}

/// Upper bounds and cumulated counts of a histogram, over all replicas, ascending.
fn buckets(text: &str, name: &str) -> Vec<(f64, f64)> {
    let mut all: Vec<(f64, f64)> = Vec::new();
    for (labels, count) in samples(text, name) {
        let Ok(bound) = label_of(labels, "le").replace("+Inf", "inf").parse::<f64>() else {
            continue;
        };
        match all.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, sum)) => *sum += count,
            None => all.push((bound, count)),
        }
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP calls\n\
        calls{outcome=\"ok\",verb=\"get\"} 7\ncalls{outcome=\"ok\",verb=\"patch\"} 2\n\
        calls_more{verb=\"get\"} 9\nplain 3\n\
        took_bucket{le=\"0.1\"} 5\ntook_bucket{le=\"+Inf\"} 6\ntook_bucket{le=\"0.1\"} 1\n";

    #[test]
    fn samples_are_read_by_their_whole_name() {
        let calls: Vec<_> = samples(TEXT, "calls").collect();
        assert_eq!(calls.len(), 2);
        assert_eq!(label_of(calls[0].0, "verb"), "get");
        assert_eq!(label_of(calls[0].0, "outcome"), "ok");
        assert_eq!(label_of(calls[0].0, "absent"), "");
        assert_eq!(samples(TEXT, "plain").collect::<Vec<_>>(), [("", 3.0)]);
    }

    #[test]
    fn histograms_of_several_replicas_are_one() {
        assert_eq!(buckets(TEXT, "took_bucket"), [(0.1, 6.0), (f64::INFINITY, 6.0)]);
    }
}
