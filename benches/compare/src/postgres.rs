//! `PostgreSQL` with the stock in one hot row, or with one row for each unit. The door of tokio-postgres.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rustix::process::Signal;
use tempfile::TempDir;
use tidegate_benches::error::BenchError;
use tidegate_benches::exchange::{Crowd, Seen};
use tidegate_benches::figure::Latencies;
use tidegate_benches::machine::{temporary_directory, thread_cpu};
use tidegate_benches::signals;
use tidegate_benches::wire::Outcomes;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, Statement};

use crate::process::{Account, Process, command};
use crate::programs::PostgresPrograms;
use crate::shop::{Books, Shop};

/// The configuration that every server here ends with.
const CONFIGURATION: &str = include_str!("../peers/postgresql.conf");

/// Who its only role is.
const ROLE: &str = "shop";

/// How stock is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// One row with the number of units.
    HotRow,
    /// One row for each unit, taken with SKIP LOCKED.
    RowPerUnit,
}

impl Way {
    const fn schema(self) -> &'static str {
        match self {
            Self::HotRow => include_str!("../peers/hot_row.sql"),
            Self::RowPerUnit => include_str!("../peers/row_per_unit.sql"),
        }
    }
}

/// A running server with the tables and the function. Dropping it ends it and removes its data.
pub struct Postgres {
    process: Process,
    way: Way,
    configuration: Config,
    control: Client,
    runtime: Runtime,
    _directory: TempDir,
}

impl Postgres {
    /// Makes a new cluster in `parent` with the programs in `programs`, starts it, and waits until it is ready.
    pub fn start(programs: &PostgresPrograms, way: Way, parent: Option<&PathBuf>) -> Result<Self, BenchError> {
        let PostgresPrograms { folder, account } = programs;
        let directory = temporary_directory(parent)?;
        let data = directory.path().join("data");
        make_cluster(folder, *account, directory.path(), &data)?;
        let mut server = command(&folder.join("postgres"), *account);
        server.arg("-D").arg(&data).current_dir(directory.path());
        let mut process = Process::start(server, "PostgreSQL", &directory.path().join("output"), Signal::QUIT)?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(BenchError::io("runtime"))?;
        let mut configuration = Config::new();
        configuration.host_path(directory.path()).user(ROLE).dbname("postgres");
        let control = process.wait_ready(|| runtime.block_on(connect(&configuration)))?;
        runtime.block_on(control.batch_execute(way.schema())).map_err(said)?;
        Ok(Self { process, way, configuration, control, runtime, _directory: directory })
    }

    fn count(&self, query: &str, sku: &str) -> Result<u64, BenchError> {
        let row = self.runtime.block_on(self.control.query_one(query, &[&sku])).map_err(said)?;
        u64::try_from(row.get::<_, i64>(0)).map_err(BenchError::wrong)
    }
}

impl Shop for Postgres {
    fn open(&mut self, sku: &str, units: u64) -> Result<(), BenchError> {
        let units = i64::try_from(units).map_err(BenchError::wrong)?;
        let insert = match self.way {
            Way::HotRow => "INSERT INTO stock VALUES ($1, $2)",
            Way::RowPerUnit => {
                "INSERT INTO unit SELECT $1, number * 2147483648 / $2::bigint \
                 FROM generate_series(0::bigint, $2::bigint - 1) AS number"
            }
        };
        self.runtime
            .block_on(async {
                self.control.execute(insert, &[&sku, &units]).await?;
                // So that the crowd meets tables that have settled.
                self.control.batch_execute("VACUUM ANALYZE").await?;
                self.control.batch_execute("CHECKPOINT").await
            })
            .map_err(said)
    }

    fn sell(&mut self, sku: &str, crowd: &Crowd) -> Result<Seen, BenchError> {
        self.runtime.block_on(sell(&self.configuration, sku, *crowd))
    }

    fn books(&mut self, sku: &str) -> Result<Books, BenchError> {
        let available = match self.way {
            Way::HotRow => "SELECT available FROM stock WHERE sku = $1",
            Way::RowPerUnit => "SELECT count(*) FROM unit WHERE sku = $1",
        };
        let available = self.count(available, sku)?;
        let mut sold = vec![("rows of reservations", self.count("SELECT count(*) FROM reservation WHERE sku = $1", sku)?)];
        if self.way == Way::RowPerUnit {
            let units = self.count("SELECT count(DISTINCT place) FROM reservation WHERE sku = $1", sku)?;
            sold.push(("units that have a buyer", units));
        }
        Ok(Books { available, sold })
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.process.id()]
    }
}

