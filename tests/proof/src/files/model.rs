//! A file system as a sceptic sees it: what a process has written is in memory, and only what it has synced is on the disk.
//!
//! It follows the calls of a trace below one folder. A write is on the disk once its file was synced, or at once where the file writes
//! through; a name, its removal or its change once its folder was synced. Until then each write may be on the disk or not, also without
//! those before it, and torn; of the changes of one folder's names those before any may be there, in order. That is less than any real
//! file system keeps. It knows nothing of what the files are for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use rand::Rng;
use rand::rngs::StdRng;

use super::trace::{Call, Line};

/// A file or a folder.
type Node = usize;

/// What a drive writes whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

const ROOT: Node = 0;

/// A change of a file that may not be on the disk yet.
#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Change {
    /// Whether it does not matter which of the two is on the disk first.
    fn is_apart_from(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Write { at, bytes }, Self::Write { at: other_at, bytes: other }) => {
                at + bytes.len() <= *other_at || other_at + other.len() <= *at
            }
            _ => false,
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Contents {
    memory: Vec<u8>,
    disk: Vec<u8>,
    pending: Vec<(u64, Change)>,
    writes_through: bool,
}

#[derive(Debug, Clone, Default)]
struct Folder {
    memory: BTreeMap<String, Node>,
    disk: BTreeMap<String, Node>,
    pending: Vec<(u64, Vec<Naming>)>,
}

/// What happens to a name. Those of one list happen together.
#[derive(Debug, Clone)]
enum Naming {
    Set(String, Node),
    Gone(String),
}

#[derive(Debug, Clone)]
enum Kind {
    File(Contents),
    Folder(Folder),
}

/// What a descriptor stands for.
#[derive(Debug, Clone, Copy)]
struct Open {
    node: Node,
    place: usize,
    appends: bool,
}

/// What a line of the trace came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    /// Nothing of a file changed.
    Nothing,
    /// Something was written, named or removed.
    Changed,
    /// Something was synced.
    Synced,
}

/// What of it survives a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survives {
    /// Everything: the process was killed.
    All,
    /// What was synced, and nothing more.
    Synced,
    /// Of the rest, whatever chance has it.
    Some,
}

/// Which syncs do what they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syncs {
    /// All of them.
    All,
    /// Only those of folders: a drive that lies about what is in files.
    Folders,
    /// Only those of files: as if nobody synced a folder.
    Files,
}

/// The file system.
#[derive(Debug)]
pub(crate) struct Model {
    root: PathBuf,
    syncs: Syncs,
    nodes: Vec<Kind>,
    /// Descriptions of open files; several descriptors can have one.
    opens: Vec<Open>,
    descriptors: HashMap<i64, usize>,
    /// Number of the last change.
    clock: u64,
    /// Up to which change a sync that has begun is about, by who called.
    syncing: HashMap<u32, u64>,
    /// What the process has written to its standard output.
    said: Vec<u8>,
}

impl Model {
    /// That below folder `root`, which is empty and on the disk.
    pub(crate) fn new(root: &Path, syncs: Syncs) -> Self {
        Self {
            root: root.to_owned(),
            syncs,
            nodes: vec![Kind::Folder(Folder::default())],
            opens: Vec::new(),
            descriptors: HashMap::new(),
            clock: 0,
            syncing: HashMap::new(),
            said: Vec::new(),
        }
    }

    /// What the process has said so far.
    pub(crate) fn said(&self) -> &[u8] {
        &self.said
    }

    /// Follows one line.
    pub(crate) fn follow(&mut self, line: &Line) -> Result<Happened, String> {
        let Line { process, call, begins, ends } = line;
        let name = call.name.as_str();
        let is_sync = matches!(name, "fsync" | "fdatasync" | "syncfs" | "sync");
        if *begins && is_sync {
            self.syncing.insert(*process, self.clock);
        }
        if *begins && name == "close" {
            // Its number can be given to another file before this is told to have ended.
            if let Some(descriptor) = call.number(0) {
                self.descriptors.remove(&descriptor);
            }
        }
        if *begins && name == "write" && call.number(0) == Some(1) {
            // Who hears of it may act on it at once.
            self.said.extend(call.bytes(1).unwrap_or_default());
        }
        if !ends || call.has_failed || call.result.is_none() {
            return Ok(Happened::Nothing);
        }
        if is_sync {
            let up_to = self.syncing.remove(process).unwrap_or(self.clock);
            return Ok(match call.number(0).and_then(|descriptor| self.node_of(descriptor)) {
                Some(node) if name != "syncfs" => {
                    self.sync(node, up_to);
                    Happened::Synced
                }
                _ => Happened::Nothing,
            });
        }
        self.change(name, call).ok_or_else(|| format!("it cannot be followed: {}", short(call)))
    }

