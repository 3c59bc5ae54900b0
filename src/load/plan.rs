//! What a load is: its options as they are given, and held against their bounds. It must not know how it is run.

use std::path::PathBuf;
use std::time::Duration;

use clap::value_parser;
use tidegate_stock::limits::{HOLD_SECONDS_MAX, IDENTIFIER_CHARACTERS_MAX};

use super::schedule::Spacing;
use super::sizing::{Demand, units};
use super::zipf::Zipf;

/// Connections of a closed loop, unless it is said how many.
const CONNECTIONS_CLOSED_DEFAULT: u32 = 64;

/// Connections of an open loop, unless it is said how many: more, so that a slow moment makes no queue here.
const CONNECTIONS_OPEN_DEFAULT: u32 = 256;

/// Options of `tidegate load`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LoadOptions {
    /// The stock authority, as `http://HOST:PORT` or `https://HOST[:PORT]`
    #[arg(long, value_name = "URL", help_heading = "Target")]
    pub(crate) target: String,

    /// A file with the API key to send as `Authorization: Bearer`; it needs the roles operator and frontend
    /// [default: the variable `TIDEGATE_KEY`, or no key]
    #[arg(long, value_name = "FILE", help_heading = "Target")]
    pub(crate) key_file: Option<PathBuf>,

    /// Certificates in PEM of the authorities to trust for https [default: those that this machine trusts]
    #[arg(long, value_name = "FILE", help_heading = "Target")]
    pub(crate) ca_file: Option<PathBuf>,

    /// Seconds to wait for a connection and for an answer, 0.1 to 600; a node's own limit is 10
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = |text: &str| seconds(text, 0.1, 600.0), help_heading = "Target")]
    pub(crate) timeout: Duration,

    /// Open loop: so many requests a second are due, 1 to 10,000,000, whatever becomes of those before them. Confirms and releases
    /// follow their grants at once and come on top [default: closed loop, each connection asks again once it is answered]
    #[arg(long, value_name = "PER_SECOND", value_parser = value_parser!(u32).range(1..=10_000_000), help_heading = "Pace")]
    pub(crate) rate: Option<u32>,

    /// How the requests of an open loop are spaced
    #[arg(long, value_name = "SPACING", default_value = "poisson", requires = "rate", help_heading = "Pace")]
    pub(crate) arrivals: Spacing,

    /// Connections, each with at most one request under way, 1 to 60,000 [default: 64, or 256 with --rate]
    #[arg(long, value_name = "NUMBER", value_parser = value_parser!(u32).range(1..=60_000), help_heading = "Pace")]
    pub(crate) connections: Option<u32>,

    /// Threads that the connections are dealt to, 1 to 256; one drives tens of thousands of requests a second
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = value_parser!(u32).range(1..=256), help_heading = "Pace")]
    pub(crate) threads: u32,

    /// Seconds that are measured, 0.1 to 86,400
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = |text: &str| seconds(text, 0.1, 86_400.0), help_heading = "Pace")]
    pub(crate) duration: Duration,

    /// Seconds before them that are run alike but do not count into rates and latencies, 0 to 3,600
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = |text: &str| seconds(text, 0.0, 3_600.0), help_heading = "Pace")]
    pub(crate) warmup: Duration,

    /// End after so many requests that reserve, warm-up included, if that is before the duration is over; 1 or more. Needed for
    /// --sold-out in a closed loop, which cannot know beforehand how many there will be
    #[arg(long, value_name = "NUMBER", value_parser = value_parser!(u64).range(1..=1_000_000_000_000), help_heading = "Pace")]
    pub(crate) requests: Option<u64>,

    /// Products on sale, 1 to 100,000
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = value_parser!(u32).range(1..=100_000), help_heading = "Sale")]
    pub(crate) products: u32,

    /// How uneven they are: the product of rank r is asked for in proportion to 1 / r^S, 0 (all alike) to 10
    #[arg(long, value_name = "S", default_value = "1", value_parser = |text: &str| number(text, 0.0, 10.0), help_heading = "Sale")]
    pub(crate) zipf: f64,

    /// The share of reservations that is to be answered sold out, 0 to 1. A product gets as many units as its expected reservations
    /// x (1 - SHARE) x (1 - released) x quantity; at 0, it gets 1,000,000,000 and never runs out
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = |text: &str| number(text, 0.0, 1.0), help_heading = "Sale")]
    pub(crate) sold_out: f64,

    /// Units in each reservation, 1 to 1,000,000
    #[arg(long, value_name = "UNITS", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1_000_000), help_heading = "Sale")]
    pub(crate) quantity: u32,

    /// Most units that a user may hold and own of a product, 1 to 1,000,000,000 [default: no limit]
    #[arg(long, value_name = "UNITS", value_parser = value_parser!(u32).range(1..=1_000_000_000), help_heading = "Sale")]
    pub(crate) per_user_limit: Option<u32>,

    /// Users, each as likely as the other to come next, 1 to 1,000,000,000
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000, value_parser = value_parser!(u32).range(1..=1_000_000_000), help_heading = "Sale")]
    pub(crate) users: u32,

    /// Seconds that an unpaid reservation is held, 1 to 31,536,000. Holds shorter than the run give units back, so fewer are sold out
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = value_parser!(u32).range(1..=i64::from(HOLD_SECONDS_MAX)), help_heading = "Sale")]
    pub(crate) hold_seconds: u32,

    /// The share of grants that is confirmed at once, 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = |text: &str| number(text, 0.0, 1.0), help_heading = "Mix")]
    pub(crate) confirm: f64,

    /// The share of grants that is released at once, 0 to 1; what is neither confirmed nor released expires
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = |text: &str| number(text, 0.0, 1.0), help_heading = "Mix")]
    pub(crate) release: f64,

    /// Send an idempotency key with every reservation
    #[arg(long, help_heading = "Mix")]
    pub(crate) keys: bool,

    /// Send so many reservations in each request, 1 to 10,000, with `POST /v1/batch`; what follows them is a batch too
    #[arg(long, value_name = "COMMANDS", value_parser = value_parser!(u32).range(1..=10_000), help_heading = "Mix")]
    pub(crate) batch: Option<u32>,

    /// Products, users and arrivals are a function of this number, 0 to 4,294,967,295 [default: another one each time]
    #[arg(long, value_name = "NUMBER", help_heading = "Stocks")]
    pub(crate) seed: Option<u32>,

    /// What the names of its stocks begin with, before `-` and their rank; none of them may exist [default: load-SEED]
    #[arg(long, value_name = "TEXT", help_heading = "Stocks")]
    pub(crate) prefix: Option<String>,

    /// Leave the stocks open at the end [default: they are closed]
    #[arg(long, help_heading = "Stocks")]
    pub(crate) keep: bool,

    /// Errors that are still good: commands without an answer, or with one that is neither a success nor the domain's no (409)
    #[arg(long, value_name = "NUMBER", default_value_t = 0, help_heading = "Result")]
    pub(crate) errors_max: u64,

    /// Print one JSON object instead of a table
    #[arg(long, help_heading = "Result")]
    pub(crate) json: bool,
}

