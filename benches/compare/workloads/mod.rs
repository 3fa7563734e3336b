//! What is asked of a server: one file each.

pub(crate) mod ingest;
