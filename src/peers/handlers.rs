//! Inline handlers: who handles which types on the loop, and what a read leaves for the dispatcher.
//!
//! Handled messages are taken out of a read before a block is made of it. A handler borrows them
//! where they were read; what no handler takes is moved together in the same buffer, so that the
//! fan-out never sees a handled frame, and a read in which everything is handled makes no block.
//!
//! Invariants:
//! - a type has at most one handler, and each handler sees its messages in their order
//! - `frames of the read = handled + kept`, also if a handler panics in the middle
//! - while a handler runs, the loop holds no lock

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use super::connection::Connection;
use crate::{
    block::{BlockHead, MessageRef},
    clock::{Clock, Now, Tick},
    dispatch::{Requests, TypeFilter, is_answer, panic_message},
    error::HandlerError,
    frame::{Frame, WholeFrames},
    id::{MessageType, PeerId},
    inline::Replier,
    ledger::{HandlerAccount, HandlerRow, Ledger, Traffic, TypeMap},
    limits::{HANDLER_TIME_LIMIT_US, HANDLERS_MAX},
    log_limiter::{LogLimiter, Subject},
    peer::Parsed,
    slots::Slots,
    socket::Ready,
};

/// The route of types without a handler; that of a handler is its position plus one.
const NOBODY: u8 = 0;

/// How to handle messages inline; see
/// [`NetService::handle_inline`](crate::NetService::handle_inline).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use nebnet::{HandlerOptions, MessageType};
///
/// let options = HandlerOptions::new(MessageType(0x10)..=MessageType(0x1F))
///     .name("orders")
///     .time_limit(Duration::from_micros(20));
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct HandlerOptions {
    types: TypeFilter,
    name: Option<String>,
    time_limit: Duration,
}

impl HandlerOptions {
    /// A handler of the types, with the defaults.
    #[must_use]
    pub fn new(types: impl Into<TypeFilter>) -> Self {
        Self {
            types: types.into(),
            name: None,
            time_limit: Duration::from_micros(HANDLER_TIME_LIMIT_US),
        }
    }

    /// The name that reports and logs show; default `handler-N`.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            ..self
        }
    }

    /// How long a call may take, default 50 us. Longer ones are counted and logged, and do nothing
    /// else. Zero: calls are not measured, which saves one look at the clock for each message.
    #[must_use]
    pub fn time_limit(self, time_limit: Duration) -> Self {
        Self { time_limit, ..self }
    }
}

/// The embedder's code.
pub(super) type Call = Box<dyn FnMut(MessageRef<'_>, &mut Replier<'_>) + Send>;

/// All inline handlers of a loop.
pub(crate) struct Handlers {
    /// For each type its route; empty while there is no handler.
    routes: Vec<u8>,
    handlers: Vec<Handler>,
    ledger: Arc<Ledger>,
    requests: Arc<Requests>,
    type_map: TypeMap,
    log_limiter: LogLimiter,
}

struct Handler {
    /// `None` once it has panicked.
    call: Option<Call>,
    time_limit: Duration,
    account: Arc<HandlerAccount>,
}

impl Handlers {
    pub(crate) fn new(ledger: Arc<Ledger>, requests: Arc<Requests>) -> Self {
        Self {
            routes: Vec::new(),
            handlers: Vec::new(),
            ledger,
            requests,
            type_map: TypeMap::default(),
            log_limiter: LogLimiter::default(),
        }
    }

    pub(crate) fn add(&mut self, options: HandlerOptions, call: Call) -> Result<(), HandlerError> {
        let HandlerOptions {
            types,
            name,
            time_limit,
        } = options;
        if types.is_empty() {
            return Err(HandlerError::NoTypes);
        }
        let number = self.handlers.len() + 1;
        let route = u8::try_from(number)
            .ok()
            .filter(|_| number <= HANDLERS_MAX)
            .ok_or(HandlerError::TooMany {
                limit: HANDLERS_MAX,
            })?;
        self.routes.resize(1 << 16, NOBODY);
        let wanted = |number: &u16| types.contains(MessageType(*number));
        let mut numbers = (0..=u16::MAX).filter(wanted);
        if let Some(number) = numbers.find(|number| self.routes[usize::from(*number)] != NOBODY) {
            return Err(HandlerError::TypeTaken(MessageType(number)));
        }
        for number in (0..=u16::MAX).filter(wanted) {
            self.routes[usize::from(number)] = route;
        }
        let account = Arc::new(HandlerAccount {
            name: name.unwrap_or_else(|| format!("handler-{number}")),
            ..HandlerAccount::default()
        });
        let accounts = self.ledger.handlers.lock();
        accounts
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&account));
        self.handlers.push(Handler {
            call: Some(call),
            time_limit,
            account,
        });
        Ok(())
    }

    /// Takes all handlers, for the loop.
    pub(crate) fn take(&mut self) -> Self {
        let empty = Self::new(Arc::clone(&self.ledger), Arc::clone(&self.requests));
        std::mem::replace(self, empty)
    }

    fn handles_any(&self) -> bool {
        self.handlers.iter().any(|handler| handler.call.is_some())
    }

    fn position_of(&self, message_type: MessageType) -> Option<usize> {
        let route = self.routes.get(usize::from(message_type.0))?;
        usize::from(*route).checked_sub(1)
    }

    /// A handler has panicked: nothing is given to it any more.
    #[cold]
    fn remove(&mut self, position: usize, message: &str) {
        let Some(handler) = self.handlers.get_mut(position) else {
            return;
        };
        let name = &handler.account.name;
        log::error!("handler {name:?} panicked and is removed: {message}");
        handler.account.panics.add(1);
        let call = handler.call.take();
        // What it holds may not survive its own defect.
        if catch_unwind(AssertUnwindSafe(|| drop(call))).is_err() {
            log::error!("handler {name:?} panicked again when it was dropped");
        }
        for route in &mut self.routes {
            if usize::from(*route) == position + 1 {
                *route = NOBODY;
            }
        }
    }
}

