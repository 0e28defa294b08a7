//! The shard thread: wait, receive, handle, drain, send – once per wake-up, one batch each way.
//!
//! Owns the sockets and the core; shares nothing. May not log, lock or wait in its loop except in
//! the poller. Invariant: it never stops for a slow reader, a full queue or a panic of a room.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use media_core::Shard;
use media_core::ids::ConnectionId;
use media_core::io::{Command, Input, Output, Transmit, Transport};
use tokio::sync::{mpsc, watch};

use super::connections::{Connections, Delivery};
use super::load::{DelayHistogram, ShardReport, ShardTotals};
use super::{COMMANDS_MAX, ShardCommand, ShardEvent, ShardHandle, ToClient};
use crate::net::{Poller, ReceiveBatch, Runs, SendBatch, UdpSocket, cpu_time, pin_to_cpu};

/// Commands per wake-up, so that a burst of joins does not hold up media for long.
const COMMANDS_PER_WAKE_MAX: usize = 64;
/// How often the load is published.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Packets collected before an early flush. A wake-up of one large room makes thousands; the first
/// of them must not wait for the last. 32 take about 0.1 ms to make, and more in one system call
/// gain nothing: the kernel's cost is by packet.
const FLUSH_AT: usize = 32;

/// What a shard needs to start. `core` makes its core, again after a panic.
pub struct ShardSettings {
    pub index: usize,
    pub sockets: Vec<UdpSocket>,
    pub core: Box<dyn Fn() -> Shard + Send>,
    pub events: mpsc::Sender<(usize, ShardEvent)>,
}

/// Starts the thread; it ends after [`ShardCommand::Stop`].
pub fn start(settings: ShardSettings) -> io::Result<(ShardHandle, JoinHandle<()>)> {
    let poller = Poller::new()?;
    for (index, socket) in settings.sockets.iter().enumerate() {
        poller.add(socket, index as u32)?;
    }
    let (commands, queue) = sync_channel(COMMANDS_MAX);
    let (reports, report) = watch::channel(Arc::new(ShardReport::default()));
    let handle = ShardHandle {
        index: settings.index,
        commands,
        waker: poller.waker(),
        refused: Arc::new(AtomicU64::new(0)),
        reports: report,
    };
    let index = settings.index;
    let thread = std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
        // A container may forbid pinning; the shard then floats and works all the same.
        let pinned = pin_to_cpu(index);
        tracing::info!(shard = index, cpu = pinned.ok(), "shard started");
        run(settings, poller, queue, reports);
    })?;
    Ok((handle, thread))
}

/// Runs the loop, and runs it anew when the thread's own code panicked.
fn run(
    settings: ShardSettings,
    poller: Poller,
    queue: Receiver<ShardCommand>,
    reports: watch::Sender<Arc<ShardReport>>,
) {
    let mut thread = ShardThread::new(settings, poller, queue, reports);
    while catch_unwind(AssertUnwindSafe(|| thread.serve())).is_err() {
        thread.begin_anew();
    }
}

struct ShardThread {
    index: usize,
    core: Shard,
    make_core: Box<dyn Fn() -> Shard + Send>,
    sockets: Vec<UdpSocket>,
    poller: Poller,
    queue: Receiver<ShardCommand>,
    reports: watch::Sender<Arc<ShardReport>>,
    events: mpsc::Sender<(usize, ShardEvent)>,
    connections: Connections,
    receive: ReceiveBatch,
    runs: Runs,
    send: SendBatch,
    ready: Vec<u32>,
    deadline: Instant,
    totals: ShardTotals,
    delay: DelayHistogram,
    second: Second,
}

/// Where the counters stood when the current second began.
struct Second {
    began: Instant,
    cpu: Duration,
    totals: ShardTotals,
}

impl Second {
    fn begin(totals: ShardTotals) -> Self {
        Self { began: Instant::now(), cpu: cpu_time(), totals }
    }
}