    fn node_of(&self, descriptor: i64) -> Option<Node> {
        Some(self.opens[*self.descriptors.get(&descriptor)?].node)
    }

    /// Follows what changes files or descriptors; `None` for what it cannot follow.
    fn change(&mut self, name: &str, call: &Call) -> Option<Happened> {
        let result = call.result?;
        match name {
            "open" | "creat" | "openat" => {
                let (folder, path, flags) = if name == "openat" { (0, 1, 2) } else { (usize::MAX, 0, 1) };
                let Some((folder, file)) = self.find(call, folder, path)? else { return Some(Happened::Nothing) };
                return self.open(call, flags, folder, &file, result, name == "creat");
            }
            "dup" | "dup2" | "dup3" => self.duplicate(call.number(0)?, result),
            "fcntl" if call.arguments.get(1).is_some_and(|what| what.starts_with("F_DUPFD")) => {
                self.duplicate(call.number(0)?, result);
            }
            "read" => self.advance(call.number(0)?, usize::try_from(result).ok()?),
            "lseek" => {
                let place = usize::try_from(result).ok()?;
                if let Some(open) = self.open_of(call.number(0)?) {
                    open.place = place;
                }
            }
            "write" | "pwrite64" => {
                let Some(open) = self.open_of(call.number(0)?).copied() else { return Some(Happened::Nothing) };
                let mut bytes = call.bytes(1)?;
                bytes.truncate(usize::try_from(result).ok()?);
                let at = match name {
                    "pwrite64" => usize::try_from(call.number(3)?).ok()?,
                    _ if open.appends => self.contents(open.node)?.memory.len(),
                    _ => open.place,
                };
                if name == "write" {
                    self.open_of(call.number(0)?)?.place = at + bytes.len();
                }
                return self.write(open.node, Change::Write { at, bytes });
            }
            "ftruncate" => {
                let Some(node) = self.node_of(call.number(0)?) else { return Some(Happened::Nothing) };
                return self.write(node, Change::Length(usize::try_from(call.number(1)?).ok()?));
            }
            "rename" | "renameat" | "renameat2" => {
                let places = if name == "rename" { (usize::MAX, 0, usize::MAX, 1) } else { (0, 1, 2, 3) };
                let (from, to) = (self.find(call, places.0, places.1)?, self.find(call, places.2, places.3)?);
                let (Some((folder, from)), Some((to_folder, to))) = (from, to) else { return Some(Happened::Nothing) };
                let node = *self.folder(folder)?.memory.get(&from)?;
                // A change of two folders at once is more than this can take apart.
                if folder != to_folder {
                    return None;
                }
                return self.name(folder, vec![Naming::Gone(from), Naming::Set(to, node)]);
            }
            "unlink" | "rmdir" | "unlinkat" => {
                let (folder, path) = if name == "unlinkat" { (0, 1) } else { (usize::MAX, 0) };
                let Some((folder, name)) = self.find(call, folder, path)? else { return Some(Happened::Nothing) };
                return self.name(folder, vec![Naming::Gone(name)]);
            }
            "mkdir" | "mkdirat" => {
                let (folder, path) = if name == "mkdirat" { (0, 1) } else { (usize::MAX, 0) };
                let Some((folder, name)) = self.find(call, folder, path)? else { return Some(Happened::Nothing) };
                self.nodes.push(Kind::Folder(Folder::default()));
                return self.name(folder, vec![Naming::Set(name, self.nodes.len() - 1)]);
            }
            "ioctl" if call.arguments.get(1).is_some_and(|what| what.contains("SETFLAGS")) => {
                let node = self.node_of(call.number(0)?);
                let is_on = call.arguments.get(2)?.contains("FS_SYNC_FL");
                if let Some(contents) = node.and_then(|node| self.contents(node)) {
                    contents.writes_through = is_on;
                }
            }
            // What has no effect on what survives, and what is of other files.
            "close" | "fcntl" | "ioctl" | "sync_file_range" | "sync" | "syncfs" => {}
            // What is written through memory is told by no call.
            "mmap" => {
                let is_ours = call.number(4).is_some_and(|descriptor| self.descriptors.contains_key(&descriptor));
                if is_ours && call.has(3, "MAP_SHARED") && call.has(2, "PROT_WRITE") {
                    return None;
                }
            }
            _ => {
                let is_ours = call.number(0).is_some_and(|descriptor| self.descriptors.contains_key(&descriptor));
                let paths = (0..call.arguments.len()).filter_map(|place| call.bytes(place));
                let is_named = paths.into_iter().any(|path| Path::new(&*String::from_utf8_lossy(&path)).starts_with(&self.root));
                if is_ours || is_named {
                    return None;
                }
            }
        }
        Some(Happened::Nothing)
    }