impl Handler {
    /// Counts how long a call took. True if that was more than the time limit.
    #[inline]
    fn note_time(&self, spent: Duration) -> bool {
        let nanoseconds = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        if nanoseconds > self.account.longest_ns.get() {
            self.account.longest_ns.set(nanoseconds);
        }
        spent > self.time_limit
    }

    #[cold]
    fn note_over_limit(
        &self,
        log_limiter: &mut LogLimiter,
        now: Tick,
        position: usize,
        spent: Duration,
    ) {
        let Self {
            time_limit,
            account,
            ..
        } = self;
        account.over_time_limit.add(1);
        let subject = Subject::Handler(position);
        if let Some(suppressed) = log_limiter.allow(now, "handler over its time limit", subject) {
            let name = &account.name;
            log::warn!(
                "handler {name:?} kept the loop for {spent:?}, its time limit is {time_limit:?}\
                 {suppressed}"
            );
        }
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accounts = self.handlers.iter().map(|handler| &handler.account);
        f.debug_list().entries(accounts).finish()
    }
}

/// The handlers of a loop, and what is known of them when they are gone.
///
/// Invariants:
/// - `handlers` is `None` where none is left that could be called
/// - `accounts` are those of all that there ever were, in their order
#[derive(Debug, Default)]
pub(crate) struct Handling {
    pub(super) handlers: Option<Box<Handlers>>,
    accounts: Box<[Arc<HandlerAccount>]>,
    /// A handler has answered since this was last looked at.
    answered: bool,
}

impl Handling {
    /// To be called before the first connection.
    pub(crate) fn set_handlers(&mut self, handlers: Handlers) {
        let each = handlers.handlers.iter();
        self.accounts = each.map(|one| Arc::clone(&one.account)).collect();
        self.handlers = handlers.handles_any().then(|| Box::new(handlers));
    }

    /// Whether a handler has answered since this was last asked.
    #[inline]
    pub(crate) fn take_answered(&mut self) -> bool {
        std::mem::take(&mut self.answered)
    }

    pub(crate) fn rows(&self) -> Vec<HandlerRow> {
        self.accounts.iter().map(|account| account.row()).collect()
    }

    /// Gives the handled messages of a read to their handlers and moves the others together at the
    /// start of `bytes`. What `parsed` says of the messages is then true of those; their size is
    /// returned.
    #[inline(never)]
    pub(super) fn run(
        &mut self,
        now: Now,
        slots: &Slots,
        connection: &mut Connection,
        bytes: &mut [u8],
        parsed: &mut Parsed,
    ) -> usize {
        let Some(handlers) = self.handlers.as_deref_mut() else {
            return parsed.consumed;
        };
        let id = connection.id();
        let uniform = parsed.message_type;
        let unwanted = uniform.is_some_and(|one| handlers.position_of(one).is_none());
        if parsed.frames == 0 || unwanted {
            return parsed.consumed;
        }
        let Some(bytes) = bytes.get_mut(..parsed.consumed) else {
            return parsed.consumed;
        };
        let is_closing = connection.peer.is_closing();
        let replier = Replier::new(slots, &mut connection.peer.outbox, now.tick, id);
        let mut replier = replier.closing(is_closing);
        let mut walk = Walk::new(id, now);
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| {
            walk.go_on(handlers, bytes, &mut replier);
        })) {
            walk.note_refused(handlers, &mut replier);
            handlers.remove(walk.position, &panic_message(&*panic));
        }
        walk.finish(handlers, bytes);
        let (accepted, unanswered) = (replier.accepted(), replier.unanswered());
        connection.peer.counts.unanswered += unanswered;
        connection.peer.counts.answered.add(accepted);
        if accepted.messages > 0 && !connection.ready.has(Ready::WRITE) {
            slots.note_slack(id, connection.peer.outbox.slack_bytes());
        }
        slots.ledger.note_accepted(accepted);
        self.answered |= accepted.messages > 0;
        if walk.kept.frames < parsed.frames {
            // What is kept may be alike; that was not looked at.
            parsed.frame_size = None;
        }
        parsed.frames = walk.kept.frames;
        parsed.bytes = walk.kept.size;
        parsed.message_type = walk.kept.message_type.filter(|_| !walk.kept.mixed);
        parsed.has_protocol = false;
        if !handlers.handles_any() {
            self.handlers = None;
        }
        walk.kept.size
    }
}