/// Why options are no load.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum PlanError {
    /// Some thread would have no connection.
    #[error("--threads is {threads} where --connections has only {connections} to deal out")]
    Threads {
        /// Threads given.
        threads: u32,
        /// Connections to deal to them.
        connections: u32,
    },
    /// More is done with grants than there are.
    #[error("--confirm {confirm} and --release {release} are more than 1 together")]
    Shares {
        /// Share to confirm.
        confirm: f64,
        /// Share to release.
        release: f64,
    },
    /// Nobody knows how many units are needed.
    #[error("--sold-out {0} without --rate needs --requests: stocks are sized by the number of requests")]
    Size(f64),
    /// Everything would come back for ever.
    #[error("--sold-out {sold_out} with --release {release}: a stock whose grants all come back never runs out")]
    AllReleased {
        /// Share to be sold out.
        sold_out: f64,
        /// Share to release.
        release: f64,
    },
    /// A user's limit keeps everybody from buying anything.
    #[error("--per-user-limit is {limit} where --quantity {quantity} asks for more at a time")]
    Limit {
        /// The limit given.
        limit: u32,
        /// The quantity given.
        quantity: u32,
    },
    /// The names of the stocks would be none.
    #[error("--prefix {prefix:?} must be 1 to {characters_max} characters of A-Z a-z 0-9 . _ : ~ -")]
    Prefix {
        /// What was given.
        prefix: String,
        /// How long it may be with so many products.
        characters_max: usize,
    },
}

