//! Puts the parts together, and takes them apart on a signal.
//!
//! Decides order only: sockets before shards, shards before listeners; at the end rooms first.
//! Invariant: a stop tells every room to reconnect elsewhere and ends within its bound.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use media_core::io::{Command, Transport};
use media_core::{Certificate, MediaAddress, RtxCache, Shard, ShardConfig};
use rand::Rng;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::epochs::Epochs;
use crate::keys::{Keys, dev_keys, unix_millis};
use crate::listen::{self, Door};
use crate::net::{UdpSocket, local_addresses};
use crate::node::Node;
use crate::shard::{self, EVENTS_MAX, ShardCommand, ShardHandle, ShardSettings};
use crate::tls::{Role, Tls};
use crate::{admin, control, dev, ice_tcp, signal as signalling};

/// How long a participant without WebSocket or media is waited for. The SDK's own retries take
/// 15 s before it gives up resuming.
const RESUME_WINDOW: Duration = Duration::from_secs(20);
/// Local addresses the dev server offers; more candidates only slow ICE down.
const LOCAL_ADDRESSES_MAX: usize = 6;
/// Time for the last Leave to reach the sockets after all rooms are empty.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Where a started media node listens; ports are those that were bound.
pub struct Started {
    pub signal: SocketAddr,
    pub admin: SocketAddr,
    pub control: Option<SocketAddr>,
    /// Advertised UDP addresses of every shard.
    pub media: Vec<SocketAddr>,
    /// Advertised addresses for media over TCP.
    pub media_tcp: Vec<SocketAddr>,
    /// API secret of the dev server, when it was generated.
    pub secret: Option<String>,
    node: Arc<Node>,
    tasks: tokio::task::JoinSet<()>,
}

/// The process around a media node: its control threads, and the signals that end it.
pub struct Process {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Process {
    /// Listens for signals from here on; one that comes before [`Process::serve`] is kept for it.
    pub fn begin() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("control")
            .enable_all()
            .build()
            .context("cannot start the control threads")?;
        let entered = runtime.enter();
        let terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        drop(entered);
        Ok(Self { runtime, terminate, interrupt })
    }

    /// Serves until a signal.
    pub fn serve(self, config: Config) -> anyhow::Result<()> {
        let Self { runtime, mut terminate, mut interrupt } = self;
        runtime.block_on(async {
            let started = start(config).await?;
            if started.node.config.dev {
                let with_page = started.node.config.page_directory.is_some();
                print!("{}", dev::greeting(started.signal, started.secret.as_deref(), with_page));
            }
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping; a second signal stops at once");
            tokio::select! {
                () = started.stop() => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            Ok(())
        })
    }
}

/// Starts everything.
pub async fn start(mut config: Config) -> anyhow::Result<Started> {
    config.page_directory = dev::page_directory(config.page_directory);
    let (keys, secret) = keys(&config)?;
    let doors = doors(&config)?;
    let epochs = Epochs::load(&config)?;
    let (events, told) = mpsc::channel(EVENTS_MAX);
    let tcp = tcp_listeners(&config).await?;
    let (shards, media) = start_shards(&config, &keys, &tcp, &events)?;
    let signal = listen::bind("signal_address", config.signal_address).await?;
    let admin = listen::bind("admin_address", config.admin_address).await?;
    let control = match config.control_address {
        Some(address) => Some(listen::bind("control_address", address).await?),
        None => None,
    };
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(file) = &config.keys_file {
        tasks.spawn(keys.clone().watch(file.clone()));
    }
    let node = Arc::new(Node::new(config, keys, shards, epochs));
    let started = Started {
        signal: signal.local_addr()?,
        admin: admin.local_addr()?,
        control: control.as_ref().map(TcpListener::local_addr).transpose()?,
        media,
        media_tcp: tcp.iter().map(|(_, advertised)| *advertised).collect(),
        secret,
        node: Arc::clone(&node),
        tasks,
    };
    Ok(started.serve(Listeners { doors, signal, admin, control, tcp }, told))
}

/// The doors of the signalling and the control listener; `None` without TLS.
type Doors = Option<(Door, Door)>;

/// Bound sockets that nobody accepts from yet.
struct Listeners {
    doors: Doors,
    signal: TcpListener,
    admin: TcpListener,
    control: Option<TcpListener>,
    tcp: Vec<(TcpListener, SocketAddr)>,
}

impl Started {
    fn serve(
        mut self,
        listeners: Listeners,
        told: mpsc::Receiver<(usize, shard::ShardEvent)>,
    ) -> Self {
        let Listeners { doors, signal, admin, control, tcp } = listeners;
        let node = Arc::clone(&self.node);
        let (gateway, operator) = doors.unzip();
        for door in [&gateway, &operator].into_iter().flatten() {
            self.tasks.spawn(door.tls.clone().watch());
        }
        self.tasks.spawn(Arc::clone(&node).follow(told));
        self.tasks.spawn(Arc::clone(&node).make_good_lost_events());
        let router = signalling::router(Arc::clone(&node));
        self.tasks.spawn(listen::serve(signal, gateway, router, Arc::clone(&node)));
        let router = admin::router(Arc::clone(&node));
        self.tasks.spawn(listen::serve(admin, None, router, Arc::clone(&node)));
        if let Some(control) = control {
            let router = control::router(Arc::clone(&node));
            self.tasks.spawn(listen::serve(control, operator, router, Arc::clone(&node)));
        }
        for (listener, advertised) in tcp {
            self.tasks.spawn(ice_tcp::serve(listener, advertised, Arc::clone(&node)));
        }
        tracing::info!(
            signal = %self.signal,
            admin = %self.admin,
            control = self.control.map(tracing::field::display),
            shards = node.shards.len(),
            "media node serves"
        );
        self
    }

