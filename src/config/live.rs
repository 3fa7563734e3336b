//! Which settings of a running service can change.
//!
//! Every setting is on one of two lists: what the service holds its peers to from now on, and what
//! its sockets, threads and tables were made with.

use super::Config;

/// What [`Handle::reconfigure`](crate::Handle::reconfigure) came to. Settings are named as those of
/// [`Config`] and as keys of a configuration file; what is in neither list was the same before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reconfigured {
    /// Settings that have changed.
    pub changed: Vec<&'static str>,
    /// Settings that were to change and cannot while the service runs. They are as they were, and
    /// take effect with the next start.
    pub kept: Vec<&'static str>,
}

macro_rules! settings {
    (live: $($live:ident),*; fixed: $($fixed:ident),*) => {
        impl Config {
            /// These settings with what can change while a service runs taken from others. There
            /// are places for so many peers.
            pub(crate) fn changed_to(&self, new: &Self, places: usize) -> (Self, Reconfigured) {
                // All of them, so that a new one has to be put on one of the lists.
                let Self {
                    $($live,)* $($fixed,)* max_peers, listen_is_default: _, memory_budget_is_set,
                } = new;
                let (mut next, mut told) = (self.clone(), Reconfigured::default());
                $(if next.$live != *$live {
                    next.$live = $live.clone();
                    told.changed.push(stringify!($live));
                })*
                next.memory_budget_is_set = *memory_budget_is_set;
                $(if next.$fixed != *$fixed {
                    told.kept.push(stringify!($fixed));
                })*
                if next.max_peers != *max_peers {
                    if *max_peers <= places {
                        next.max_peers = *max_peers;
                        told.changed.push("max_peers");
                    } else {
                        told.kept.push("max_peers");
                    }
                }
                (next, told)
            }
        }
    };
}

settings! {
    live:
        max_peers_per_addr, max_pending, require_checksums, first_frame_timeout, frame_timeout,
        idle_timeout, write_stall_timeout, connect_timeout, reconnect_min, reconnect_max,
        heartbeat_interval, heartbeat_timeout, outbox_bytes, outbox_messages, memory_budget,
        dispatch_bytes, require_hello, token, accept_tokens;
    fixed:
        listen, shards, max_payload, checksums, tcp_user_timeout, send_buffer, recv_buffer,
        notsent_lowat, outbox_full, max_requests, network_id, node_id, agent, dispatch,
        dispatch_messages, idle, thread_name, loop_cpus, dispatcher_cpus
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_can_change_changes_and_the_rest_is_named() {
        let old = Config::default().max_peers(100);
        let wanted = old
            .clone()
            .shards(4)
            .listen("127.0.0.1:1".parse().unwrap())
            .idle_timeout(Duration::from_secs(9))
            .accept_tokens(["new"])
            .max_peers(50);
        let (next, told) = old.changed_to(&wanted, 100);
        assert_eq!(told.changed, ["idle_timeout", "accept_tokens", "max_peers"]);
        assert_eq!(told.kept, ["listen", "shards"]);
        let expected = old
            .clone()
            .idle_timeout(Duration::from_secs(9))
            .accept_tokens(["new"])
            .max_peers(50);
        assert_eq!(next, expected);
        // The other way there is something to change again, and nothing in the same direction.
        assert_eq!(next.changed_to(&next, 100).1, Reconfigured::default());
        assert_eq!(next.changed_to(&old, 100).0, old);
        let (_, told) = old.changed_to(&old.clone().max_peers(101), 100);
        assert_eq!((told.changed, told.kept), (vec![], vec!["max_peers"]));
    }
}
