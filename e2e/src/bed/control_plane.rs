//! The parts of the control plane and how each is started. Decides their flags; nothing about
//! nodes.

use std::ffi::OsString;

use super::{Bed, Error, Result};
use crate::process;

/// A part of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// etcd, without fsync: a bed's data need not outlive a power cut.
    Etcd,
    /// kube-apiserver with RBAC, NodeRestriction, aggregation; PodSecurity and
    /// ValidatingAdmissionPolicy are on by default.
    ApiServer,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
}

impl Part {
    /// Every part, in the order of starting.
    pub const ALL: [Self; 4] =
        [Self::Etcd, Self::ApiServer, Self::ControllerManager, Self::Scheduler];

    /// The part called `name`.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name).ok_or_else(|| Error::Unknown {
            name: name.to_owned(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }

    /// Its program's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }
}

impl Bed {
    /// Starts `part`; one that runs already is left alone. Works inside the bed.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start(&self, part: Part) -> Result<()> {
        let name = part.name();
        if process::read_pid(&self.layout.pid(name)).is_some_and(process::is_alive) {
            return Ok(());
        }
        let mut line: Vec<OsString> = vec![self.tools.path(name).into()];
        let pki = self.layout.pki("");
        let state = self.layout.state();
        let flags = flags(part, self.layout.nodes().len())
            .replace("{pki}/", &pki.to_string_lossy())
            .replace("{state}", &state.to_string_lossy());
        line.extend(flags.split_whitespace().map(OsString::from));
        self.spawn("control-plane", name, &line).map(|_| ())
    }

    /// Kills `part` as a crash would. Works inside the bed.
    ///
    /// # Errors
    /// If it resists.
    pub fn stop(&self, part: Part) -> Result<()> {
        self.end(part.name())
    }
}

/// How long a Kubernetes node may be silent in a bed of `nodes`: where one may be lost, that is to
/// be seen soon. Beside one alone, which is never lost, there may be a thousand that are only
/// objects; they get Kubernetes' own patience.
const fn silence_seconds_max(nodes: usize) -> u32 {
    if nodes > 1 { 16 } else { 50 }
}

fn flags(part: Part, nodes: usize) -> String {
    match part {
        Part::Etcd => "--data-dir {state}/etcd --unsafe-no-fsync --log-level warn \
             --listen-client-urls http://127.0.0.1:2379 \
             --advertise-client-urls http://127.0.0.1:2379 \
             --listen-peer-urls http://127.0.0.1:2380"
            .to_owned(),
        Part::ApiServer => api_server_flags().to_owned(),
        Part::ControllerManager => format!(
            "{} --use-service-account-credentials \
             --service-account-private-key-file {{pki}}/sa.key --root-ca-file {{pki}}/ca.crt \
             --cluster-signing-cert-file {{pki}}/ca.crt --cluster-signing-key-file {{pki}}/ca.key \
             --node-monitor-period 1s --node-monitor-grace-period {}s \
             --kube-api-qps 200 --kube-api-burst 400",
            client_flags(part),
            silence_seconds_max(nodes)
        ),
        Part::Scheduler => client_flags(part),
    }
}

/// What controller manager and scheduler share. No leader election: there is one of each.
fn client_flags(part: Part) -> String {
    let own = format!("{{pki}}/{}.kubeconfig", part.name());
    format!(
        "--kubeconfig {own} --authentication-kubeconfig {own} --authorization-kubeconfig {own} \
         --bind-address 127.0.0.1 --leader-elect=false"
    )
}

/// Aggregation goes to pod addresses, because the control plane has no kube-proxy; it has a route
/// there.
const fn api_server_flags() -> &'static str {
    "--etcd-servers http://127.0.0.1:2379 --allow-privileged \
     --advertise-address 198.18.0.1 --secure-port 6443 \
     --service-cluster-ip-range 198.18.240.0/20 \
     --tls-cert-file {pki}/apiserver.crt --tls-private-key-file {pki}/apiserver.key \
     --client-ca-file {pki}/ca.crt \
     --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
     --service-account-issuer https://kubernetes.default.svc.cluster.local \
     --service-account-key-file {pki}/sa.pub \
     --service-account-signing-key-file {pki}/sa.key \
     --kubelet-client-certificate {pki}/apiserver-kubelet.crt \
     --kubelet-client-key {pki}/apiserver-kubelet.key \
     --kubelet-certificate-authority {pki}/ca.crt \
     --kubelet-preferred-address-types InternalIP \
     --proxy-client-cert-file {pki}/front-proxy.crt \
     --proxy-client-key-file {pki}/front-proxy.key \
     --requestheader-client-ca-file {pki}/front-proxy-ca.crt \
     --requestheader-allowed-names front-proxy-client \
     --requestheader-username-headers X-Remote-User \
     --requestheader-group-headers X-Remote-Group \
     --requestheader-extra-headers-prefix X-Remote-Extra- \
     --enable-aggregator-routing"
}
