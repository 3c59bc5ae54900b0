//! The harm that is done to a cluster, and how it is undone. Owns what is done; who notices is others' business.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rand::Rng;
use rand::rngs::SmallRng;
use rustix::process::Signal;

use super::fleet::{DISK_FREE_MIN_MIB, Fleet};
use tidegate_witness::node::{NodeError, Target};
use tidegate_witness::record::Moment;

/// How often leadership is handed on in a round.
const HAND_OVERS: usize = 12;

/// A harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Harm {
    /// SIGKILL of whichever leads
    KillLeader,
    /// SIGKILL of another
    KillFollower,
    /// SIGKILL of all at once
    KillAll,
    /// SIGSTOP of whichever leads, for longer than an election, then SIGCONT
    StopLeader,
    /// The same of another
    StopFollower,
    /// Whichever leads and the others do not hear each other; clients reach all
    CutLeader,
    /// Another and the rest do not hear each other
    CutFollower,
    /// The others do not hear whichever leads, but it hears them
    CutLeaderOut,
    /// Whichever leads does not hear the others, but they hear it
    CutLeaderIn,
    /// Nobody hears anybody
    CutAll,
    /// Nothing reaches whichever leads, clients neither
    UnplugLeader,
    /// Whichever leads has less free space than its minimum
    LowDiskLeader,
    /// The disk of whichever leads is full to the last byte
    FullDiskLeader,
    /// The disk of another is
    FullDiskFollower,
    /// Leadership handed from node to node, again and again
    HandOvers,
    /// Every node drained, stopped and started, one after the other
    RollingRestart,
    /// A node's files are damaged while it is stopped; it leaves, and another joins
    DamagedDirectory,
}

impl Harm {
    /// Its name in a table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::KillLeader => "leader killed",
            Self::KillFollower => "follower killed",
            Self::KillAll => "all killed",
            Self::StopLeader => "leader frozen",
            Self::StopFollower => "follower frozen",
            Self::CutLeader => "leader cut off",
            Self::CutFollower => "follower cut off",
            Self::CutLeaderOut => "leader not heard",
            Self::CutLeaderIn => "leader deaf",
            Self::CutAll => "all cut off",
            Self::UnplugLeader => "leader unplugged",
            Self::LowDiskLeader => "leader's disk low",
            Self::FullDiskLeader => "leader's disk full",
            Self::FullDiskFollower => "follower's disk full",
            Self::HandOvers => "handed over",
            Self::RollingRestart => "rolling restart",
            Self::DamagedDirectory => "damaged directory",
        }
    }

    /// Whether it needs networks and disks of the nodes' own.
    pub(crate) const fn needs_networks(self) -> bool {
        matches!(
            self,
            Self::CutLeader
                | Self::CutFollower
                | Self::CutLeaderOut
                | Self::CutLeaderIn
                | Self::CutAll
                | Self::UnplugLeader
                | Self::LowDiskLeader
                | Self::FullDiskLeader
                | Self::FullDiskFollower
        )
    }

    /// Whether it is done in order, by whoever runs the cluster, so that nothing is lost and callers hear only what is documented.
    pub(crate) const fn is_in_order(self) -> bool {
        matches!(self, Self::HandOvers | Self::RollingRestart)
    }

    /// Whether the others can go on meanwhile.
    pub(crate) const fn leaves_majority(self) -> bool {
        !matches!(self, Self::KillAll | Self::CutAll)
    }
}

/// A harm that was done.
#[derive(Debug)]
pub(crate) struct Struck {
    pub(crate) harm: Harm,
    /// Just before it was, and when it was done.
    pub(crate) at: Moment,
    pub(crate) done: Moment,
    /// Whom it hit; where it hit all, the one that led.
    pub(crate) victim: usize,
    /// The term before.
    pub(crate) term: u64,
}

/// What a harm that takes its course by itself found broken.
pub(crate) type Broken = Vec<String>;

/// Makes the disk of `fleet`'s small node hold no more than `left` MiB more.
fn fill(disk: &Path, left: u64) -> Result<(), NodeError> {
    let failed = |source| NodeError::Machine { what: "a disk cannot be filled", source };
    let mut filler = File::create(filler(disk)).map_err(failed)?;
    let piece = vec![0_u8; 1_048_576];
    loop {
        let status = rustix::fs::statvfs(disk).map_err(|error| failed(error.into()))?;
        let free = status.f_bavail.saturating_mul(status.f_frsize);
        if free <= left * 1_048_576 {
            return Ok(());
        }
        let piece = &piece[..usize::try_from(free.saturating_sub(left * 1_048_576)).unwrap_or(piece.len()).min(piece.len())];
        match filler.write_all(piece) {
            // Others write there too.
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            written => written.map_err(failed)?,
        }
    }
}

