//! Timer wheel.