/// A walk over the whole frames of one read. It outlives a panic of a handler, and goes on behind
/// the message in which that happened.
struct Walk {
    peer: PeerId,
    now: Now,
    /// Where the next frame begins.
    at: usize,
    /// The handler that was called last.
    position: usize,
    /// A run of messages of one type that were handled, not yet counted.
    run_type: MessageType,
    run: Traffic,
    kept: Kept,
}

/// Messages without a handler. They lie in the first `size` bytes, apart from the last run of
/// them, which has not been moved there yet.
#[derive(Default)]
struct Kept {
    size: usize,
    run_start: usize,
    run_end: usize,
    frames: u32,
    message_type: Option<MessageType>,
    mixed: bool,
}

impl Walk {
    fn new(peer: PeerId, now: Now) -> Self {
        Self {
            peer,
            now,
            at: 0,
            position: 0,
            run_type: MessageType::default(),
            run: Traffic::default(),
            kept: Kept::default(),
        }
    }

    /// Walks to the end. Time is measured from call to call, so one look at the clock ends a call
    /// and begins the next.
    fn go_on(&mut self, handlers: &mut Handlers, bytes: &mut [u8], replier: &mut Replier<'_>) {
        let mut since: Option<Instant> = None;
        // Answers to our own requests are no messages for a handler.
        let tag = handlers.requests.answer_tag();
        let head = BlockHead::of_read(self.peer, self.now.instant);
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let Some(frame) = WholeFrames::new(rest).next() else {
                return;
            };
            let start = self.at;
            self.at += frame.encoded_size();
            let answers = tag.is_some_and(|tag| is_answer(frame.correlation, tag));
            let position = handlers.position_of(frame.message_type);
            let Some(position) = position.filter(|_| !answers) else {
                since = None;
                if !frame.message_type.is_protocol() {
                    let message_type = frame.message_type;
                    self.kept.add(bytes, start, self.at, message_type);
                }
                continue;
            };
            self.note_handled(handlers, position, &frame);
            let handler = &mut handlers.handlers[position];
            let is_measured = !handler.time_limit.is_zero();
            if is_measured && since.is_none() {
                since = Some(Clock::instant());
            }
            let message = MessageRef::of_read(&head, frame);
            replier.turn_to(&frame);
            if let Some(call) = &mut handler.call {
                call(message, replier);
            }
            handler.account.refused.add(replier.take_refused());
            if let Some(before) = since.take().filter(|_| is_measured) {
                let end = Clock::instant();
                since = Some(end);
                let spent = end.saturating_duration_since(before);
                if handler.note_time(spent) {
                    let (log_limiter, tick) = (&mut handlers.log_limiter, self.now.tick);
                    handler.note_over_limit(log_limiter, tick, position, spent);
                }
            }
        }
    }

    /// Counts a message before its handler is called, so that it counts even if that panics.
    #[inline]
    fn note_handled(&mut self, handlers: &mut Handlers, position: usize, frame: &Frame<'_>) {
        self.position = position;
        if self.run_type != frame.message_type {
            self.count_run(handlers);
            self.run_type = frame.message_type;
        }
        self.run.add(Traffic::new(1, frame.encoded_size() as u64));
        handlers.handlers[position].account.calls.add(1);
    }

    fn count_run(&mut self, handlers: &mut Handlers) {
        let run = std::mem::take(&mut self.run);
        if run.messages > 0 {
            let (ledger, map) = (&handlers.ledger, &mut handlers.type_map);
            let row = map.row(self.run_type, &ledger.types_handled);
            ledger.types_handled.add(row, run);
            ledger.handled.add(run.messages);
        }
    }

    /// Counts what was refused in the call that panicked.
    fn note_refused(&self, handlers: &Handlers, replier: &mut Replier<'_>) {
        if let Some(handler) = handlers.handlers.get(self.position) {
            handler.account.refused.add(replier.take_refused());
        }
    }

    fn finish(&mut self, handlers: &mut Handlers, bytes: &mut [u8]) {
        self.count_run(handlers);
        self.kept.move_run(bytes);
    }
}

impl Kept {
    /// Keeps a message that lies between two frame boundaries.
    fn add(&mut self, bytes: &mut [u8], start: usize, end: usize, message_type: MessageType) {
        if start != self.run_end {
            self.move_run(bytes);
            self.run_start = start;
        }
        self.run_end = end;
        self.mixed |= self.message_type.is_some_and(|one| one != message_type);
        self.message_type = Some(message_type);
        self.frames += 1;
    }

    /// Moves the run to those that were kept before. It never moves up, nor over what is still to
    /// be walked.
    fn move_run(&mut self, bytes: &mut [u8]) {
        let run = self.run_start..self.run_end;
        let size = run.len();
        if self.run_start != self.size {
            bytes.copy_within(run, self.size);
        }
        self.size += size;
        (self.run_start, self.run_end) = (self.size, self.size);
    }
}
