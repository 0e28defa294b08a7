//! One Kubernetes node: its namespaces, its cable and routes, then containerd, kubelet and
//! kube-proxy. Decides their configuration.
//!
//! Invariant: starting a node that runs in part starts only what is missing.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::layout::{machine, node_address, pod_block};
use super::{Bed, Error, Result};
use crate::images;
use crate::process::{self, Wait, run, run_line};

impl Bed {
    /// Starts node `n`, after a loss with its disk as it was. Works inside the bed.
    ///
    /// # Errors
    /// If a part of it does not start.
    pub fn start_node(&self, n: u8) -> Result<()> {
        if !self.layout.node(n).is_dir() {
            return Err(self.unknown_node(n));
        }
        if !self.runs(&format!("n{n}")) {
            self.boot(n)?;
        }
        self.write_configuration(n)?;
        self.start_on(n, "containerd", &["containerd", "--config", "/etc/cni/containerd.toml"])?;
        Wait::new(&format!("containerd of n{n}"), 30)
            .log(self.layout.log(&format!("n{n}.containerd")))
            .until(|| run(self.on_node(n).args(["ctr", "version"])).is_ok())?;
        let loaded = self.layout.node(n).join("loaded");
        if !loaded.exists() {
            self.load_on(n, &self.tools.images())?;
            self.layout.write(&loaded, "")?;
        }
        let name = format!("n{n}");
        let kubelet = self.tools.path("kubelet").display().to_string();
        let kubeconfig = self.layout.kubeconfig(&name).display().to_string();
        let address = node_address(n);
        let line = [
            &kubelet,
            "--config=/etc/cni/kubelet.yaml",
            &format!("--kubeconfig={kubeconfig}"),
            &format!("--hostname-override={name}"),
            &format!("--node-ip={address}"),
        ];
        self.start_on(n, "kubelet", &line)?;
        let proxy = self.tools.path("kube-proxy").display().to_string();
        let config = "--config=/etc/cni/kube-proxy.yaml";
        self.start_on(n, "kube-proxy", &[&proxy, config, &format!("--hostname-override={name}")])
    }

    /// A command line that runs on node `n`. Works inside the bed.
    #[must_use]
    pub fn on_node(&self, n: u8) -> Command {
        let mut command = Command::new("nsenter");
        command.args(self.entry_of(n));
        command
    }

    /// Imports OCI archives on node `n`, where they are then known by tag and by digest. Works
    /// inside the bed.
    ///
    /// # Errors
    /// If containerd refuses one.
    pub fn load_on(&self, n: u8, archives: &[PathBuf]) -> Result<()> {
        for archive in archives {
            let import = ["ctr", "-n", "k8s.io", "images", "import"];
            run(self.on_node(n).args(import).arg(archive))?;
            let image = images::Reference::of(archive)?;
            // The kubelet finds by digest only what is called so.
            let tag = ["ctr", "-n", "k8s.io", "images", "tag", "--force"];
            run(self.on_node(n).args(tag).args([&image.tagged, &image.pinned()]))?;
        }
        Ok(())
    }

    /// Imports OCI archives on every node that runs, all nodes at once. Works inside the bed.
    ///
    /// # Errors
    /// As [`Bed::load_on`].
    pub fn load(&self, archives: &[PathBuf]) -> Result<()> {
        std::thread::scope(|scope| {
            let nodes = self.layout.nodes();
            let running = nodes.into_iter().filter(|n| self.runs(&format!("n{n}")));
            let loads: Vec<_> =
                running.map(|n| scope.spawn(move || self.load_on(n, archives))).collect();
            for load in loads {
                load.join().map_err(|_| Error::Crashed { what: "loading images" })??;
            }
            Ok(())
        })
    }

    pub(super) fn unknown_node(&self, n: u8) -> Error {
        let known: Vec<_> = self.layout.nodes().iter().map(u8::to_string).collect();
        Error::Unknown { name: format!("node {n}"), known: known.join(", ") }
    }

    pub(super) fn runs(&self, name: &str) -> bool {
        process::read_pid(&self.layout.pid(name)).is_some_and(process::is_alive)
    }

    fn entry_of(&self, n: u8) -> [String; 4] {
        let init = process::read_pid(&self.layout.pid(&format!("n{n}"))).unwrap_or(0);
        ["-t".to_owned(), init.to_string(), "-a".to_owned(), "--".to_owned()]
    }

    fn start_on(&self, n: u8, name: &str, line: &[&str]) -> Result<()> {
        let full = format!("n{n}.{name}");
        if self.runs(&full) {
            return Ok(());
        }
        let mut words: Vec<OsString> = vec!["nsenter".into()];
        words.extend(self.entry_of(n).into_iter().map(OsString::from));
        words.extend(line.iter().map(OsString::from));
        self.spawn(&format!("n{n}"), &full, &words).map(|_| ())
    }

