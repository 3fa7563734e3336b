//! Every bound and default of the crate, with the unit in the name.
//!
//! A value here is either fixed by the wire format, or a default that [`Config`](crate::Config)
//! can change within the range given beside it. Relations that the code relies on are proved at
//! compile time at the end of the file.

// ----- wire format ---------------------------------------------------------------------------

/// Bytes of the length field. They are not counted by the length itself.
pub(crate) const LENGTH_SIZE: usize = 4;
/// Bytes from the start of a frame to the end of its version byte.
pub(crate) const HEADER_SIZE: usize = 8;
/// Bytes of the correlation field, present when its flag is set.
pub(crate) const CORRELATION_SIZE: u32 = 8;
/// Bytes of the CRC-32C trailer, present when its flag is set.
pub(crate) const CHECKSUM_SIZE: u32 = 4;
/// The smallest legal value of the length field: type, flags and version.
pub(crate) const LENGTH_MIN: u32 = 4;
/// What the length field may exceed the payload by: type, flags, version, correlation, checksum.
pub(crate) const LENGTH_OVERHEAD_MAX: u32 = 16;
/// Most bytes that a frame adds to its payload.
pub(crate) const FRAME_OVERHEAD_MAX: usize = LENGTH_SIZE + LENGTH_OVERHEAD_MAX as usize;
/// The length field's bound for a peer that has to say HELLO and has not yet.
pub(crate) const LENGTH_BEFORE_HELLO_MAX: u32 = 4096;
/// Longest payload of a PING, and so of the PONG that answers it.
pub(crate) const PING_SIZE_MAX: usize = 64;

/// Default for the longest payload.
pub(crate) const PAYLOAD_SIZE_MAX_DEFAULT: u32 = 1 << 20;
/// The longest payload that a configuration may ask for.
pub(crate) const PAYLOAD_SIZE_MAX_CEILING: u32 = 256 << 20;

// ----- peers ---------------------------------------------------------------------------------

/// Default for the number of peers.
pub(crate) const PEERS_MAX_DEFAULT: usize = 10_000;
/// Default for the connections that have not sent a first whole frame.
pub(crate) const PENDING_MAX_DEFAULT: usize = 1024;
/// An index in a [`PeerId`](crate::PeerId) has 24 bits; the highest part is kept for refusals and
/// for links.
pub(crate) const PEERS_MAX_CEILING: usize = (1 << 24) - 8192;
/// Slots beyond the peer limit in which a refused peer is told why before it is closed.
pub(crate) const REFUSED_PEERS_MAX: usize = 64;
/// Nodes that left other shards, by name, before a shard takes it that any may have.
pub(crate) const NODES_GONE_MAX: usize = 1024;
/// Links of one service: connections that it makes itself, besides the peers that it accepts.
pub(crate) const LINKS_MAX: usize = 4096;
/// Addresses of one name that are tried.
pub(crate) const ADDRESSES_PER_NAME_MAX: usize = 16;
/// Names that are looked up at a time, each by a thread of its own.
pub(crate) const LOOKUPS_MAX: usize = 8;
/// Names that wait for one of these.
pub(crate) const LOOKUPS_WAITING_MAX: usize = 256;
/// Bytes of a name with its port.
pub(crate) const NAME_SIZE_MAX: usize = 255 + 6;
/// Tokens that a service may accept, and bytes of one.
pub(crate) const TOKENS_MAX: usize = 16;
pub(crate) const TOKEN_SIZE_MAX: usize = 255;
/// Bytes of messages that may come before the OK to our HELLO.
pub(crate) const BEFORE_OK_BYTES_MAX: usize = BLOCK_SIZE;
/// The most loops that a service may have; sets of them are the bits of a word.
pub(crate) const SHARDS_MAX: usize = 64;
/// Descriptors of one more loop: poller, waker, a spare one.
pub(crate) const DESCRIPTORS_PER_SHARD: usize = 3;
/// Descriptors that are not peers: standard streams, listeners, poller, waker, the embedder's.
pub(crate) const DESCRIPTORS_RESERVED: usize = 64;
/// Length of the queue of connections that the kernel completed and we did not accept yet.
pub(crate) const LISTEN_BACKLOG: i32 = 4096;
/// Default for the bytes that the system takes for a connection before it sends them.
pub(crate) const NOTSENT_LOWAT_DEFAULT: usize = 128 << 10;
/// Listeners of one service.
pub(crate) const LISTENERS_MAX: usize = 64;
/// Rows kept about peers that closed.
pub(crate) const CLOSED_ROWS_MAX: usize = 1024;
/// Peers for which a stop had something to do and that lost nothing, by name in its printed report.
pub(crate) const STOP_ROWS_SHOWN_MAX: usize = 16;

