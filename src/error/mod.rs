//! What can go wrong: one enum per public operation, and the reasons for which a connection ends.

mod close_reason;
mod config;
mod connecting;
mod frame;
mod receiving;
mod sending;
mod service;

pub use close_reason::CloseReason;
pub use config::{ConfigError, MemoryError, ReconfigureError};
pub use connecting::{AddressError, ConnectError, DialError, ListenError};
pub use frame::FrameError;
pub use receiving::{RecvError, RecvTimeoutError, SubscribeError, TimerError, TryRecvError};
pub use sending::{RequestError, SendError};
pub use service::{HandlerError, QueryError, ServiceFailure, StartError};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_reasons_are_sorted_and_round_trip() {
        assert!(CloseReason::ALL.windows(2).all(|pair| pair[0] < pair[1]));
        for (position, reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(reason.ordinal(), position);
            if let Some(code) = reason.wire_code() {
                assert_eq!(CloseReason::from_wire_code(code), Some(*reason));
            }
        }
        assert_eq!(CloseReason::Internal.wire_code(), Some(23));
        assert_eq!(CloseReason::Reset.wire_code(), None);
        assert_eq!(CloseReason::Stale as u16, 0x105);
        assert_eq!(CloseReason::Stale.wire_code(), None);
        assert_eq!(CloseReason::from_wire_code(0), None);
        assert_eq!(CloseReason::from_wire_code(24), None);
    }

    #[test]
    fn errors_name_value_and_limit() {
        let error = FrameError::TooLong {
            length: 0x4745_5420,
            limit: 1_048_592,
        };
        assert_eq!(
            error.to_string(),
            "frame length 1195725856 is above the limit of 1048592"
        );
    }
}