    fn open(&mut self, call: &Call, flags: usize, folder: Node, name: &str, descriptor: i64, creates: bool) -> Option<Happened> {
        let existing = if name.is_empty() { Some(folder) } else { self.folder(folder)?.memory.get(name).copied() };
        let mut happened = Happened::Nothing;
        let node = match existing {
            Some(node) => node,
            None if creates || call.has(flags, "O_CREAT") => {
                self.nodes.push(Kind::File(Contents::default()));
                happened = self.name(folder, vec![Naming::Set(name.to_owned(), self.nodes.len() - 1)])?;
                self.nodes.len() - 1
            }
            None => return None,
        };
        if existing.is_some() && (creates || call.has(flags, "O_TRUNC")) {
            happened = self.write(node, Change::Length(0))?;
        }
        if (call.has(flags, "O_DSYNC") || call.has(flags, "O_SYNC"))
            && let Some(contents) = self.contents(node)
        {
            contents.writes_through = true;
        }
        self.opens.push(Open { node, place: 0, appends: call.has(flags, "O_APPEND") });
        self.descriptors.insert(descriptor, self.opens.len() - 1);
        Some(happened)
    }

    fn duplicate(&mut self, descriptor: i64, new: i64) {
        match self.descriptors.get(&descriptor).copied() {
            Some(open) => self.descriptors.insert(new, open),
            None => self.descriptors.remove(&new),
        };
    }

    fn open_of(&mut self, descriptor: i64) -> Option<&mut Open> {
        self.opens.get_mut(*self.descriptors.get(&descriptor)?)
    }

    fn advance(&mut self, descriptor: i64, bytes: usize) {
        if let Some(open) = self.open_of(descriptor) {
            open.place += bytes;
        }
    }

    fn contents(&mut self, node: Node) -> Option<&mut Contents> {
        match &mut self.nodes[node] {
            Kind::File(contents) => Some(contents),
            Kind::Folder(_) => None,
        }
    }

    fn folder(&mut self, node: Node) -> Option<&mut Folder> {
        match &mut self.nodes[node] {
            Kind::Folder(folder) => Some(folder),
            Kind::File(_) => None,
        }
    }

    /// The folder and the name in it that an argument means; `Some(None)` for what lies elsewhere. An empty name is the folder itself.
    #[expect(clippy::option_option, reason = "what cannot be followed is something else than what is not ours")]
    fn find(&mut self, call: &Call, folder: usize, path: usize) -> Option<Option<(Node, String)>> {
        let path = String::from_utf8(call.bytes(path)?).ok()?;
        let path = Path::new(&path);
        let (mut node, relative) = if path.is_absolute() {
            match path.strip_prefix(&self.root) {
                Ok(relative) => (ROOT, relative.to_owned()),
                Err(_) => return Some(None),
            }
        } else {
            let descriptor = call.number(folder);
            let Some(node) = descriptor.and_then(|descriptor| self.node_of(descriptor)) else { return Some(None) };
            (node, path.to_owned())
        };
        let names: Vec<String> = relative
            .components()
            .filter_map(|component| match component {
                Component::Normal(name) => name.to_str().map(str::to_owned),
                _ => None,
            })
            .collect();
        let Some((last, folders)) = names.split_last() else { return Some(Some((node, String::new()))) };
        for name in folders {
            node = *self.folder(node)?.memory.get(name)?;
        }
        Some(Some((node, last.clone())))
    }

    fn write(&mut self, node: Node, change: Change) -> Option<Happened> {
        self.clock += 1;
        let (clock, syncs) = (self.clock, self.syncs);
        let contents = self.contents(node)?;
        apply(&mut contents.memory, &change);
        if syncs == Syncs::Folders {
            contents.pending.push((clock, change));
            return Some(Happened::Changed);
        }
        let is_apart = contents.pending.iter().all(|(_, pending)| pending.is_apart_from(&change));
        if contents.writes_through && is_apart {
            apply(&mut contents.disk, &change);
        } else {
            contents.pending.push((clock, change));
            if contents.writes_through {
                settle(contents, clock);
            }
        }
        Some(Happened::Changed)
    }