// ----- client --------------------------------------------------------------------------------

/// What a client offers to one read at first.
pub(crate) const CLIENT_READ_SIZE: usize = BLOCK_SIZE;
/// From how many bytes on a client writes what was pushed.
pub(crate) const CLIENT_OUTPUT_BYTES_MAX: usize = 64 << 10;
/// What it keeps of the memory for that, after a message that was longer.
pub(crate) const CLIENT_OUTPUT_KEPT: usize = 2 * CLIENT_OUTPUT_BYTES_MAX;
/// Default for the bytes from which on a client reads no more ahead.
pub(crate) const CLIENT_INBOX_BYTES_DEFAULT: usize = 16 << 20;
/// Questions of a client that are open.
pub(crate) const CLIENT_REQUESTS_MAX: usize = 1 << 16;
/// The smallest bound of a payload that a client may have: OK and BYE fit.
pub(crate) const CLIENT_PAYLOAD_SIZE_MAX_MIN: u32 = 1 << 10;
/// Bytes of agent and token in HELLO.
pub(crate) const HELLO_FIELD_SIZE_MAX: usize = 255;

// ----- work per turn -------------------------------------------------------------------------

/// Bytes read from one peer before the others get their turn.
pub(crate) const READ_PER_TURN_BYTES: usize = 480 << 10;
/// Bytes written to one peer before the others get their turn.
pub(crate) const WRITE_PER_TURN_BYTES: usize = 256 << 10;
/// Connections accepted from one listener in a turn.
pub(crate) const ACCEPTS_PER_TURN: usize = 64;
/// Timers fired in a turn.
pub(crate) const TIMERS_PER_TURN: usize = 4096;
/// Commands taken in a turn.
pub(crate) const COMMANDS_PER_TURN: usize = 4096;
/// The highest number of a processor that a thread may be placed on.
pub(crate) const CPU_MAX: usize = 1023;
/// Processors named for one kind of thread; a service has no more threads of a kind.
pub(crate) const CPUS_MAX: usize = 256;
/// Bytes that all names of threads begin with.
pub(crate) const THREAD_NAME_SIZE_MAX: usize = 10;
/// Default time for which an idle thread looks again before it sleeps, in microseconds.
pub(crate) const IDLE_POLL_US: u64 = 75;
/// What a sleep is held to be longer by than the wait that it slept through, in microseconds.
pub(crate) const IDLE_WAKE_US: u64 = 25;
/// Waits slept through at once at first, after which one is looked through, to find out whether
/// that pays; twice as many each time that found nothing. Together with the one that is looked
/// through they are an odd number, because waits alternate where an answer and the next question
/// are waited for, so that it is not always the same of the two.
pub(crate) const IDLE_PROBE_WAITS_MIN: u32 = 4;
/// And at the most.
pub(crate) const IDLE_PROBE_WAITS_MAX: u32 = 64;
/// Subscribers of a block that the loop may dispatch itself while the dispatcher has nothing to do:
/// waking one that sleeps takes the loop five microseconds.
pub(crate) const DIRECT_SUBSCRIBERS_MAX: usize = 2;
/// Bytes of such a block, if it may be more work than one step for each of them.
pub(crate) const DIRECT_BLOCK_BYTES_MAX: usize = 4096;
/// Bytes that large reads bring before the loop wakes those who sleep to take them.
pub(crate) const LOOP_PENDING_WAKE_BYTES_MAX: usize = 1 << 20;
/// Milliseconds after which it does so whatever they brought: a turn in which a handler works, or
/// many connections have little, may be long. As much as 6 MiB take where nothing else is done.
pub(crate) const LOOP_PENDING_WAKE_MS: u64 = 2;
/// Bytes after which the dispatcher does so, while it has more to do.
pub(crate) const PENDING_WAKE_BYTES_MAX: usize = 256 << 10;
/// And the items, of which many may be small, or no blocks at all.
pub(crate) const PENDING_WAKE_ITEMS_MAX: u32 = 64;
/// And the part of a queue's bounds that is filled before.
pub(crate) const PENDING_WAKE_PART: u64 = 4;
/// Above this many bytes in a millisecond work comes in bulk, and the loop sleeps at once.
pub(crate) const IDLE_BULK_BYTES_PER_MS: usize = 64 << 10;
/// Looks in bulk before a sleep, with the core given away in between.
pub(crate) const IDLE_BULK_LOOKS: u32 = 8;
/// Waits slept through at once after looks that found nothing, twice as many each time.
pub(crate) const IDLE_BULK_WAITS_MAX: u32 = 64;
/// Readiness events taken from the kernel in one call.
pub(crate) const EVENTS_PER_POLL: usize = 1024;
/// Slices given to one vectored write; the kernel takes 1,024 at the most.
pub(crate) const SLICES_PER_WRITE: usize = 64;
/// Slices prepared for a write of an outbox with at most half as many segments: to clear all of
/// those above takes longer than such a write does.
pub(crate) const SLICES_FEW: usize = 8;

