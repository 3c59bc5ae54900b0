//! What the manual says of every command beyond what it does and takes: when to use it, examples, exit codes, environment, files.
//!
//! A new command needs a page here and a place in a group; tests find what is missing. Text only.

/// One command's page.
pub(super) struct Page {
    /// The command's words behind the program's name; empty for the program itself.
    pub(super) command: &'static str,
    /// When it is the right one.
    pub(super) when: &'static str,
    /// What for, and the command line.
    pub(super) examples: &'static [(&'static str, &'static str)],
    /// A code and what it means.
    pub(super) exit_codes: &'static [(&'static str, &'static str)],
    /// A variable and what it does.
    pub(super) environment: &'static [(&'static str, &'static str)],
    /// A path and what is there.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// Whether the shipped settings file is shown below.
    pub(super) shows_settings: bool,
}

/// The commands as the program's own help lists them: first what people use first.
pub(super) const GROUPS: &[(&str, &[&str])] = &[
    ("First steps", &["demo", "serve", "config"]),
    ("Check and measure", &["verify", "load", "replay"]),
    ("Keep it safe", &["backup", "cluster"]),
    ("Set up a machine", &["key", "completions", "manual"]),
];

const DONE: (&str, &str) = ("0", "Done.");
const FAILED: (&str, &str) = ("1", "It failed; the reason is on the standard error.");
const USAGE: (&str, &str) = ("2", "The command line is wrong. Nothing was done.");
const USAGE_OR_SETTINGS: (&str, &str) =
    ("2", "The command line, a TIDEGATE_ variable or the settings file is wrong. Nothing was done.");

const CONFIG_VARIABLE: (&str, &str) = ("TIDEGATE_CONFIG", "The settings file, where --config names none.");
const SETTING_VARIABLE: (&str, &str) = (
    "TIDEGATE_SECTION_FIELD",
    "Any setting, over the file's: TIDEGATE_HTTP_LISTEN is http.listen. A variable that begins with TIDEGATE_ and names no setting is \
     an error.",
);
const OWN_NODE_VARIABLES: (&str, &str) = ("TIDEGATE_*", "Not handed on: what is started here has the default settings.");
const TEMPORARY_FOLDER: (&str, &str) = ("TMPDIR", "Where a temporary directory is made. Default: /tmp.");
const NO_VARIABLE: (&str, &str) = ("(none)", "No variable is looked at.");
const NO_FILE: (&str, &str) = ("(none)", "No file is read or written.");

const IDENTITY_FILE: (&str, &str) = (
    "DATA_DIR/identity.json",
    "Whose directory it is: its format, its number of shards, and the secret that seals reservation ids. Keep it private.",
);
const LOG_FOLDER: (&str, &str) = ("DATA_DIR/log/", "The log of decisions: the only truth.");
const DURABLE_FILE: (&str, &str) = ("DATA_DIR/durable", "Up to where the log is durable, so that a lost end is noticed.");
const LOCK_FILE: (&str, &str) = ("DATA_DIR/lock", "Held while a process uses the directory.");

const KEYS_FILE: (&str, &str) = (
    "auth.keys_file",
    "The keys file of a node, in TOML: for each key an entry with name, roles, sha256 and perhaps expires_at. Not touched.",
);

const KEY_VARIABLE: (&str, &str) = ("TIDEGATE_KEY", "The API key to send, where no --key-file names one.");
const CLUSTER_SECRET_FILE: (&str, &str) =
    ("cluster.secret_file", "The secret that the nodes of a cluster share, such as 32 random bytes in base64. Not touched.");