    fn name(&mut self, folder: Node, namings: Vec<Naming>) -> Option<Happened> {
        self.clock += 1;
        let clock = self.clock;
        let folder = self.folder(folder)?;
        for naming in &namings {
            set(&mut folder.memory, naming);
        }
        folder.pending.push((clock, namings));
        Some(Happened::Changed)
    }

    fn sync(&mut self, node: Node, up_to: u64) {
        match &mut self.nodes[node] {
            Kind::File(_) if self.syncs == Syncs::Folders => {}
            Kind::Folder(_) if self.syncs == Syncs::Files => {}
            Kind::File(contents) => settle(contents, up_to),
            Kind::Folder(folder) => {
                let later = folder.pending.partition_point(|(clock, _)| *clock <= up_to);
                for (_, namings) in folder.pending.drain(..later) {
                    for naming in &namings {
                        set(&mut folder.disk, naming);
                    }
                }
            }
        }
    }

    /// Builds what is left after a crash as folder `place`, which is missing.
    pub(crate) fn build(&self, place: &Path, survives: Survives, random: &mut StdRng) -> io::Result<()> {
        self.build_folder(ROOT, place, survives, random, &mut HashSet::new())
    }

    fn build_folder(
        &self,
        node: Node,
        place: &Path,
        survives: Survives,
        random: &mut StdRng,
        built: &mut HashSet<Node>,
    ) -> io::Result<()> {
        let Kind::Folder(folder) = &self.nodes[node] else { unreachable!("it was found as a folder") };
        fs::create_dir(place)?;
        let mut names = folder.disk.clone();
        match survives {
            Survives::All => names.clone_from(&folder.memory),
            Survives::Synced => {}
            Survives::Some => {
                let kept = random.random_range(0..=folder.pending.len());
                for naming in folder.pending[..kept].iter().flat_map(|(_, namings)| namings) {
                    set(&mut names, naming);
                }
            }
        }
        for (name, node) in &names {
            let place = place.join(name);
            match &self.nodes[*node] {
                Kind::Folder(_) if built.insert(*node) => self.build_folder(*node, &place, survives, random, built)?,
                Kind::Folder(_) => unreachable!("a folder has one name"),
                Kind::File(contents) => put(&place, &contents.after_crash(survives, random))?,
            }
        }
        Ok(())
    }
}

impl Contents {
    fn after_crash(&self, survives: Survives, random: &mut StdRng) -> Vec<u8> {
        match survives {
            Survives::All => self.memory.clone(),
            Survives::Synced => self.disk.clone(),
            Survives::Some => {
                let mut bytes = self.disk.clone();
                let likely = random.random_range(0.0..=1.0);
                for (_, change) in &self.pending {
                    if !random.random_bool(likely) {
                        continue;
                    }
                    match change {
                        // Torn: some of its sectors.
                        Change::Write { at, bytes: written } if random.random_bool(0.3) => {
                            let first = (*at / SECTOR_BYTES + 1) * SECTOR_BYTES - at;
                            let sectors = written.len().saturating_sub(first).div_ceil(SECTOR_BYTES);
                            let kept = first + random.random_range(0..=sectors) * SECTOR_BYTES;
                            let kept = if random.random_bool(0.2) { 0 } else { kept.min(written.len()) };
                            apply(&mut bytes, &Change::Write { at: *at, bytes: written[..kept].to_vec() });
                        }
                        change => apply(&mut bytes, change),
                    }
                }
                bytes
            }
        }
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Write { at, bytes: written } => {
            let end = at + written.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(written);
        }
    }
}

fn settle(contents: &mut Contents, up_to: u64) {
    let later = contents.pending.partition_point(|(clock, _)| *clock <= up_to);
    for (_, change) in contents.pending.drain(..later) {
        apply(&mut contents.disk, &change);
    }
}

fn set(names: &mut BTreeMap<String, Node>, naming: &Naming) {
    match naming {
        Naming::Set(name, node) => names.insert(name.clone(), *node),
        Naming::Gone(name) => names.remove(name),
    };
}

/// Makes a file; zeros at its end take no space.
fn put(place: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = File::create_new(place)?;
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    file.write_all_at(&bytes[..end], 0)?;
    file.set_len(bytes.len() as u64)
}