    /// Sends every room home and waits, within the bound, until nobody is connected any more.
    pub async fn stop(mut self) {
        let node = &self.node;
        let rooms = node.rooms().stop();
        node.changed.notify_waiters();
        tracing::info!(rooms = rooms.len(), "sending rooms home");
        for (room, shard) in rooms {
            if let Some(shard) = node.shards.get(shard) {
                let _ = shard.send_patiently(ShardCommand::from(Command::SendHome { room })).await;
            }
        }
        let deadline = Instant::now() + node.config.stop_timeout;
        let open = &node.counters.websockets_open;
        while Instant::now() < deadline && open.load(std::sync::atomic::Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(LAST_WORDS.min(node.config.stop_timeout)).await;
        for shard in &node.shards {
            let _ = shard.send(ShardCommand::Stop);
        }
        self.tasks.abort_all();
    }
}

fn keys(config: &Config) -> anyhow::Result<(Keys, Option<String>)> {
    if let Some(file) = &config.keys_file {
        return Ok((Keys::from_file(file)?, None));
    }
    let secret = dev::secret();
    let keys = dev_keys(dev::KEY, &secret).context("cannot generate a dev key")?;
    Ok((keys, Some(secret)))
}

fn doors(config: &Config) -> anyhow::Result<Doors> {
    let Some(directory) = &config.tls_directory else {
        return Ok(None);
    };
    let door = |role: &str, protocol| {
        let tls = Tls::load(directory, protocol)?;
        Ok::<_, crate::tls::TlsError>(Door { tls, role: Role::of(role, &config.tenant) })
    };
    Ok(Some((door("gateway", b"http/1.1")?, door("operator", b"h2")?)))
}

/// Which address each media socket is bound to, and which one clients are told.
fn media_addresses(config: &Config) -> anyhow::Result<Vec<(IpAddr, IpAddr)>> {
    let mut bound = config.media_addresses.clone();
    if bound.is_empty() {
        bound = local_addresses().context("media_addresses: cannot list local addresses")?;
        bound.truncate(LOCAL_ADDRESSES_MAX);
    }
    let mut pairs = Vec::new();
    for advertised in &config.advertised_addresses {
        let found = bound.iter().position(|local| local.is_ipv4() == advertised.is_ipv4());
        let local = match found {
            Some(at) => bound.remove(at),
            // An advertised IPv6 address needs a socket even when none was asked for.
            None if advertised.is_ipv6() => IpAddr::from([0_u16; 8]),
            None => anyhow::bail!(
                "advertised_addresses: `{advertised}` has no media address of its family; \
                 add one to media_addresses"
            ),
        };
        pairs.push((local, *advertised));
    }
    if pairs.is_empty() {
        for local in bound {
            if !local.is_unspecified() {
                pairs.push((local, local));
                continue;
            }
            let own = local_addresses().unwrap_or_default();
            let reachable = |ip: &&IpAddr| ip.is_ipv4() == local.is_ipv4() && !ip.is_loopback();
            let first = own.iter().find(reachable).copied();
            pairs.push((local, first.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))));
        }
    }
    Ok(pairs)
}

async fn tcp_listeners(config: &Config) -> anyhow::Result<Vec<(TcpListener, SocketAddr)>> {
    let Some(port) = config.tcp_port else {
        return Ok(Vec::new());
    };
    let mut listeners = Vec::new();
    for (local, advertised) in media_addresses(config)? {
        let listener = listen::bind("tcp_port", SocketAddr::new(local, port)).await?;
        let port = listener.local_addr()?.port();
        listeners.push((listener, SocketAddr::new(advertised, port)));
    }
    Ok(listeners)
}

fn start_shards(
    config: &Config,
    keys: &Keys,
    tcp: &[(TcpListener, SocketAddr)],
    events: &mpsc::Sender<(usize, shard::ShardEvent)>,
) -> anyhow::Result<(Vec<ShardHandle>, Vec<SocketAddr>)> {
    let certificate = Certificate::generate().context("cannot generate a DTLS certificate")?;
    let anchor = (Instant::now(), unix_millis());
    let pairs = media_addresses(config)?;
    let (mut shards, mut media) = (Vec::new(), Vec::new());
    for index in 0..config.shards {
        let port = match config.udp_port_first {
            0 => 0,
            first => first.saturating_add(index as u16),
        };
        let mut sockets = Vec::new();
        for (local, advertised) in &pairs {
            let bound = SocketAddr::new(*local, port);
            let told = SocketAddr::new(*advertised, port);
            let socket = UdpSocket::bind(bound, told).with_context(|| {
                format!("udp_port_first: cannot bind `{bound}/udp`; choose free ports")
            })?;
            sockets.push(socket);
        }
        media.extend(sockets.iter().map(UdpSocket::advertised));
        let udp = sockets.iter().map(|socket| (Transport::Udp, socket.advertised()));
        let all = udp.chain(tcp.iter().map(|(_, told)| (Transport::Tcp, *told)));
        let core = ShardConfig {
            addresses: all
                .map(|(transport, address)| MediaAddress { transport, address })
                .collect(),
            anchor,
            node_id: format!("ND_{}", config.media_node_name),
            region: String::new(),
            certificate: certificate.clone(),
            tokens: Arc::new(keys.clone()),
            rtx_cache: RtxCache::default(),
            resume_window: RESUME_WINDOW,
            bandwidth_estimation: true,
        };
        let core = Box::new(move || Shard::new(core.clone(), rand::rng().random()));
        let events = events.clone();
        let settings = ShardSettings { index, sockets, core, events };
        let (handle, _) = shard::start(settings).context("cannot start a shard thread")?;
        shards.push(handle);
    }
    Ok((shards, media))
}