/// A load, ready to be run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) options: LoadOptions,
    pub(crate) connections: u32,
    pub(crate) seed: u32,
    pub(crate) prefix: String,
    pub(crate) zipf: Zipf,
    /// The products' names, the most popular first.
    pub(crate) skus: Vec<String>,
    /// Units that each is opened with.
    pub(crate) units: Vec<u64>,
}

impl Plan {
    /// Checks what the bounds of single options do not say. `any_seed` is used where none is given.
    pub(crate) fn new(options: LoadOptions, any_seed: u32) -> Result<Self, PlanError> {
        let default = if options.rate.is_some() { CONNECTIONS_OPEN_DEFAULT } else { CONNECTIONS_CLOSED_DEFAULT };
        let connections = options.connections.unwrap_or(default);
        if options.threads > connections {
            return Err(PlanError::Threads { threads: options.threads, connections });
        }
        let LoadOptions { confirm, release, sold_out, quantity, .. } = options;
        if confirm + release > 1.0 + 1e-9 {
            return Err(PlanError::Shares { confirm, release });
        }
        if let Some(limit) = options.per_user_limit.filter(|limit| *limit < quantity) {
            return Err(PlanError::Limit { limit, quantity });
        }
        let expected = expected_requests(&options);
        let reservations = match expected {
            Some(requests) => requests * f64::from(options.batch.unwrap_or(1)),
            None if sold_out > 0.0 => return Err(PlanError::Size(sold_out)),
            None => 0.0,
        };
        if sold_out > 0.0 && sold_out < 1.0 && release >= 1.0 {
            return Err(PlanError::AllReleased { sold_out, release });
        }
        let seed = options.seed.unwrap_or(any_seed);
        let prefix = options.prefix.clone().unwrap_or_else(|| format!("load-{seed}"));
        let digits = options.products.to_string().len();
        let characters_max = IDENTIFIER_CHARACTERS_MAX - 1 - digits;
        let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:~-".contains(&byte));
        if prefix.is_empty() || prefix.len() > characters_max || !is_name(&prefix) {
            return Err(PlanError::Prefix { prefix, characters_max });
        }
        let zipf = Zipf::new(options.products, options.zipf);
        let demand = Demand { reservations, quantity, sold_out, released: release };
        Ok(Self {
            connections,
            seed,
            // Padded, so that lists by name are lists by rank.
            skus: (1..=options.products).map(|rank| format!("{prefix}-{rank:0digits$}")).collect(),
            prefix,
            units: units(&zipf, options.products as usize, &demand),
            zipf,
            options,
        })
    }

    /// The whole run: warm-up and what is measured.
    pub(crate) fn whole(&self) -> Duration {
        self.options.warmup + self.options.duration
    }

    /// Connections of thread `thread`.
    pub(crate) fn connections_of(&self, thread: u32) -> u32 {
        let threads = self.options.threads;
        self.connections / threads + u32::from(thread < self.connections % threads)
    }
}

/// Requests that reserve in the whole run, as far as that is known beforehand.
#[expect(clippy::cast_precision_loss, reason = "a trillion requests are far below 2^52")]
fn expected_requests(options: &LoadOptions) -> Option<f64> {
    let limit = options.requests.map(|requests| requests as f64);
    let due = options.rate.map(|rate| f64::from(rate) * (options.warmup + options.duration).as_secs_f64());
    match (limit, due) {
        (Some(limit), Some(due)) => Some(limit.min(due)),
        (known, None) | (None, known) => known,
    }
}

fn number(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("it is no number from {least} to {most}"))?;
    if (least..=most).contains(&number) { Ok(number) } else { Err(format!("{text} is not in {least}..={most}")) }
}