    /// Namespaces, cable and routes.
    fn boot(&self, n: u8) -> Result<()> {
        let name = format!("n{n}");
        let ready = self.layout.node(n).join("ready");
        let _ = fs::remove_file(&ready);
        // An earlier life of this node may have left its end of the cable.
        let _ = run_line(&format!("ip link delete v{n}"));
        let words = "unshare --mount --pid --net --ipc --uts --fork --mount-proc --";
        let mut line: Vec<OsString> = words.split(' ').map(Into::into).collect();
        line.extend([self.layout.program().into(), "_boot".into(), n.to_string().into()]);
        let outer = self.spawn(&name, &name, &line)?;
        Wait::new(&format!("the namespaces of {name}"), 20)
            .log(self.layout.log(&name))
            .until(|| ready.exists())?;
        let Some(init) = process::child_of(outer) else {
            return Err(Error::Crashed { what: "the first process of a node" });
        };
        self.layout.write(&self.layout.pid(&name), &init.to_string())?;
        run_line(&format!("ip link add v{n} type veth peer name eth0 netns {init}"))?;
        run_line(&format!("ip link set v{n} master br0 up"))?;
        let here = |line: &str| run(self.on_node(n).arg("ip").args(line.split(' ')));
        here(&format!("address add {}/24 dev eth0", node_address(n)))?;
        here("link set eth0 up")?;
        here("route add default via 198.18.0.1")?;
        for other in self.layout.nodes().into_iter().filter(|other| *other != n) {
            here(&format!("route replace {} via {}", pod_block(other), node_address(other)))?;
        }
        run_line(&format!("ip route replace {} via {}", pod_block(n), node_address(n)))?;
        Ok(())
    }

    fn write_configuration(&self, n: u8) -> Result<()> {
        let directory = self.layout.node(n).join("etc-cni");
        let net = directory.join("net.d");
        for made in [&net, &self.layout.static_pods(n)] {
            fs::create_dir_all(made).map_err(|source| Error::file("create", made, source))?;
        }
        self.keep(&net.join("10-testbed.conflist"), &cni(n))?;
        self.keep(&directory.join("containerd.toml"), CONTAINERD)?;
        self.keep(&directory.join("kubelet.yaml"), &self.kubelet(n))?;
        let kubeconfig = self.layout.kubeconfig("kube-proxy");
        self.keep(&directory.join("kube-proxy.yaml"), &kube_proxy(&kubeconfig))
    }

    /// Writes `text` unless it stands there: kube-proxy ends itself when its file is written anew,
    /// even with the same words, and would do so after it was found running.
    fn keep(&self, path: &Path, text: &str) -> Result<()> {
        if fs::read_to_string(path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        self.layout.write(path, text)
    }

    fn kubelet(&self, n: u8) -> String {
        let (address, machine, pki) = (node_address(n), machine(n), self.layout.pki(""));
        let pki = pki.display();
        let cgroup = self.layout.cgroup(&format!("n{n}"));
        let cgroup = cgroup.display();
        format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {address}
providerID: '{machine}'
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: '{pki}ca.crt'}}
authorization: {{mode: Webhook}}
tlsCertFile: '{pki}n{n}.crt'
tlsPrivateKeyFile: '{pki}n{n}.key'
cgroupRoot: '/{cgroup}'
{KUBELET}"
        )
    }
}

/// What every kubelet shares. `oomScoreAdj: 0`, because root may lack the right to lower it;
/// `failCgroupV1`, because the machine may have nothing else.
const KUBELET: &str = "\
staticPodPath: /etc/cni/static
fileCheckFrequency: 2s
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
enforceNodeAllocatable: [pods]
clusterDomain: cluster.local
clusterDNS: [198.18.240.10]
resolvConf: ''
failSwapOn: false
failCgroupV1: false
localStorageCapacityIsolation: true
evictionHard:
  memory.available: 100Mi
  nodefs.available: 1%
  imagefs.available: 1%
  nodefs.inodesFree: 1%
imageGCHighThresholdPercent: 100
imageMaximumGCAge: 0s
nodeStatusUpdateFrequency: 4s
nodeLeaseDurationSeconds: 8
oomScoreAdj: 0
";

const CONTAINERD: &str = "\
version = 2
disabled_plugins = [
  'io.containerd.snapshotter.v1.btrfs', 'io.containerd.snapshotter.v1.zfs',
  'io.containerd.snapshotter.v1.devmapper', 'io.containerd.snapshotter.v1.aufs',
  'io.containerd.internal.v1.opt', 'io.containerd.tracing.processor.v1.otlp',
  'io.containerd.internal.v1.tracing',
]
[plugins.'io.containerd.grpc.v1.cri']
sandbox_image = 'localhost/hemicycle-bed/pause:1'
disable_apparmor = true
restrict_oom_score_adj = true
[plugins.'io.containerd.grpc.v1.cri'.cni]
bin_dir = '/usr/lib/cni'
conf_dir = '/etc/cni/net.d'
";

fn cni(n: u8) -> String {
    let block = pod_block(n);
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "testbed", "plugins": [
  {{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{block}"}}]],
            "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}
"#
    )
}

/// A namespace may not set the machine's conntrack limits, hence the zeros.
fn kube_proxy(kubeconfig: &Path) -> String {
    let kubeconfig = kubeconfig.display();
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: 198.19.0.0/16
oomScoreAdj: 0
clientConnection: {{kubeconfig: '{kubeconfig}'}}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"
    )
}