// ----- memory --------------------------------------------------------------------------------

/// Size of the block that a read goes into.
pub(crate) const BLOCK_SIZE: usize = 64 << 10;
/// Blocks that one read goes into while a peer sends in bulk; twice as many leave the cache before
/// somebody takes them.
pub(crate) const VECTORED_BLOCKS: usize = 8;
/// A frame up to this size is given all of its storage at once, if the one before it from the same
/// peer was as long.
pub(crate) const CARRY_TRUSTED_MAX: usize = 1 << 20;
/// Bytes of storage of such frames that are used again, those included that somebody holds.
pub(crate) const LONG_KEPT_BYTES: usize = 16 << 20;
/// How many of them are looked at for one that is free and fits.
pub(crate) const LONG_LOOKS_MAX: usize = 32;
/// Storage classes for what a read brought; the last one is the block itself.
pub(crate) const BLOCK_CLASSES: [usize; 4] = [512, 4096, 16 << 10, BLOCK_SIZE];
/// What a read brought up to this size is copied; a larger one gives its block away.
pub(crate) const BLOCK_COPIED_MAX: usize = BLOCK_CLASSES[BLOCK_CLASSES.len() - 2];
/// Blocks of each class kept for the next read when nobody holds them.
pub(crate) const BLOCKS_KEPT: [usize; 4] = [1024, 256, 64, 64];
/// Blocks of a class that are used in turn while no more are out: twice what is out of the largest
/// before those who sleep are woken.
pub(crate) const BLOCKS_WARM: usize = 32;
/// Times that the loop gives its core away behind a large read while more of the largest are out.
pub(crate) const READ_AHEAD_YIELDS_MAX: u32 = 4;
/// Large reads without that, once it was of no use; doubled each time it is of no use again.
pub(crate) const READ_AHEAD_READS_MIN: u32 = 1;
pub(crate) const READ_AHEAD_READS_MAX: u32 = 1024;
/// Indexes of mixed blocks kept for the next such block, of the same classes.
pub(crate) const INDEXES_KEPT: [usize; 4] = [1024, 256, 64, 16];
/// Messages in a mixed block from which it is worth an index.
pub(crate) const INDEXED_FRAMES_MIN: u32 = 8;
/// A payload up to this size is copied behind its header; a larger owned one is queued as it is.
pub(crate) const PAYLOAD_COPIED_MAX: usize = 4096;
/// A `Message` of at most this payload owns a copy; a larger one shares the block it came in.
pub(crate) const MESSAGE_COPIED_MAX: usize = 1024;
/// Default byte budget of a service.
pub(crate) const MEMORY_BUDGET_DEFAULT: usize = 256 << 20;
/// Smallest byte budget: a block in flight each way, and something to queue.
pub(crate) const MEMORY_BUDGET_MIN: usize = 1 << 20;
/// The least that it is lowered to for a limit of the host: below, a few peers with long frames
/// would use it up.
pub(crate) const MEMORY_BUDGET_LOWERED_MIN: usize = 16 << 20;
/// Steps that the budget is leased in by several shards: so many for each of them.
pub(crate) const BUDGET_STEPS_PER_SHARD: usize = 64;
/// Most bytes of the service's budget that a slot leases ahead, and that are as good as none.
pub(crate) const BUDGET_LEASE_BYTES: usize = 16 << 10;