fn seconds(text: &str, least: f64, most: f64) -> Result<Duration, String> {
    number(text, least, most).map(Duration::from_secs_f64)
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches, Parser};

    use super::*;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        options: LoadOptions,
    }

    fn plan(words: &str) -> Result<Plan, PlanError> {
        let words = ["load", "--target", "http://shop"].into_iter().chain(words.split_whitespace());
        Plan::new(Words::parse_from(words).options, 4_711)
    }

    #[track_caller]
    fn refused_by_itself(words: &str, flag: &str, bound: &str) {
        let words = ["load", "--target", "http://shop"].into_iter().chain(words.split_whitespace());
        let matches = <Words as clap::CommandFactory>::command().try_get_matches_from(words);
        let error = matches.and_then(|matches| Words::from_arg_matches(&matches).map(|_| ())).unwrap_err().to_string();
        assert!(error.contains(flag) && error.contains(bound), "{error}");
    }

    #[test]
    fn an_option_out_of_its_bounds_is_refused_with_its_name_and_bound() {
        refused_by_itself("--rate 0", "--rate", "1..=10000000");
        refused_by_itself("--connections 60001", "--connections", "1..=60000");
        refused_by_itself("--threads 257", "--threads", "1..=256");
        refused_by_itself("--duration 0", "--duration", "0.1..=86400");
        refused_by_itself("--warmup=-1", "--warmup", "0..=3600");
        refused_by_itself("--timeout 601", "--timeout", "0.1..=600");
        refused_by_itself("--products 0", "--products", "1..=100000");
        refused_by_itself("--zipf 10.5", "--zipf", "0..=10");
        refused_by_itself("--zipf NaN", "--zipf", "0..=10");
        refused_by_itself("--sold-out 1.01", "--sold-out", "0..=1");
        refused_by_itself("--sold-out most", "--sold-out", "from 0 to 1");
        refused_by_itself("--confirm 2", "--confirm", "0..=1");
        refused_by_itself("--hold-seconds 31536001", "--hold-seconds", "1..=31536000");
        refused_by_itself("--batch 10001", "--batch", "1..=10000");
        refused_by_itself("--arrivals constant", "--rate", "");
    }

    #[test]
    fn options_that_contradict_each_other_are_refused_with_their_numbers() {
        let check = |words: &str, expect: &str| assert_eq!(plan(words).unwrap_err().to_string(), expect);
        check("--threads 3 --connections 2", "--threads is 3 where --connections has only 2 to deal out");
        check("--confirm 0.7 --release 0.4", "--confirm 0.7 and --release 0.4 are more than 1 together");
        check("--sold-out 0.9", "--sold-out 0.9 without --rate needs --requests: stocks are sized by the number of requests");
        check(
            "--sold-out 0.9 --rate 1 --release 1",
            "--sold-out 0.9 with --release 1: a stock whose grants all come back never runs out",
        );
        check("--per-user-limit 1 --quantity 2", "--per-user-limit is 1 where --quantity 2 asks for more at a time");
        check("--prefix a/b", "--prefix \"a/b\" must be 1 to 124 characters of A-Z a-z 0-9 . _ : ~ -");
        let long = "x".repeat(126);
        assert!(plan(&format!("--products 1 --prefix {long}")).is_ok());
        assert!(plan(&format!("--products 10 --prefix {long}")).is_err());
        assert!(plan("--confirm 0.7 --release 0.3").is_ok());
    }

    #[test]
    fn a_plan_names_sizes_and_deals_out() {
        let open = plan("--rate 1000 --duration 9.5 --warmup 0.5 --sold-out 0.9 --products 4").unwrap();
        assert_eq!(open.connections, 256);
        assert_eq!(open.skus, ["load-4711-1", "load-4711-2", "load-4711-3", "load-4711-4"]);
        // 10,000 requests in shares of 12/25, 6/25, 4/25 and 3/25, a tenth of them granted.
        assert_eq!(open.units, [480, 240, 160, 120]);
        let batches = plan("--rate 100 --batch 10 --duration 10 --warmup 0 --sold-out 0.9 --products 4 --quantity 2").unwrap();
        assert_eq!(batches.units, [960, 480, 320, 240]);
        let limited = plan("--rate 1000 --requests 2500 --sold-out 0.9 --products 4").unwrap();
        assert_eq!(limited.units, [120, 60, 40, 30]);
        let closed = plan("--seed 5 --threads 3 --products 10").unwrap();
        assert_eq!(closed.connections, 64);
        assert_eq!((0..3).map(|thread| closed.connections_of(thread)).collect::<Vec<_>>(), [22, 21, 21]);
        assert_eq!((closed.skus[0].as_str(), closed.skus[9].as_str()), ("load-5-01", "load-5-10"));
        assert_eq!(closed.units, [1_000_000_000; 10]);
    }
}
