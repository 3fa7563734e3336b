//! `nebnet serve`: start, wait for a reason to stop, stop.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use nebnet::{
    ConnectOptions, EventOptions, EventSubscription, Handle, LinkId, NetService, OverflowPolicy,
    StartError, SubscribeOptions, Subscription, TypeFilter,
};

use crate::{
    args::ServeArgs,
    echo,
    failure::Failure,
    http::Endpoint,
    links, logger, print, relay,
    reload::Running,
    settings::Settings,
    signals::{self, Asked},
    stats::Stats,
    tap, text, time,
    worker::{self, Ending, WorkerError},
};

/// Echo, print, relay, tap, links: no service has more workers, so telling how one ended never
/// waits.
const WORKERS_MAX: usize = 5;
/// What a worker may take beyond the drain to finish what it has in hand.
const WORKER_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a running service is to be stopped.
#[derive(Debug)]
enum Cause {
    /// A signal, or a standard output that is not read.
    Asked,
    /// The threads of the service ended.
    Ended,
    /// A worker cannot go on.
    Worker(String),
}

pub(crate) fn run(args: Box<ServeArgs>) -> Result<(), Failure> {
    let ServeArgs { config, options } = *args;
    // Before anything else, so that no signal finds the default action in the middle of it.
    let signals = signals::catch()?;
    let mut running = Running::load(options, config)?;
    let settings = running.settings.clone();
    // Before any thread, whose stack and reserves would count as in use where memory is limited.
    let mut service = NetService::new(settings.config.clone())
        .map_err(|error| Failure::new(text::chain(&error)))?;
    logger::start(settings.log_level)?;
    let asked = signals.watch()?;
    let output_closed = if settings.print {
        print::watch_stdout()?
    } else {
        never()
    };
    let endpoint = settings.metrics.map(Endpoint::bind).transpose()?;
    if settings.stats.unwrap_or_else(|| io::stderr().is_terminal()) {
        let mut stats = Stats::default();
        service.on_metrics(move |snapshot| stats.show(snapshot));
    }
    let (sender, endings) = bounded(WORKERS_MAX);
    // Before the start, so that no message comes too early for a subscriber.
    let subscriptions = Subscriptions::new(&settings, &service)?;
    let metrics = endpoint.as_ref().map(Endpoint::addr);
    service
        .start()
        .map_err(|error| start_failure(&error, metrics))?;

    let mut targets = HashMap::new();
    for target in &settings.connect {
        let options = ConnectOptions::from(target.as_str()).keep_connected(true);
        let link = service.handle().connect(options).map_err(|error| {
            Failure::new(format!(
                "cannot connect to {target}: {}",
                text::chain(&error)
            ))
        })?;
        targets.insert(link, target.clone());
    }
    if let Some(endpoint) = endpoint {
        endpoint.start(&service.handle())?;
    }
    let announced = announce(&service, metrics);
    // After that, so that no printed message comes before the lines that scripts wait for.
    let mut workers = subscriptions.start_workers(&service.handle(), targets, &sender)?;
    let cause = match announced {
        // The reader of --print is gone before it read anything.
        Err(error) if settings.print && error.kind() == ErrorKind::BrokenPipe => Cause::Asked,
        result => {
            if let Err(error) = result {
                log::warn!("cannot write to standard output: {error}");
            }
            let sources = Sources {
                asked: &asked,
                endings: &endings,
                output_closed: &output_closed,
            };
            wait(&service, &sources, &mut running, &mut workers)
        }
    };
    let drain = running.settings.drain;
    stop(service, cause, drain, &endings, workers)
}

/// Names the metrics port where it may be what is in the way.
fn start_failure(error: &StartError, metrics: Option<SocketAddr>) -> Failure {
    let mut message = text::chain(error);
    if let (StartError::Listen { addr, source }, Some(metrics)) = (error, metrics) {
        let is_taken = source.kind() == ErrorKind::AddrInUse;
        if is_taken && addr.port() == metrics.port() && source.raw_os_error().is_some() {
            message = format!("{message}: {metrics} is that of --metrics");
        }
    }
    Failure::new(message)
}

/// What takes the messages.
#[derive(Debug)]
struct Subscriptions {
    echo: Option<Subscription>,
    print: Option<Subscription>,
    relay: Option<Subscription>,
    /// If nothing else does.
    tap: Option<Subscription>,
    /// What becomes of links, if there are any.
    links: Option<EventSubscription>,
    outbox_bytes: Arc<AtomicUsize>,
}

impl Subscriptions {
    fn new(settings: &Settings, service: &NetService) -> Result<Self, Failure> {
        let tap = !(settings.echo || settings.print || settings.relay);
        let some = |wanted: bool, name| wanted.then(|| subscribe(service, name)).transpose();
        Ok(Self {
            echo: some(settings.echo, "echo")?,
            print: some(settings.print, "print")?,
            relay: some(settings.relay, "relay")?,
            tap: some(tap, "tap")?,
            links: watch_links(settings, service)?,
            outbox_bytes: Arc::clone(&settings.outbox_bytes),
        })
    }