/// Bytes of whole frames offered to the kernel at a time while several priorities wait for a peer.
pub(crate) const PRIORITY_WINDOW_BYTES: usize = 16 << 10;
/// Bytes of higher priority that may pass a message before it gets its turn.
pub(crate) const PRIORITY_BIAS_BYTES: usize = 128 << 10;
/// Bytes of one priority that the loop takes from a peer's tail while the rest may be dropped.
pub(crate) const OUTBOX_WINDOW_BYTES: u64 = 256 << 10;

// ----- queues --------------------------------------------------------------------------------

/// Default bound of the dispatch queue in messages.
pub(crate) const DISPATCH_MESSAGES_MAX_DEFAULT: usize = 65_536;
/// Default bound of the dispatch queue in bytes.
pub(crate) const DISPATCH_BYTES_MAX_DEFAULT: usize = 64 << 20;
/// Bound of the dispatch queue in events, which have places of their own.
pub(crate) const EVENTS_QUEUED_MAX: usize = 4096;
/// Events that wait to be queued, above which none is made that may come again and again.
pub(crate) const EVENTS_WAITING_MAX: usize = 4096;
/// Default bound of an event subscriber's queue.
pub(crate) const SUBSCRIBER_EVENTS_MAX_DEFAULT: usize = 8192;
/// Events that a queue holds beside its messages, those included that its bound does not hold back.
pub(crate) const EVENTS_MIXED_MAX: u64 = 2 * QUEUE_MESSAGES_MAX_CEILING as u64 - 1;
/// Default bound of a subscriber's queue in messages.
pub(crate) const SUBSCRIBER_MESSAGES_MAX_DEFAULT: usize = 8192;
/// Default bound of a subscriber's queue in bytes.
pub(crate) const SUBSCRIBER_BYTES_MAX_DEFAULT: usize = 16 << 20;
/// The most messages that a queue may be asked to hold: they share a word with its bytes.
pub(crate) const QUEUE_MESSAGES_MAX_CEILING: usize = 1 << 22;
/// Subscribers of one service.
pub(crate) const SUBSCRIBERS_MAX: usize = 4096;
/// Inline handlers of one service.
pub(crate) const HANDLERS_MAX: usize = 64;
/// Default time limit of a call of an inline handler, in microseconds.
pub(crate) const HANDLER_TIME_LIMIT_US: u64 = 50;
/// Default hard limit of an outbox, and of a peer's credit, in bytes.
pub(crate) const OUTBOX_BYTES_MAX_DEFAULT: usize = 4 << 20;
/// Default hard limit of an outbox, and of a peer's credit, in messages.
pub(crate) const OUTBOX_MESSAGES_MAX_DEFAULT: usize = 65_536;
/// Default for the requests of one service that may be outstanding.
pub(crate) const REQUESTS_MAX_DEFAULT: usize = 65_536;
/// The most requests that a configuration may ask for, and places of a queue for replies.
pub(crate) const REQUESTS_MAX_CEILING: usize = 1 << 22;
/// Requests of one peer that time out before the dispatcher does something else.
pub(crate) const REQUESTS_EXPIRED_PER_LOOK: usize = 1024;
/// Locks that the requests of a service are spread over, by the index of the peer.
pub(crate) const REQUEST_SHARDS: usize = 64;
/// Work on requests that an inline fan-out puts off because somebody held their lock.
pub(crate) const REQUESTS_PUT_OFF_MAX: usize = 1024;
/// Control commands (stop, rows of peers) that wait for the loop.
pub(crate) const COMMANDS_MAX: usize = 1024;
/// The most user timers that a queue of them may be asked to hold.
pub(crate) const USER_TIMERS_MAX_CEILING: usize = 1 << 20;
/// Queues of user timers of one service.
pub(crate) const TIMER_QUEUES_MAX: usize = 256;
/// Message types with a counter of their own; the rest share one.
pub(crate) const TYPE_COUNTERS_MAX: usize = 1024;