fn short(call: &Call) -> String {
    let arguments = call.arguments.iter().map(|argument| argument.chars().take(80).collect::<String>());
    format!("{}({})", call.name, arguments.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use tempfile::TempDir;

    use super::super::trace::Reader;
    use super::*;

    fn hex(text: &str) -> String {
        text.bytes().flat_map(|byte| ["\\x".to_owned(), format!("{byte:02x}")]).collect()
    }

    /// Follows calls of one process, each given as it is traced, with `{path}` for a path below the root.
    fn follow(model: &mut Model, calls: &[String]) {
        let mut reader = Reader::default();
        for call in calls {
            let line = reader.line(&format!("1  {call}")).unwrap().unwrap();
            model.follow(&line).unwrap();
        }
    }

    fn left(model: &Model, survives: Survives, seed: u64) -> BTreeMap<String, String> {
        let folder = TempDir::new().unwrap();
        let place = folder.path().join("left");
        model.build(&place, survives, &mut StdRng::seed_from_u64(seed)).unwrap();
        let entries = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        entries.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
    }

    fn replaced(steps: usize) -> Model {
        let (root, new, old) = (hex("/r"), hex("/r/a.new"), hex("/r/a"));
        let calls = [
            format!("openat(AT_FDCWD, \"{old}\", O_WRONLY|O_CREAT|O_TRUNC, 0600) = 3"),
            format!("write(3, \"{}\", 3) = 3", hex("old")),
            "fsync(3) = 0".to_owned(),
            format!("openat(AT_FDCWD, \"{root}\", O_RDONLY) = 4"),
            "fsync(4) = 0".to_owned(),
            format!("openat(AT_FDCWD, \"{new}\", O_WRONLY|O_CREAT|O_TRUNC, 0600) = 5"),
            format!("write(5, \"{}\", 3) = 3", hex("new")),
            "fdatasync(5) = 0".to_owned(),
            format!("rename(\"{new}\", \"{old}\") = 0"),
            "fsync(4) = 0".to_owned(),
        ];
        let mut model = Model::new(Path::new("/r"), Syncs::All);
        follow(&mut model, &calls[..steps]);
        model
    }

    fn files(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn only_what_was_synced_survives_and_a_name_only_with_its_folder() {
        assert_eq!(left(&replaced(4), Survives::Synced, 1), files(&[]));
        assert_eq!(left(&replaced(5), Survives::Synced, 1), files(&[("a", "old")]));
        assert_eq!(left(&replaced(9), Survives::Synced, 1), files(&[("a", "old")]));
        assert_eq!(left(&replaced(9), Survives::All, 1), files(&[("a", "new")]));
        assert_eq!(left(&replaced(10), Survives::Synced, 1), files(&[("a", "new")]));
    }

    #[test]
    fn a_file_that_gets_its_name_without_a_sync_can_be_empty_under_it() {
        let mut calls = replaced(7);
        follow(&mut calls, &[format!("rename(\"{}\", \"{}\") = 0", hex("/r/a.new"), hex("/r/a"))]);
        let seen: HashSet<_> = (0..60)
            .map(|seed| left(&calls, Survives::Some, seed))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|left| left["a"].clone())
            .collect();
        assert!(seen.contains("") && seen.contains("old") && seen.contains("new"), "{seen:?}");
        let synced: HashSet<_> = (0..60).map(|seed| left(&replaced(9), Survives::Some, seed)["a"].clone()).collect();
        assert_eq!(synced, HashSet::from(["old".to_owned(), "new".to_owned()]));
    }

    #[test]
    fn a_sync_covers_what_was_written_before_it_began() {
        let mut model = replaced(5);
        let mut reader = Reader::default();
        for line in [
            format!("1  write(3, \"{}\", 1) = 1", hex("x")),
            "2  fdatasync(3 <unfinished ...>".to_owned(),
            format!("1  write(3, \"{}\", 1) = 1", hex("y")),
            "2  <... fdatasync resumed>) = 0".to_owned(),
        ] {
            model.follow(&reader.line(&line).unwrap().unwrap()).unwrap();
        }
        assert_eq!(left(&model, Survives::Synced, 1), files(&[("a", "oldx")]));
    }

    #[test]
    fn a_file_that_writes_through_needs_no_sync() {
        let mut model = replaced(5);
        follow(
            &mut model,
            &[
                "ioctl(3, FS_IOC_SETFLAGS, [FS_SYNC_FL|FS_EXTENT_FL]) = 0".to_owned(),
                format!("pwrite64(3, \"{}\", 1, 4) = 1", hex("z")),
            ],
        );
        assert_eq!(left(&model, Survives::Synced, 1), files(&[("a", "old\0z")]));
    }

    #[test]
    fn what_it_cannot_follow_it_says() {
        let mut model = replaced(5);
        let line = Reader::default().line("1  fallocate(3, 0, 0, 4096) = 0").unwrap().unwrap();
        assert!(model.follow(&line).is_err());
    }
}
