//! Tests of the rules, in three layers: tables of what DESIGN.md promises, random runs against a
//! reference model written from its text, and garbage that must change nothing.
//!
//! All of them go through [`world::World`], which checks after every event what must always hold.

mod edges;
mod facts;
mod finally;
mod garbage;
mod kept;
mod limits;
mod maps;
mod model;
mod outcomes;
mod pauses;
mod plan;
mod player;
mod previews;
mod random;
mod reboot;
mod repeats;
mod reruns;
mod restarts;
mod retries;
mod signals;
mod stops;
mod verbs;
mod world;