/// Every page.
pub(super) const PAGES: &[Page] = &[
    Page {
        command: "",
        when: "Start with `tidegate demo` to see a sale on this machine, and with `tidegate serve` to run a node. `tidegate COMMAND \
               --help` explains a command in full, `tidegate COMMAND -h` in short.",
        examples: &[
            ("See a whole sale, with a killed node in the middle", "tidegate demo"),
            ("Run a node that listens on http://127.0.0.1:8700", "tidegate serve --data-dir ./data"),
            ("Read everything about a command", "tidegate help serve"),
        ],
        exit_codes: &[DONE, ("1", "It failed, or something was found: the reason is on the standard error."), USAGE_OR_SETTINGS],
        environment: &[CONFIG_VARIABLE, SETTING_VARIABLE],
        files: &[("tidegate-data/", "The data directory of a node, where no setting names another.")],
        shows_settings: false,
    },
    Page {
        command: "serve",
        when: "Whenever units are to be sold: under a service manager in production, in a terminal while developing. One node uses a data \
               directory at a time. Try a new settings file with `tidegate config --check` before the node is started with it.",
        examples: &[
            ("A node for trying things out", "tidegate serve --data-dir ./data"),
            (
                "With a settings file, and one setting over it",
                "tidegate serve --config tidegate.toml --set http.answer_seconds_max=5",
            ),
            ("On any free port, with its log as JSON", "tidegate serve --listen 127.0.0.1:0 --log-format json"),
            ("Look at one module more closely", "tidegate serve --log-filter warn,tidegate_engine=debug"),
        ],
        exit_codes: &[
            ("0", "Told to stop, and stopped in order."),
            (
                "1",
                "It could not start: the directory is damaged, in use or another node's, or the address is taken; or it had to stop.",
            ),
            USAGE_OR_SETTINGS,
            (
                "other",
                "It was killed, or ended itself because a promise was broken. What it acknowledged is on the disk; start it again.",
            ),
        ],
        environment: &[CONFIG_VARIABLE, SETTING_VARIABLE],
        files: &[IDENTITY_FILE, LOG_FOLDER, DURABLE_FILE, LOCK_FILE],
        shows_settings: true,
    },
    Page {
        command: "config",
        when: "When it is not clear which value counts, or before a node is started with new settings. It takes the same flags as \
               `tidegate serve` and neither starts a node nor touches a data directory.",
        examples: &[
            ("What a node here would run with", "tidegate config"),
            ("Check a file before it is rolled out", "tidegate config --config new.toml --check"),
            ("Keep what counts now as a file", "tidegate config --set http.answer_seconds_max=5 > tidegate.toml"),
            ("For programs", "tidegate config --json"),
        ],
        exit_codes: &[("0", "The settings are good."), FAILED, USAGE_OR_SETTINGS],
        environment: &[CONFIG_VARIABLE, SETTING_VARIABLE],
        files: &[("FILE", "The settings file. It is only read.")],
        shows_settings: true,
    },
    Page {
        command: "verify",
        when: "After an accident, before a copied directory is trusted, and as a regular check of a copy. It opens the log, and opening a \
               damaged one can change its end: copy the directory first where that matters.",
        examples: &[
            ("Check the directory of a stopped node", "tidegate verify ./data"),
            ("For programs", "tidegate verify --json ./data"),
            (
                "The stopped members of a cluster, each by itself and against each other",
                "tidegate verify ./node-1 ./node-2 ./node-3",
            ),
        ],
        exit_codes: &[
            ("0", "Everything holds."),
            ("1", "Something does not hold, told with its place; or the directory cannot be read, or a node is using it."),
            USAGE_OR_SETTINGS,
        ],
        environment: &[CONFIG_VARIABLE, SETTING_VARIABLE],
        files: &[IDENTITY_FILE, LOG_FOLDER, DURABLE_FILE, LOCK_FILE],
        shows_settings: false,
    },
    Page {
        command: "demo",
        when: "To see what Tidegate does and how fast it is here, and to convince yourself or others. It needs no running node and no \
               network but the loopback.",
        examples: &[
            ("The whole sale", "tidegate demo"),
            ("A small one that takes seconds", "tidegate demo --buyers 20000 --units 2000 --rate 4000"),
            ("More kills, and the data kept", "tidegate demo --kills 3 --data-dir ./demo"),
            ("A cluster of three that loses its leader three times", "tidegate demo --nodes 3"),
            (
                "A small one of five, and its figures as JSON",
                "tidegate demo --nodes 5 --buyers 20000 --units 2000 --rate 1000 --json",
            ),
        ],
        exit_codes: &[
            ("0", "Every check held."),
            ("1", "A check did not hold, or the demo could not be run to its end. The data is kept, and its place told."),
            ("2", "The options describe no sale. Nothing was done."),
        ],
        environment: &[OWN_NODE_VARIABLES, TEMPORARY_FOLDER],
        files: &[
            ("DIR/data/", "The data directory of a node alone; DIR/node-1/ and so on are those of a cluster."),
            ("DIR/node.log", "What the node said; DIR/node-1.log and so on in a cluster."),
            ("DIR/secret", "The secret that the nodes of the cluster share, made for this demo."),
        ],
        shows_settings: false,
    },
    Page {
        command: "backup",
        when: "Regularly, from a timer, onto another disk or machine than the node's; and before an update. The node serves on. Everything \
               that it acknowledged before the command was given is in the copy. To restore: make sure that the original will not run \
               again, put the copy where the data directory should be, and start `tidegate serve` on it with the settings of the original. \
               It sells on from where the copy ends: what was acknowledged after that is not known to it, so tell the callers, and let \
               consumers of the change feed begin again where it says that their cursor is ahead. Above all, ids of reservations that \
               were granted after the copy name nothing at first, and then somebody else's: numbers of grants go on where the copy \
               ends, and an id is made of them. Have every frontend drop those ids before the restored node takes commands, or it \
               may confirm or release what another buyer holds. Which they are is told by the grants of each sku in the report of the \
               copy (of this command, or of `tidegate verify` on the copy): a reservation whose `sequence` is greater was granted \
               later. Never run the copy beside the original: they have one identity, would sell the same units twice, and give \
               different reservations the same ids.",
        examples: &[
            ("A node on this machine", "tidegate backup /backup/2027-01-15"),
            (
                "One elsewhere, over TLS, with a key of the role admin",
                "tidegate backup ./copy --target https://stock.example --key-file key.txt",
            ),
            ("Smaller, without what only the change feed needs", "tidegate backup ./copy --without-feed"),
        ],
        exit_codes: &[
            ("0", "The copy is complete, has passed its check, and survives a loss of power."),
            (
                "1",
                "There is no copy: the node cannot be reached or gave none, the stream broke off, the disk failed, a signal came, or the \
                 check found something; only then what was copied stays in DIR.partial.",
            ),
            (
                "2",
                "The command line, the key or the certificates are wrong, or DIR is not a new or an empty folder. Nothing was done.",
            ),
        ],
        environment: &[KEY_VARIABLE],
        files: &[
            ("DIR/", "The copy: a data directory with everything that belongs to one. Its secret is in it; keep it private."),
            ("DIR.partial/", "The copy while it is made. A backup that was killed leaves it; remove it then."),
        ],
        shows_settings: false,
    },
    Page {
        command: "load",
        when: "Before a sale, against the machines that will hold it: first in a closed loop to see what they can do, then in an open \
               loop at the rate that is expected. Run it on another machine than the node, or it measures itself too. Every run needs \
               names for its stocks that were never used there; without --prefix and --seed it takes new ones.",
        examples: &[
            (
                "How much can it do on one hot product, from 128 connections?",
                "tidegate load --target http://127.0.0.1:8700 --connections 128 --products 1",
            ),
            (
                "What do buyers wait at 5,000 a second, when 95 of 100 come too late and the others pay?",
                "tidegate load --target http://127.0.0.1:8700 --rate 5000 --duration 60 --sold-out 0.95 --confirm 1",
            ),
            (
                "The same sale in batches of 50, with keys, over TLS, for a program to read",
                "tidegate load --target https://stock.example --key-file key.txt --rate 100 --batch 50 --keys --sold-out 0.95 --json",
            ),
        ],
        exit_codes: &[
            ("0", "Done, with no more errors than --errors-max, and every unit accounted for."),
            (
                "1",
                "More errors, a product that does not add up, a target that cannot be reached, or a signal: the reason is in the result \
                 or on the standard error.",
            ),
            ("2", "The command line, the key or the certificates are wrong. Nothing was done."),
        ],
        environment: &[KEY_VARIABLE],
        files: &[NO_FILE],
        shows_settings: false,
    },
    Page {
        command: "replay",
        when: "To see a shop's own past sales pass through Tidegate before it is put in front of new ones, or to fill a test node with \
               lifelike data. Lines go in the order of their dates, those of one date in the order of the file; without a column of \
               dates the order of the file counts. A line that buys is reserved and confirmed. A line that takes back (its invoice begins \
               with C and its quantity is negative) returns units that the same customer bought of the same product before, the newest \
               first; what no earlier line bought is an adjustment with the reason `cancellation`. A buyer without a customer is \
               guest:INVOICE; what comes back without a customer is an adjustment. Everything else is skipped, counted by its reason \
               and listed: rows that do not fit the header, quantities that are no whole numbers or zero, negative quantities without \
               a C (the shop's corrections of its own count), names outside the identifier alphabet, codes that are no product \
               (postage, discounts, fees, vouchers), dates that cannot be read, and what is more than a stock can hold. \
               Columns are found by the names that exports are known to use, whatever their case, spaces and signs; separators, the \
               mark before decimals and the format of dates are told from the file. What it does not tell is an error that names the \
               flag, and never a guess. In the end each stock is compared with what a second reading of the file says of it. A replay \
               is safe to repeat, also after it was killed, for as long as the node remembers keys (a day by default): every call has \
               a key made of its line. Later a repeat may sell what came back a second time, and fails for it. To put a file through \
               one node anew, give it a --prefix.",
        examples: &[
            ("Through a node of its own, gone afterwards", "tidegate replay invoices.csv"),
            ("Through a running node", "tidegate replay invoices.csv --target http://127.0.0.1:8700"),
            (
                "Through the same node once more, into stocks of other names",
                "tidegate replay invoices.csv --target http://127.0.0.1:8700 --prefix second:",
            ),
            (
                "Through one elsewhere, over TLS, with a key of the roles operator and frontend",
                "tidegate replay invoices.csv --target https://stock.example --key-file key.txt",
            ),
            ("Keep the data and look at it", "tidegate replay invoices.csv --data-dir ./replayed"),
            (
                "An export with headers of its own",
                "tidegate replay orders.csv --column invoice=Doc --column product=Part --column quantity=Pieces --column customer=Who",
            ),
            (
                "One whose dates and numbers could be read in two ways",
                "tidegate replay orders.csv --date-format d/m/y --decimal comma",
            ),
            ("For programs, with every line that was skipped or taken back", "tidegate replay invoices.csv --json"),
        ],
        exit_codes: &[
            ("0", "Every line got what the file says, every stock adds up, and the log of a node of its own proves it."),
            (
                "1",
                "A line or a stock did not get what the file says, which names the product; the file cannot be read, or does not tell \
                 how to read it; or the node failed, or could not be reached.",
            ),
            ("2", "The command line, the key or the certificates are wrong. Nothing was done."),
        ],
        environment: &[
            ("TIDEGATE_KEY", "The API key to send to the --target, where no --key-file names one."),
            OWN_NODE_VARIABLES,
            TEMPORARY_FOLDER,
        ],
        files: &[("FILE", "The shop's export, at most 512 MiB. It is only read."), ("DIR/", "The data of a node of its own.")],
        shows_settings: false,
    },
    Page {
        command: "cluster",
        when: "When a sale must survive the loss of a machine: with three nodes that of one, with five that of two. Two nodes survive nothing \
               more than one does. Nodes should be near each other: every answer waits for a majority of them.",
        examples: &[
            ("The first member, on the first machine", "tidegate cluster init --config tidegate.toml"),
            (
                "Another one, on another machine",
                "tidegate cluster join --config tidegate.toml --target https://node-1.example --key-file admin.txt",
            ),
            ("How it stands", "tidegate cluster status --target https://node-1.example --key-file key.txt"),
        ],
        exit_codes: &[DONE, FAILED, USAGE_OR_SETTINGS],
        environment: &[CONFIG_VARIABLE, SETTING_VARIABLE, KEY_VARIABLE],
        files: &[CLUSTER_SECRET_FILE, IDENTITY_FILE],
        shows_settings: false,
    },
    Page {
        command: "cluster init",
        when: "Once, on the machine whose stocks the cluster begins with, while no node is using the directory. Make a backup before: \
               there is no way back to a node that stands alone but by one.",
        examples: &[
            ("With the section [cluster] in the settings file", "tidegate cluster init --config tidegate.toml"),
            (
                "Everything on the command line",
                "tidegate cluster init --data-dir ./data --set cluster.listen=10.0.0.1:8701 --set cluster.secret_file=secret",
            ),
        ],
        exit_codes: &[DONE, FAILED, USAGE_OR_SETTINGS],
        environment: &[CONFIG_VARIABLE, SETTING_VARIABLE],
        files: &[CLUSTER_SECRET_FILE, IDENTITY_FILE, LOG_FOLDER],
        shows_settings: false,
    },
    Page {
        command: "cluster join",
        when: "Once for each further machine, while a majority of the cluster runs. Then start the node there. What is in [rules] must be the \
               same on all nodes. A node whose directory is lost does not join again under its number.",
        examples: &[
            (
                "With the section [cluster] in the settings file",
                "tidegate cluster join --config tidegate.toml --target https://node-1.example --key-file admin.txt",
            ),
            ("Under a number of its own", "tidegate cluster join --config tidegate.toml --target http://127.0.0.1:8700 --node 7"),
        ],
        exit_codes: &[DONE, FAILED, USAGE_OR_SETTINGS],
        environment: &[CONFIG_VARIABLE, SETTING_VARIABLE, KEY_VARIABLE],
        files: &[
            CLUSTER_SECRET_FILE,
            IDENTITY_FILE,
            ("DATA_DIR.partial/", "The directory while it is made. A command that was killed leaves it; remove it then."),
        ],
        shows_settings: false,
    },
    Page {
        command: "cluster leave",
        when: "When a machine goes for good, or is lost with its disk: a node that is only away keeps its place and catches up when it is back. \
               Join its successor afterwards, so that there are as many nodes as before.",
        examples: &[(
            "Node 2 is lost; another member is asked",
            "tidegate cluster leave --node 2 --target https://node-1.example --key-file admin.txt",
        )],
        exit_codes: &[DONE, FAILED, USAGE],
        environment: &[KEY_VARIABLE],
        files: &[NO_FILE],
        shows_settings: false,
    },
    Page {
        command: "cluster drain",
        when: "Before a node is stopped for an upgrade or its machine for maintenance, so that its shards' callers wait for a moment only. A \
               node that is told to stop hands over too, as far as it can within its grace; draining is done, and seen to be done, before.",
        examples: &[
            (
                "Node 2 is to be stopped; any member is asked",
                "tidegate cluster drain --node 2 --target https://node-1.example --key-file admin.txt",
            ),
            (
                "It is to go on after all",
                "tidegate cluster drain --node 2 --resume --target https://node-1.example --key-file admin.txt",
            ),
        ],
        exit_codes: &[DONE, FAILED, USAGE],
        environment: &[KEY_VARIABLE],
        files: &[NO_FILE],
        shows_settings: false,
    },
    Page {
        command: "cluster status",
        when: "To see whether all nodes are there, who leads which shard, and whether one lags behind. Every node shows it as it sees it \
               itself: where two differ, ask both.",
        examples: &[("A node on this machine", "tidegate cluster status"), ("For a program", "tidegate cluster status --json")],
        exit_codes: &[DONE, FAILED, USAGE],
        environment: &[KEY_VARIABLE],
        files: &[NO_FILE],
        shows_settings: false,
    },
    Page {
        command: "key",
        when: "Before a node listens on anything but a loopback address, and whenever a caller comes or goes. To take a key away, remove \
               its entry from the keys file; a running node notices within seconds, or at once on SIGHUP.",
        examples: &[
            ("A key for a shop's frontends", "tidegate key new --name shop --role frontend"),
            ("The hash of a key that was made elsewhere", "tidegate key hash"),
        ],
        exit_codes: &[DONE, FAILED, USAGE],
        environment: &[NO_VARIABLE],
        files: &[KEYS_FILE],
        shows_settings: false,
    },
    Page {
        command: "key new",
        when: "For every program that calls a node, one key of its own: the log of decisions tells them apart by name, and one can be \
               taken away without the others.",
        examples: &[
            ("A key for a shop's frontends", "tidegate key new --name shop --role frontend"),
            ("One that may also change stocks", "tidegate key new --name back-office --role frontend --role operator"),
            ("One for the metrics", "tidegate key new --name prometheus --role read"),
        ],
        exit_codes: &[DONE, FAILED, USAGE],
        environment: &[NO_VARIABLE],
        files: &[KEYS_FILE],
        shows_settings: false,
    },
    Page {
        command: "key hash",
        when: "When a vault or another program makes the keys. The key is read from the standard input, so that it is neither in the \
               shell's history nor in the list of processes.",
        examples: &[("Paste the key, and end the input with Ctrl-D", "tidegate key hash")],
        exit_codes: &[DONE, FAILED, USAGE],
        environment: &[NO_VARIABLE],
        files: &[KEYS_FILE],
        shows_settings: false,
    },
    Page {
        command: "completions",
        when: "Once on a machine where people type `tidegate`, and again after an update.",
        examples: &[
            ("bash, for everybody", "tidegate completions bash > /usr/share/bash-completion/completions/tidegate"),
            ("zsh, in a folder of $fpath", "tidegate completions zsh > ~/.zfunc/_tidegate"),
            ("fish", "tidegate completions fish > ~/.config/fish/completions/tidegate.fish"),
        ],
        exit_codes: &[DONE, FAILED, USAGE],
        environment: &[NO_VARIABLE],
        files: &[NO_FILE],
        shows_settings: false,
    },
    Page {
        command: "manual",
        when: "Once on a machine, and again after an update; or when a package is made. The pages say the same as --help.",
        examples: &[
            ("For everybody on this machine", "tidegate manual /usr/local/share/man/man1"),
            ("Into a folder, to read one", "tidegate manual ./man1 && man ./man1/tidegate-serve.1"),
        ],
        exit_codes: &[DONE, FAILED, USAGE],
        environment: &[NO_VARIABLE],
        files: &[("DIR/tidegate.1", "The page of the program."), ("DIR/tidegate-COMMAND.1", "The page of each command.")],
        shows_settings: false,
    },
];
