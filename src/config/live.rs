//! Which settings of a running service can change.
//!
//! The table says of each whether it is live. Of the rest, a service keeps what it was made with.

use super::{Config, Setting};

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

impl Config {
    /// These settings with what can change while a service runs taken from others. There are places
    /// for so many peers.
    pub(crate) fn changed_to(&self, new: &Self, places: usize) -> (Self, Reconfigured) {
        // The table of peers was made with its places.
        let fits = |setting: &Setting| setting.name() != "max_peers" || new.max_peers <= places;
        let (mut next, mut told) = (self.clone(), Reconfigured::default());
        for setting in Self::settings() {
            if !setting.differs(self, new) {
                continue;
            }
            if setting.is_live() && fits(setting) {
                setting.take(&mut next, new);
                told.changed.push(setting.name());
            } else {
                told.kept.push(setting.name());
            }
        }
        next.memory_budget_is_set = new.memory_budget_is_set;
        (next, told)
    }
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
        assert_eq!(told.changed, ["max_peers", "idle_timeout", "accept_tokens"]);
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
