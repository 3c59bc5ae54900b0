//! The same work for Tidegate and for what a Debian machine offers instead: Redis with a script, Nginx with Lua in front of it, and
//! `PostgreSQL`. Each side is a server of its own on fresh data, asked for the same and judged alike; a side whose books do not agree with
//! what buyers were told gives no figure.
//!
//! The crate knows Tidegate by its program and its HTTP contract only.

pub mod compare;
pub mod contest;
pub mod nginx;
pub mod node;
pub mod plot;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod redis;
pub mod report;
pub mod script;
pub mod shop;
pub mod targets;
