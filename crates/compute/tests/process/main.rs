//! The process sandbox with real processes. Where a machine lacks control groups or namespaces,
//! the tests assert that the target says so instead.

mod ends;
mod kit;