/// A new cluster in `data`. The server refuses to be root, so that the folder becomes the account's.
fn make_cluster(programs: &Path, account: Option<Account>, directory: &Path, data: &Path) -> Result<(), BenchError> {
    fs::set_permissions(directory, Permissions::from_mode(0o755)).map_err(BenchError::io("the folder of PostgreSQL"))?;
    if let Some(Account { user, group }) = account {
        chown(directory, Some(user), Some(group)).map_err(BenchError::io("the folder of PostgreSQL"))?;
    }
    let mut initdb = command(&programs.join("initdb"), account);
    initdb
        .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--wal-segsize=64", "--username", ROLE, "-D"])
        .arg(data);
    let output = initdb.current_dir(directory).output().map_err(BenchError::io("initdb"))?;
    if !output.status.success() {
        return Err(BenchError::Wrong(format!("initdb failed: {}", String::from_utf8_lossy(&output.stderr))));
    }
    let path = data.join("postgresql.conf");
    let own = format!("unix_socket_directories = '{}'\n", directory.display());
    let written = fs::read_to_string(&path).and_then(|given| fs::write(&path, [&given, CONFIGURATION, &own].concat()));
    written.map_err(BenchError::io("configuration of PostgreSQL"))
}

async fn connect(configuration: &Config) -> Result<Client, BenchError> {
    let (client, connection) = configuration.connect(NoTls).await.map_err(said)?;
    // It ends with the client; an error of it is the client's too.
    tokio::spawn(connection);
    Ok(client)
}

#[expect(clippy::needless_pass_by_value, reason = "map_err hands errors over")]
fn said(error: tokio_postgres::Error) -> BenchError {
    let detail = error.as_db_error().map(|error| format!(": {}", error.message())).unwrap_or_default();
    BenchError::Wrong(format!("PostgreSQL: {error}{detail}"))
}

/// What all buyers of a crowd share.
struct Sale {
    sku: String,
    crowd: Crowd,
    next_buyer: AtomicU64,
    start: Instant,
}

async fn sell(configuration: &Config, sku: &str, crowd: Crowd) -> Result<Seen, BenchError> {
    let mut clients = Vec::with_capacity(crowd.connections);
    for _ in 0..crowd.connections {
        let client = connect(configuration).await?;
        let statement = client.prepare("SELECT reserve($1, $2)").await.map_err(said)?;
        clients.push((client, statement));
    }
    let cpu_before = thread_cpu();
    let sale = Arc::new(Sale { sku: sku.to_owned(), crowd, next_buyer: AtomicU64::new(1), start: Instant::now() });
    let buyers: Vec<_> =
        clients.into_iter().map(|(client, statement)| tokio::spawn(buy(Arc::clone(&sale), client, statement))).collect();
    let (mut outcomes, mut latencies, mut last_answer) = (Outcomes::default(), Latencies::default(), sale.start);
    for buyer in buyers {
        let (told, seen, last) = buyer.await.map_err(BenchError::wrong)??;
        outcomes += told;
        latencies.add(&seen);
        last_answer = last_answer.max(last);
    }
    let measure_from = sale.start + crowd.warm_up;
    Ok(Seen {
        outcomes,
        answers: latencies.count(),
        measured: last_answer.min(measure_from + crowd.measured).saturating_duration_since(measure_from),
        latencies,
        generator_cpu: thread_cpu().saturating_sub(cpu_before),
        elapsed: last_answer - sale.start,
    })
}

/// One connection, one reservation after the other: its outcomes, its latencies in the measured time, its last answer.
async fn buy(sale: Arc<Sale>, client: Client, statement: Statement) -> Result<(Outcomes, Latencies, Instant), BenchError> {
    let measure_from = sale.start + sale.crowd.warm_up;
    let measure_to = measure_from + sale.crowd.measured;
    let (mut outcomes, mut latencies, mut now) = (Outcomes::default(), Latencies::default(), sale.start);
    while now < measure_to {
        signals::check()?;
        let number = sale.next_buyer.fetch_add(1, Ordering::Relaxed);
        if number > sale.crowd.buyers_max {
            break;
        }
        let (buyer, sent) = (format!("u{number:010}"), Instant::now());
        match client.query_one(&statement, &[&sale.sku, &buyer]).await {
            Ok(row) => match row.get::<_, i32>(0) {
                1 => outcomes.granted += 1,
                0 => outcomes.sold_out += 1,
                _ => outcomes.duplicates += 1,
            },
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => outcomes.duplicates += 1,
            Err(error) => return Err(said(error)),
        }
        now = Instant::now();
        if (measure_from..measure_to).contains(&now) {
            latencies.record(now - sent);
        }
    }
    Ok((outcomes, latencies, now))
}