fn filler(disk: &Path) -> PathBuf {
    disk.join("filler")
}

/// Has the node at `place` lead: every other one is drained for as long as that takes.
fn have_lead(fleet: &Fleet, place: usize) -> Result<(), NodeError> {
    let others = || (0..fleet.len()).filter(|other| *other != place);
    for other in others() {
        fleet.administer(place, &["cluster", "drain", "--node", &fleet.number(other).to_string()])?;
    }
    fleet.wait_until(place, "it does not lead", || Ok(fleet.leader(0)? == place))?;
    for other in others() {
        fleet.administer(place, &["cluster", "drain", "--resume", "--node", &fleet.number(other).to_string()])?;
    }
    // Those that were drained are told of as drained until they are heard again; without them nobody could take over.
    fleet.wait_until(place, "others are still drained", || {
        Ok(fleet.seen(place).is_some_and(|seen| seen.nodes.iter().all(|node| !node.draining)))
    })
}

/// Does `harm`.
pub(crate) fn strike(fleet: &Fleet, harm: Harm, rng: &mut SmallRng) -> Result<Struck, NodeError> {
    if matches!(harm, Harm::LowDiskLeader | Harm::FullDiskLeader) {
        have_lead(fleet, fleet.small())?;
    }
    if harm == Harm::FullDiskFollower {
        have_lead(fleet, rng.random_range(0..fleet.small()))?;
    }
    let leader = fleet.leader(0)?;
    let follower = (leader + rng.random_range(1..fleet.len())) % fleet.len();
    let term = fleet.seen(leader).map_or(0, |seen| seen.shards[0].term);
    let victim = match harm {
        Harm::KillFollower | Harm::StopFollower | Harm::CutFollower => follower,
        Harm::FullDiskFollower => fleet.small(),
        Harm::DamagedDirectory => rng.random_range(0..fleet.len()),
        _ => leader,
    };
    let at = fleet.now();
    let (site, others) = (fleet.site(), || (0..fleet.len()).filter(|other| *other != victim));
    match harm {
        Harm::KillLeader | Harm::KillFollower | Harm::DamagedDirectory => {
            fleet.kill(victim)?;
        }
        Harm::KillAll => {
            (0..fleet.len()).for_each(|place| fleet.show(place, false));
            (0..fleet.len()).try_for_each(|place| fleet.signal(place, Signal::KILL))?;
            (0..fleet.len()).try_for_each(|place| fleet.wait_end(place).map(drop))?;
        }
        Harm::StopLeader | Harm::StopFollower => fleet.signal(victim, Signal::STOP)?,
        Harm::CutLeader | Harm::CutFollower => {
            others().try_for_each(|other| site.cut(victim, other).and_then(|()| site.cut(other, victim)))?;
        }
        Harm::CutLeaderOut => others().try_for_each(|other| site.cut(victim, other))?,
        Harm::CutLeaderIn => others().try_for_each(|other| site.cut(other, victim))?,
        Harm::CutAll => pairs(fleet.len()).try_for_each(|(from, to)| site.cut(from, to))?,
        Harm::UnplugLeader => site.plug(victim, false)?,
        Harm::LowDiskLeader => fill(&fleet.small_disk(), DISK_FREE_MIN_MIB / 2)?,
        Harm::FullDiskLeader | Harm::FullDiskFollower => fill(&fleet.small_disk(), 0)?,
        Harm::HandOvers | Harm::RollingRestart => {}
    }
    Ok(Struck { harm, at, done: fleet.now(), victim, term })
}

fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |from| (0..count).filter(move |to| *to != from).map(move |to| (from, to)))
}

