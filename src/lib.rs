//! nebnet (work in progress)
pub mod frame;
pub mod wheel;
mod clock;
mod error;
mod id;
mod limits;
pub use error::*;
pub use id::*;