/// Peers whose timers are looked at in one turn of the loop after the rules have changed.
pub(crate) const LIVE_LOOKS_PER_TURN: usize = 1024;

/// Peers and segments that a cut of the ledger looks at in one turn of the loop.
pub(crate) const CUT_LOOKS_PER_TURN: usize = 1024;
/// Lists of connections that are being made at a time.
pub(crate) const ROW_WALKS_MAX: usize = 64;
/// Rows of the list of connections that a loop makes in a turn.
pub(crate) const ROWS_PER_TURN: usize = 512;
/// Peers that a loop looks at in a turn to find the one that is to make room in the budget: a
/// fraction of a millisecond.
pub(crate) const HELD_LOOKS_PER_TURN: usize = 4096;
/// The most segments of one peer that a cut looks at: a message makes one at most, or two if it is
/// long, and the default outbox takes 65,536 messages.
pub(crate) const CUT_SEGMENTS_MAX: usize = 1 << 17;
/// The most peers that a cut sums up, which it has to do in one turn.
pub(crate) const CUT_PEERS_MAX: usize = 1 << 16;
/// Turns in which a cut may find the same slot taken before it is given up.
pub(crate) const CUT_TRIES_MAX: usize = 100;
/// Cuts that wait while another is under way; beyond that they are to be asked for again.
pub(crate) const CUTS_WAITING_MAX: usize = 64;
/// Pause before a cut that was given up is asked for again: the first, and the longest.
pub(crate) const CUT_PAUSE_MIN_US: u64 = 50;
pub(crate) const CUT_PAUSE_MAX_US: u64 = 20_000;

// ----- times, in milliseconds ----------------------------------------------------------------

/// Deadline for the first whole frame of a peer that connected to us.
pub(crate) const FIRST_FRAME_TIMEOUT_MS: u64 = 5_000;
/// Deadline for a connection that we make, and then for its OK.
pub(crate) const CONNECT_TIMEOUT_MS: u64 = 5_000;
/// How long a client waits for the service to end its side.
pub(crate) const CLIENT_CLOSE_TIMEOUT_MS: u64 = 2 * DRAIN_MS;
/// Pause before a link connects again: the first, and the longest.
pub(crate) const RECONNECT_MIN_MS: u64 = 100;
pub(crate) const RECONNECT_MAX_MS: u64 = 30_000;
/// A link that was connected for this long begins with the first pause again.
pub(crate) const LINK_HEALTHY_MS: u64 = 10_000;
/// Silence after which a peer is asked for a sign of life, and after which it is dead.
pub(crate) const HEARTBEAT_INTERVAL_MS: u64 = 15_000;
pub(crate) const HEARTBEAT_TIMEOUT_MS: u64 = 45_000;
/// What a peer with a wrong token waits for its BYE, so that guessing is slow.
pub(crate) const AUTH_DELAY_MS: u64 = 500;
/// Deadline for a whole frame, from its first byte.
pub(crate) const FRAME_TIMEOUT_MS: u64 = 10_000;
/// How long a peer may take none of the bytes that wait for it.
pub(crate) const WRITE_STALL_TIMEOUT_MS: u64 = 10_000;
/// Looks in that time at what the peer's system has acknowledged.
pub(crate) const STALL_LOOKS: u64 = 10;
/// TCP_USER_TIMEOUT of every connection.
pub(crate) const TCP_USER_TIMEOUT_MS: u64 = 30_000;
/// Keepalive: silence before the first probe, and between probes, in seconds; number of probes.
pub(crate) const KEEPALIVE_IDLE_S: u64 = 60;
pub(crate) const KEEPALIVE_INTERVAL_S: u64 = 15;
pub(crate) const KEEPALIVE_PROBES: u32 = 4;
/// A connection on which nothing has moved for so long gives up what it needs for traffic only.
pub(crate) const DORMANT_AFTER_MS: u64 = 1_000;
/// Connections that are looked at for that once a second: a look at one that has not been used for
/// long waits for memory.
pub(crate) const DORMANT_PER_TICK: usize = 512;
/// And of those for which their systems are asked first, in one turn.
pub(crate) const LOOKS_PER_TURN: usize = 16;
/// A peer that was not read for so long is told of by an event.
pub(crate) const PAUSE_REPORTED_MS: u64 = 100;
/// Timers that are later than this show that the loop stood still.
pub(crate) const TIMERS_LATE_MS: u64 = 10;
/// Period of the metrics tick.
pub(crate) const METRICS_TICK_MS: u64 = 1_000;
/// Flush and linger of an orderly close after an error, a timeout or a refusal.
pub(crate) const LINGER_MS: u64 = 500;
/// Input of a connection that is looked at once more when the connection is cut off.
pub(crate) const LAST_READ_BYTES: usize = 256 << 10;
/// How often it is looked whether the system of a peer has everything that both sides have ended.
pub(crate) const CONFIRM_LOOK_MS: u64 = 10;
/// After a peer's FIN: quiet time between its last answer and our FIN.
pub(crate) const HALF_CLOSE_GRACE_MS: u64 = 250;
/// Accept back-off after the system ran out of something: first pause, and the longest.
pub(crate) const ACCEPT_BACKOFF_MIN_MS: u64 = 10;
pub(crate) const ACCEPT_BACKOFF_MAX_MS: u64 = 1_000;
/// Default time to drain at a stop.
pub(crate) const DRAIN_MS: u64 = 5_000;
/// The longest timeout that a configuration may ask for: 365 days.
pub(crate) const TIMEOUT_MS_CEILING: u64 = 365 * 24 * 3600 * 1000;

