//! The peers' programs: where a Debian machine has them, which versions they are, and how they come there.

use std::collections::BTreeSet;
use std::env;
use std::fmt;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate_benches::error::BenchError;

use crate::process::Account;

/// Where programs are looked for besides `PATH`, which often lacks the folders of root's.
const FOLDERS: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

/// Where Debian keeps Nginx' modules, and the modules and libraries that the door needs.
const MODULES: &str = "/usr/lib/nginx/modules";
const MODULE_NAMES: [&str; 2] = ["ndk_http_module.so", "ngx_http_lua_module.so"];
const LUA_LIBRARIES: [&str; 2] = ["/usr/share/lua/5.1/nginx/redis.lua", "/usr/share/lua/5.1/resty/core.lua"];

/// Where Debian keeps the versions of `PostgreSQL`.
const POSTGRES: &str = "/usr/lib/postgresql";

/// Accounts for a server that refuses to be root, the first that there is.
const ACCOUNTS: [&str; 2] = ["postgres", "nobody"];

/// The file by which Debian asks whether a package may start its service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Nothing starts.
const NO_SERVICES: &str = "#!/bin/sh\nexit 101\n";

/// The programs that are there.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    /// `redis-server`.
    pub redis: Option<PathBuf>,
    /// Nginx with its Lua module.
    pub nginx: Option<NginxPrograms>,
    /// `PostgreSQL`.
    pub postgres: Option<PostgresPrograms>,
}

/// Nginx with its Lua module.
#[derive(Debug, Clone)]
pub struct NginxPrograms {
    /// The program.
    pub nginx: PathBuf,
    /// The folder of its modules.
    pub modules: PathBuf,
}

/// `PostgreSQL`.
#[derive(Debug, Clone)]
pub struct PostgresPrograms {
    /// The folder of its programs.
    pub folder: PathBuf,
    /// Who it runs as, when this program is root's.
    pub account: Option<Account>,
}

/// A peer that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub peer: &'static str,
    /// The packages that bring it.
    pub packages: &'static [&'static str],
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, packages } = self;
        write!(formatter, "SKIPPED: {peer} is not installed (packages {}; --install as root brings them)", packages.join(", "))
    }
}

impl Programs {
    /// Looks for them.
    pub fn find() -> Self {
        let nginx = program("nginx").filter(|_| {
            let modules = MODULE_NAMES.iter().all(|name| Path::new(MODULES).join(name).is_file());
            modules && LUA_LIBRARIES.iter().all(|library| Path::new(library).is_file()) && has_json()
        });
        Self {
            redis: program("redis-server"),
            nginx: nginx.map(|nginx| NginxPrograms { nginx, modules: MODULES.into() }),
            postgres: postgres(),
        }
    }

    /// Those that are not there.
    pub fn missing(&self) -> Vec<Missing> {
        let peers: [(bool, &'static str, &'static [&'static str]); 3] = [
            (self.redis.is_some(), "Redis", &["redis-server"]),
            (
                self.redis.is_some() && self.nginx.is_some(),
                "Nginx + Lua + Redis",
                &["redis-server", "nginx", "libnginx-mod-http-lua", "lua-nginx-redis", "lua-resty-core", "lua-cjson"],
            ),
            (self.postgres.is_some(), "PostgreSQL", &["postgresql"]),
        ];
        peers.into_iter().filter(|(is_there, ..)| !is_there).map(|(_, peer, packages)| Missing { peer, packages }).collect()
    }

    /// What they say of their versions.
    pub fn versions(&self) -> Vec<String> {
        let redis = self.redis.as_ref().map(|program| version(program, "--version"));
        let nginx = self.nginx.as_ref().map(|programs| version(&programs.nginx, "-v"));
        let postgres = self.postgres.as_ref().map(|programs| version(&programs.folder.join("postgres"), "--version"));
        [redis, nginx, postgres].into_iter().flatten().collect()
    }
}

/// Installs the packages of `missing` peers with apt-get. Needs root. No service of theirs is started.
pub fn install(missing: &[Missing]) -> Result<(), BenchError> {
    if !rustix::process::geteuid().is_root() {
        return Err(BenchError::wrong("--install needs root"));
    }
    let packages: BTreeSet<&str> = missing.iter().flat_map(|missing| missing.packages).copied().collect();
    // Another's policy stays as it is: it is there so that nothing starts.
    let own_policy = OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
    let is_own = own_policy.and_then(|mut file| file.write_all(NO_SERVICES.as_bytes())).is_ok();
    if is_own {
        fs::set_permissions(POLICY, Permissions::from_mode(0o755)).map_err(BenchError::io(POLICY))?;
    }
    let installed = apt_get(&["update", "-qq"]).and_then(|()| {
        let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
        arguments.extend(packages);
        apt_get(&arguments)
    });
    if is_own {
        fs::remove_file(POLICY).map_err(BenchError::io(POLICY))?;
    }
    installed
}

fn apt_get(arguments: &[&str]) -> Result<(), BenchError> {
    let output = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").output();
    let output = output.map_err(BenchError::io("apt-get"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(BenchError::Wrong(format!("apt-get {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())))
}

fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// Whether Lua can read JSON: its library lies in the folder of the machine's architecture.
fn has_json() -> bool {
    let architectures = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    architectures.map(|entry| entry.path().join("lua/5.1/cjson.so")).any(|library| library.is_file())
}

/// The newest version that is there, if somebody may run it.
fn postgres() -> Option<PostgresPrograms> {
    let versions = fs::read_dir(POSTGRES).ok()?.flatten();
    let versions = versions.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))));
    let (_, folder) = versions.filter(|(_, folder)| folder.join("initdb").is_file()).max()?;
    if !rustix::process::geteuid().is_root() {
        return Some(PostgresPrograms { folder, account: None });
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let account = ACCOUNTS.iter().find_map(|name| account(&accounts, name))?;
    Some(PostgresPrograms { folder, account: Some(account) })
}

fn account(accounts: &str, name: &str) -> Option<Account> {
    let mut fields = accounts.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.split(':').skip(1);
    Some(Account { user: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
}

fn version(program: &Path, argument: &str) -> String {
    let said = Command::new(program).arg(argument).output().map(|output| [output.stdout, output.stderr].concat());
    let said = String::from_utf8(said.unwrap_or_default()).unwrap_or_default();
    let line = said.lines().next().unwrap_or_default();
    // What follows is how it was built.
    line.split(" sha=").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let accounts = "postgres2:x:1:2::/:/bin/sh\npostgres:x:101:104::/:/bin/sh\n";
        assert_eq!(account(accounts, "postgres"), Some(Account { user: 101, group: 104 }));
        assert_eq!(account(accounts, "nobody"), None);
    }

    #[test]
    fn nothing_is_missing_where_everything_is() {
        assert_eq!(Programs::default().missing().len(), 3);
        let nginx = NginxPrograms { nginx: PathBuf::new(), modules: PathBuf::new() };
        let without_redis = Programs { nginx: Some(nginx), ..Programs::default() };
        assert!(without_redis.missing().iter().any(|missing| missing.peer == "Nginx + Lua + Redis"), "it needs Redis behind it");
    }
}