impl ShardThread {
    fn new(
        settings: ShardSettings,
        poller: Poller,
        queue: Receiver<ShardCommand>,
        reports: watch::Sender<Arc<ShardReport>>,
    ) -> Self {
        Self {
            index: settings.index,
            core: (settings.core)(),
            make_core: settings.core,
            sockets: settings.sockets,
            poller,
            queue,
            reports,
            events: settings.events,
            connections: Connections::default(),
            receive: ReceiveBatch::default(),
            runs: Runs::default(),
            send: SendBatch::default(),
            ready: Vec::new(),
            deadline: Instant::now(),
            totals: ShardTotals::default(),
            delay: DelayHistogram::default(),
            second: Second::begin(ShardTotals::default()),
        }
    }

    fn begin_anew(&mut self) {
        self.totals.panics += 1;
        self.core = (self.make_core)();
        self.connections = Connections::default();
        self.runs.clear();
        self.deadline = Instant::now();
        self.tell(ShardEvent::Restarted);
    }

    fn serve(&mut self) {
        let mut more = false;
        loop {
            let next = self.deadline.min(self.second.began + REPORT_EVERY);
            let wait = next.saturating_duration_since(Instant::now());
            let wait = if more { Duration::ZERO } else { wait };
            if self.poller.wait(wait, &mut self.ready).is_err() {
                // Only a broken descriptor does this; without the pause it would spin.
                std::thread::sleep(REPORT_EVERY);
            }
            let woke = Instant::now();
            self.receive_packets(woke);
            match self.take_commands(woke) {
                Some(left) => more = left,
                None => return,
            }
            if woke >= self.deadline {
                self.core.handle(woke, Input::Timeout);
            }
            self.drain(woke);
            self.flush(woke);
            if woke >= self.second.began + REPORT_EVERY {
                self.publish(woke);
            }
        }
    }

    fn receive_packets(&mut self, now: Instant) {
        let Self { core, receive, sockets, ready, totals, .. } = self;
        for index in ready.iter() {
            let Some(socket) = sockets.get(*index as usize) else {
                continue;
            };
            let destination = socket.advertised();
            // One batch, then everybody else gets a turn; the poller says if there is more.
            let received = receive.receive(socket, |source, contents| {
                totals.packets_in += 1;
                totals.bytes_in += contents.len() as u64;
                let transport = Transport::Udp;
                core.handle(now, Input::Datagram { transport, source, destination, contents });
            });
            totals.receive_errors += u64::from(received.is_err());
        }
    }

    /// Handles queued commands; returns whether more are waiting, or nothing at the end.
    fn take_commands(&mut self, now: Instant) -> Option<bool> {
        for _ in 0..COMMANDS_PER_WAKE_MAX {
            match self.queue.try_recv() {
                Ok(ShardCommand::Stop) | Err(TryRecvError::Disconnected) => return None,
                Ok(command) => self.take_command(now, command),
                Err(TryRecvError::Empty) => return Some(false),
            }
        }
        Some(true)
    }

    fn take_command(&mut self, now: Instant, command: ShardCommand) {
        let input = match command {
            ShardCommand::Core(command) => {
                if let Command::SignalClosed { connection } = command.as_ref() {
                    self.connections.detach(*connection);
                }
                Input::Command(*command)
            }
            ShardCommand::Attach { connection, outgoing, command } => {
                self.connections.attach(connection, outgoing);
                Input::Command(*command)
            }
            ShardCommand::Signal { connection, request, place } => {
                drop(place);
                Input::Command(Command::Signal { connection, request })
            }
            ShardCommand::Admin { room, call, reply } => {
                let request = self.connections.expect(reply);
                Input::Command(Command::Admin { request, room, call: *call })
            }
            ShardCommand::TcpOpened { source, destination, outgoing } => {
                self.connections.open_stream(source, destination, outgoing);
                return;
            }
            ShardCommand::TcpFrame { source, destination, contents, place } => {
                drop(place);
                self.totals.packets_in += 1;
                self.totals.bytes_in += contents.len() as u64;
                let (transport, contents) = (Transport::Tcp, contents.as_slice());
                let frame = Input::Datagram { transport, source, destination, contents };
                return self.core.handle(now, frame);
            }
            ShardCommand::TcpClosed { source, destination } => {
                self.connections.close_stream(source, destination);
                Input::TcpClosed { source, destination }
            }
            ShardCommand::Stop => return,
        };
        self.core.handle(now, input);
    }