// ----- logs ----------------------------------------------------------------------------------

/// One line per cause and subject in this time.
pub(crate) const LOG_INTERVAL_MS: u64 = 10_000;
/// Subjects with a line of their own; the rest share one.
pub(crate) const LOG_SUBJECTS_MAX: usize = 1024;

const _: () = {
    assert!(IDLE_PROBE_WAITS_MIN <= IDLE_PROBE_WAITS_MAX);
    assert!(IDLE_PROBE_WAITS_MIN % 2 == 0 && IDLE_PROBE_WAITS_MAX % 2 == 0);
    assert!(HEADER_SIZE == LENGTH_SIZE + LENGTH_MIN as usize);
    assert!(LENGTH_OVERHEAD_MAX == LENGTH_MIN + CORRELATION_SIZE + CHECKSUM_SIZE);
    // The length is compared as u32, so the largest legal one must not wrap.
    assert!(PAYLOAD_SIZE_MAX_CEILING < u32::MAX - LENGTH_OVERHEAD_MAX);
    assert!(PAYLOAD_SIZE_MAX_DEFAULT <= PAYLOAD_SIZE_MAX_CEILING);
    // A block holds the largest frame of a peer that has not said HELLO, and a whole PING.
    assert!(LENGTH_BEFORE_HELLO_MAX as usize + LENGTH_SIZE <= BLOCK_SIZE);
    assert!(PING_SIZE_MAX < LENGTH_BEFORE_HELLO_MAX as usize);
    assert!(PEERS_MAX_CEILING + REFUSED_PEERS_MAX + LINKS_MAX < 1 << 24);
    assert!(BLOCK_CLASSES[0] < BLOCK_CLASSES[1] && BLOCK_CLASSES[1] < BLOCK_CLASSES[2]);
    assert!(BLOCK_CLASSES[2] < BLOCK_CLASSES[3] && BLOCK_CLASSES[3] == BLOCK_SIZE);
    assert!(BLOCKS_WARM <= BLOCKS_KEPT[BLOCK_CLASSES.len() - 1]);
    assert!(SHARDS_MAX <= u64::BITS as usize);
    assert!(READ_PER_TURN_BYTES >= BLOCK_SIZE);
    assert!(OUTBOX_BYTES_MAX_DEFAULT <= MEMORY_BUDGET_DEFAULT);
    assert!(SLICES_PER_WRITE <= 1024);
    // A route is a byte, and one value of it is nobody.
    assert!(HANDLERS_MAX < u8::MAX as usize);
    assert!(PRIORITY_WINDOW_BYTES <= PRIORITY_BIAS_BYTES);
};
