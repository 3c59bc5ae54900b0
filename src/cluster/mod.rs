//! The node as a member of a cluster: what the cluster's own crate has below is put together here, and shown to callers.

mod admin;
mod agreement;
mod command;
mod desk;
mod endpoint;
mod keeper;
mod member;
mod metrics;
mod snapshots;
mod talk;

pub(crate) use self::admin::MemberSource;
pub(crate) use self::command::{ClusterError, StatusOptions, TargetOptions, drain, init, join, leave, status};
pub(crate) use self::endpoint::{Membership, membership};
pub(crate) use self::member::{Member, MemberError, MemberFailure, MemberParts, StartedMember, has_votes};
pub(crate) use self::metrics::ClusterMetrics;
pub(crate) use self::snapshots::MemberSnapshots;