/// Undoes what was done. Returns once the victim is ready again.
pub(crate) fn mend(fleet: &Fleet, struck: &Struck, rng: &mut SmallRng) -> Result<Broken, NodeError> {
    let (site, victim) = (fleet.site(), struck.victim);
    let others = || (0..fleet.len()).filter(|other| *other != victim);
    let mut broken = Broken::new();
    match struck.harm {
        Harm::KillLeader | Harm::KillFollower => fleet.start_node(victim)?,
        Harm::KillAll => {
            // Alone none of them would be ready.
            (0..fleet.len()).try_for_each(|place| fleet.launch(place))?;
            (0..fleet.len()).try_for_each(|place| fleet.wait_ready(place))?;
        }
        Harm::StopLeader | Harm::StopFollower => fleet.signal(victim, Signal::CONT)?,
        Harm::CutLeader | Harm::CutFollower => {
            others().try_for_each(|other| site.join(victim, other).and_then(|()| site.join(other, victim)))?;
        }
        Harm::CutLeaderOut => others().try_for_each(|other| site.join(victim, other))?,
        Harm::CutLeaderIn => others().try_for_each(|other| site.join(other, victim))?,
        Harm::CutAll => pairs(fleet.len()).try_for_each(|(from, to)| site.join(from, to))?,
        Harm::UnplugLeader => site.plug(victim, true)?,
        Harm::LowDiskLeader => {
            empty(fleet)?;
            if fleet.has_ended(victim) {
                broken.push("with little space left, the node ended".to_owned());
                fleet.start_node(victim)?;
            }
        }
        Harm::FullDiskLeader | Harm::FullDiskFollower => {
            // Under load its log meets the end of the disk.
            let status = fleet.wait_end(victim)?;
            fleet.show(victim, false);
            if status.success() {
                broken.push("on a full disk the node ended as if all were well".to_owned());
            }
            empty(fleet)?;
            fleet.start_node(victim)?;
        }
        Harm::HandOvers => {
            for _ in 0..HAND_OVERS {
                let next = (fleet.leader(0)? + rng.random_range(1..fleet.len())) % fleet.len();
                have_lead(fleet, next)?;
            }
        }
        Harm::RollingRestart => {
            for place in 0..fleet.len() {
                let asked = (place + 1) % fleet.len();
                fleet.administer(asked, &["cluster", "drain", "--node", &fleet.number(place).to_string()])?;
                fleet.signal(place, Signal::TERM)?;
                let status = fleet.wait_end(place)?;
                if !status.success() {
                    broken.push(format!("told to stop, node {} ended with {status}", fleet.number(place)));
                }
                fleet.start_node(place)?;
                fleet.wait_whole(LAG_MAX)?;
            }
        }
        Harm::DamagedDirectory => broken.extend(replace(fleet, victim, rng)?),
    }
    Ok(broken)
}

/// Groups that a node may lack and still take over, amid load.
pub(crate) const LAG_MAX: u64 = 1_000;

fn empty(fleet: &Fleet) -> Result<(), NodeError> {
    let failed = |source| NodeError::Machine { what: "a disk cannot be emptied", source };
    std::fs::remove_file(filler(&fleet.small_disk())).map_err(failed)
}

/// Damages the log of the node at `place`, which does not run; it must refuse to start. Then another takes its place.
fn replace(fleet: &Fleet, place: usize, rng: &mut SmallRng) -> Result<Broken, NodeError> {
    let mut broken = Broken::new();
    let what = damage(&fleet.data(place), rng)?;
    let before = fleet.log(place).len();
    fleet.launch(place)?;
    let status = fleet.wait_refusal(place)?;
    let said = fleet.log(place).split_off(before);
    if status.success() || !says_damage(&said) {
        broken.push(format!("with its log damaged ({what}), node {} ended with {status} and said: {said}", fleet.number(place)));
    }
    let asked = (place + 1) % fleet.len();
    std::fs::remove_dir_all(fleet.data(place))
        .map_err(|source| NodeError::Machine { what: "a directory cannot be removed", source })?;
    fleet.administer(asked, &["cluster", "leave", "--node", &fleet.number(place).to_string()])?;
    fleet.seat_another(place, fleet.new_number());
    fleet.join(place, asked)?;
    fleet.start_node(place)?;
    Ok(broken)
}

/// Whether what a node said as it ended names damage.
pub(crate) fn says_damage(said: &str) -> bool {
    said.to_lowercase().contains("damage")
}

/// Damages the newest segment of the log in `data`: cuts off the second half of what is written of it, or fills the middle half with other
/// bytes. Says how.
fn damage(data: &Path, rng: &mut SmallRng) -> Result<String, NodeError> {
    let failed = |source| NodeError::Machine { what: "a log cannot be damaged", source };
    let segments = std::fs::read_dir(data.join("log")).map_err(failed)?.filter_map(Result::ok).map(|entry| entry.path().join("db"));
    let newest = segments.filter(|path| path.is_file()).max().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    let mut bytes = std::fs::read(&newest).map_err(failed)?;
    // The file is made larger than what is in it.
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let what = if rng.random_bool(0.5) {
        bytes.truncate(written / 2);
        format!("{} of {written} bytes cut off in the middle", newest.display())
    } else {
        bytes[written / 4..written / 4 * 3].fill_with(|| rng.random());
        format!("the middle half of {} of {written} bytes overwritten", newest.display())
    };
    std::fs::write(&newest, bytes).map_err(failed)?;
    Ok(what)
}