    fn start_workers(
        self,
        handle: &Handle,
        targets: HashMap<LinkId, String>,
        endings: &Sender<Ending>,
    ) -> Result<Workers, Failure> {
        let mut workers = Workers::default();
        if let Some(messages) = self.echo {
            let handle = handle.clone();
            worker::start("echo", endings, move || echo::run(messages, &handle))?;
            workers.running.push("echo");
        }
        if let Some(messages) = self.print {
            worker::start("print", endings, move || print::run(messages))?;
            workers.running.push("print");
        }
        if let Some(messages) = self.relay {
            let handle = handle.clone();
            let outbox_bytes = self.outbox_bytes;
            worker::start("relay", endings, move || {
                relay::run(messages, &handle, &outbox_bytes)
            })?;
            workers.running.push("relay");
        }
        if let Some(events) = self.links {
            worker::start("links", endings, move || links::run(&events, &targets))?;
            workers.running.push("links");
        }
        if let Some(messages) = self.tap {
            worker::start("tap", endings, move || tap::run(messages))?;
            workers.running.push("tap");
        }
        Ok(workers)
    }
}

/// Every message, and none dropped: what cannot be taken is not read from the peer that sends it.
fn subscribe(service: &NetService, name: &str) -> Result<Subscription, Failure> {
    let options = SubscribeOptions::new(TypeFilter::all())
        .name(name)
        .overflow(OverflowPolicy::Pause);
    service
        .handle()
        .subscribe_with(options)
        .map_err(|error| Failure::new(format!("cannot subscribe {name}: {}", text::chain(&error))))
}

fn watch_links(
    settings: &Settings,
    service: &NetService,
) -> Result<Option<EventSubscription>, Failure> {
    if settings.connect.is_empty() {
        return Ok(None);
    }
    let events = service
        .handle()
        .subscribe_events(EventOptions::new().name("links"));
    events
        .map(Some)
        .map_err(|error| Failure::new(format!("cannot subscribe links: {}", text::chain(&error))))
}

/// Says where the service can be reached; scripts wait for these lines.
fn announce(service: &NetService, metrics: Option<SocketAddr>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for addr in service.local_addrs() {
        writeln!(out, "listening on {addr}")?;
    }
    if let Some(addr) = metrics {
        writeln!(out, "metrics on {addr}")?;
    }
    out.flush()
}

/// The workers, and what those that ended had to say.
#[derive(Debug, Default)]
struct Workers {
    running: Vec<&'static str>,
    summaries: Vec<String>,
}

impl Workers {
    /// Takes note of an ending; returns what it means for the service.
    fn ended(&mut self, ending: Ending) -> Cause {
        let name = ending.name;
        self.running.retain(|running| *running != name);
        match ending.result {
            Ok(summary) => {
                self.summaries.push(format!("{name}: {summary}"));
                // Its subscription ended, which only the end of the service does.
                Cause::Ended
            }
            Err(WorkerError::OutputClosed) => {
                self.summaries
                    .push(format!("{name}: standard output was closed"));
                Cause::Asked
            }
            Err(WorkerError::Failed(message)) => Cause::Worker(message),
        }
    }
}

/// What a running service waits for.
struct Sources<'a> {
    asked: &'a Asked,
    endings: &'a Receiver<Ending>,
    output_closed: &'a Receiver<()>,
}

/// Reloads when asked to, until there is a reason to stop.
fn wait(
    service: &NetService,
    sources: &Sources<'_>,
    running: &mut Running,
    workers: &mut Workers,
) -> Cause {
    let handle = service.handle();
    loop {
        select! {
            recv(sources.asked.stop) -> _ => return Cause::Asked,
            recv(sources.output_closed) -> _ => return Cause::Asked,
            recv(service.ended()) -> _ => return Cause::Ended,
            recv(sources.endings) -> ending => {
                return ending.map_or(Cause::Ended, |ending| workers.ended(ending));
            }
            recv(sources.asked.reload) -> asked => match asked {
                Ok(()) => running.reload(&handle),
                // As if it were the other of the two, since the same thread tells both.
                Err(_) => return Cause::Asked,
            },
        }
    }
}

/// Drains, reports, and says how the command ended.
fn stop(
    mut service: NetService,
    cause: Cause,
    drain: Duration,
    endings: &Receiver<Ending>,
    mut workers: Workers,
) -> Result<(), Failure> {
    log::info!("stopping");
    let drain = if matches!(cause, Cause::Ended) {
        Duration::ZERO
    } else {
        drain
    };
    let deadline = time::now() + drain + WORKER_TIMEOUT;
    let report = service.stop(drain);
    let mut failed = match &cause {
        Cause::Worker(message) => Some(message.clone()),
        Cause::Asked | Cause::Ended => None,
    };
    // The subscriptions have ended, so the workers only finish what they took. One that waits for
    // a standard output that is not read would never do so.
    while !workers.running.is_empty() {
        let Ok(ending) = endings.recv_deadline(deadline) else {
            break;
        };
        if let Cause::Worker(message) = workers.ended(ending) {
            failed.get_or_insert(message);
        }
    }
    if let Some(failure) = service.failure().or_else(|| report.failure.clone()) {
        return Err(Failure::new(format!("the service failed: {failure}")));
    }
    if matches!(cause, Cause::Ended) {
        return Err(Failure::new("the service ended without saying why"));
    }
    logger::lines(&report.to_string());
    for summary in &workers.summaries {
        logger::lines(summary);
    }
    for name in &workers.running {
        logger::lines(&format!("{name}: did not finish in time"));
    }
    failed.map_or(Ok(()), |message| Err(Failure::new(message)))
}