    /// Takes everything the core has to say until it names its next deadline.
    fn drain(&mut self, now: Instant) {
        loop {
            match self.core.poll() {
                Output::Transmit(transmit) => self.transmit(now, transmit),
                Output::Signal { connection, response } => {
                    self.deliver(now, connection, ToClient::Message(response));
                }
                Output::CloseSignal { connection, reason } => {
                    self.deliver(now, connection, ToClient::Close(reason));
                    self.connections.detach(connection);
                }
                Output::Admin { request, reply } => self.connections.answer(request, *reply),
                Output::Event(event) => self.tell(ShardEvent::Core(event)),
                Output::Timeout(at) => {
                    self.deadline = at;
                    return;
                }
            }
        }
    }

    fn transmit(&mut self, now: Instant, transmit: Transmit) {
        let Transmit { transport, source, destination, contents } = transmit;
        if transport == Transport::Tcp {
            if !self.connections.send_frame(destination, source, contents) {
                self.totals.tcp_frames_dropped += 1;
            }
            return;
        }
        let Some(socket) = self.socket_for(source, destination) else {
            return;
        };
        // What follows one another to one receiver stays together: it may be one run.
        if self.runs.len() >= FLUSH_AT && !self.runs.ends_at(socket, destination) {
            self.flush(now);
        }
        self.runs.push(socket, destination, contents);
    }

    /// The socket that advertises `source`; candidates of one family may share a socket.
    fn socket_for(&self, source: SocketAddr, destination: SocketAddr) -> Option<u32> {
        let exact = self.sockets.iter().position(|socket| socket.advertised() == source);
        let family = |socket: &UdpSocket| socket.advertised().is_ipv4() == destination.is_ipv4();
        exact.or_else(|| self.sockets.iter().position(family)).map(|index| index as u32)
    }

    fn deliver(&mut self, now: Instant, connection: ConnectionId, message: ToClient) {
        if self.connections.deliver(connection, message) == Delivery::CutOff {
            self.totals.signal_overflows += 1;
            let closed = Command::SignalClosed { connection };
            self.core.handle(now, Input::Command(closed));
        }
    }

    fn tell(&mut self, event: ShardEvent) {
        if self.events.try_send((self.index, event)).is_err() {
            self.totals.events_dropped += 1;
        }
    }

    fn flush(&mut self, woke: Instant) {
        if self.runs.is_empty() {
            return;
        }
        let before = self.send.counters().packets;
        self.send.flush(&mut self.sockets, &mut self.runs);
        let sent = self.send.counters().packets - before;
        self.delay.record(woke.elapsed(), sent);
    }

    fn publish(&mut self, now: Instant) {
        self.totals.sent = self.send.counters();
        let seconds = now.duration_since(self.second.began).as_secs_f64();
        let before = self.second.totals;
        let rate = |after: u64, before: u64| after.saturating_sub(before) as f64 / seconds;
        let cpu = cpu_time().saturating_sub(self.second.cpu).as_secs_f64();
        let report = ShardReport {
            busy_ratio: (cpu / seconds).clamp(0.0, 1.0),
            packets_in_per_second: rate(self.totals.packets_in, before.packets_in),
            packets_out_per_second: rate(self.totals.sent.packets, before.sent.packets),
            bytes_in_per_second: rate(self.totals.bytes_in, before.bytes_in),
            bytes_out_per_second: rate(self.totals.sent.bytes, before.sent.bytes),
            delay: std::mem::take(&mut self.delay),
            totals: self.totals,
            core: self.core.stats(),
        };
        self.second = Second::begin(self.totals);
        self.reports.send_replace(Arc::new(report));
    }
}
