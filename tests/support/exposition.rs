//! Reads what `/metrics` answers, strictly: anything that the format does not allow is a failure of the test that asked.

use std::collections::{BTreeMap, BTreeSet};

/// Labels with their values.
pub type Labels = BTreeMap<String, String>;

/// The two formats that a node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    Text,
}

/// What is said of metrics that belong together.
#[derive(Debug)]
pub struct Family {
    /// As its samples begin: a counter's without `_total`, also in the older format.
    pub name: String,
    pub kind: String,
    pub unit: Option<String>,
    pub samples: Vec<Sample>,
}

#[derive(Debug)]
pub struct Sample {
    pub name: String,
    pub labels: Labels,
    pub value: f64,
}

/// Everything that was shown.
#[derive(Debug)]
pub struct Shown(pub Vec<Family>);

impl Family {
    /// The name that a query has for it: that of its samples, but for a histogram, which has three.
    pub fn query_name(&self) -> String {
        match self.kind.as_str() {
            "counter" => format!("{}_total", self.name),
            "info" => format!("{}_info", self.name),
            _ => self.name.clone(),
        }
    }

    /// The endings that the names of its samples have.
    fn endings(&self) -> &'static [&'static str] {
        match self.kind.as_str() {
            "counter" => &["_total"],
            "info" => &["_info"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            other => panic!("{} is a {other}", self.name),
        }
    }
}

impl Shown {
    /// Reads `text` in `format`.
    pub fn read(text: &str, format: Format) -> Self {
        assert!(text.ends_with("# EOF\n"), "the end is missing: {:?}", text.lines().last());
        let mut families: Vec<Family> = Vec::new();
        let mut help: Option<(String, String)> = None;
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            if *line == "# EOF" {
                assert_eq!(number + 1, lines.len(), "something follows the end");
            } else if let Some(said) = line.strip_prefix("# HELP ") {
                let (name, text) = said.split_once(' ').unwrap_or_else(|| panic!("{line:?} says nothing"));
                assert_eq!(help.replace((name.to_owned(), text.to_owned())), None, "{line:?} follows another help");
            } else if let Some(said) = line.strip_prefix("# TYPE ") {
                let (name, kind) = said.split_once(' ').unwrap_or_else(|| panic!("{line:?} names no type"));
                let (of, help) = help.take().unwrap_or_else(|| panic!("{line:?} follows no help"));
                assert_eq!(of, name, "help and type do not follow each other");
                families.push(family(name, kind, &help, format));
            } else if let Some(said) = line.strip_prefix("# UNIT ") {
                let (name, unit) = said.split_once(' ').unwrap_or_else(|| panic!("{line:?} names no unit"));
                let family = families.last_mut().filter(|family| family.samples.is_empty() && family.unit.is_none());
                let family = family.unwrap_or_else(|| panic!("{line:?} stands alone"));
                assert!(family.name == name && name.ends_with(&format!("_{unit}")), "{line:?} is of {}", family.name);
                family.unit = Some(unit.to_owned());
            } else {
                let sample = sample(line);
                let family = families.last_mut().unwrap_or_else(|| panic!("{line:?} has no type"));
                let ending = sample.name.strip_prefix(&family.name);
                assert!(ending.is_some_and(|ending| family.endings().contains(&ending)), "{line:?} stands under {}", family.name);
                family.samples.push(sample);
            }
        }
        assert_eq!(help, None, "a help without a type");
        let shown = Self(families);
        shown.check();
        shown
    }

    /// The family that a query calls `name`, and the ending of the sample's name that it asks for.
    pub fn family(&self, name: &str) -> Option<&Family> {
        self.0.iter().find(|family| family.endings().iter().any(|ending| name.strip_suffix(ending) == Some(&family.name)))
    }

    /// Every series of `name` with its labels.
    pub fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().flat_map(|family| &family.samples).filter(move |sample| sample.name == name)
    }

    /// The sum over the series of `name` that have these `labels` among theirs; fails where there is none.
    #[track_caller]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|is| is == value));
        let values: Vec<f64> = self.series(name).filter(has).map(|sample| sample.value).collect();
        assert!(!values.is_empty(), "no {name} with {labels:?} is shown");
        values.iter().sum()
    }

    /// What holds between samples.
    fn check(&self) {
        let (mut names, mut series) = (BTreeSet::new(), BTreeSet::new());
        for family in &self.0 {
            assert!(names.insert(&family.name), "{} is described twice", family.name);
            for sample in &family.samples {
                assert!(series.insert((&sample.name, &sample.labels)), "{sample:?} is there twice");
                assert!(sample.value.is_finite(), "{sample:?}");
                assert!(family.kind == "gauge" || sample.value >= 0.0, "{sample:?}");
            }
            if family.kind == "histogram" {
                self.check_histogram(family);
            }
        }
    }

    /// Buckets go up, and the last holds everything.
    fn check_histogram(&self, family: &Family) {
        let counts = format!("{}_count", family.name);
        for count in self.series(&counts) {
            let buckets = family.samples.iter().filter(|sample| sample.name.ends_with("_bucket"));
            let buckets = buckets.filter(|bucket| {
                let mut labels = bucket.labels.clone();
                labels.remove("le").unwrap_or_else(|| panic!("{bucket:?} has no bound"));
                labels == count.labels
            });
            let (mut bound, mut below) = (f64::NEG_INFINITY, 0.0);
            for bucket in buckets {
                let next: f64 = bucket.labels["le"].parse().unwrap_or_else(|_| panic!("{bucket:?}"));
                assert!(next > bound && bucket.value >= below, "{bucket:?} follows {bound} with {below}");
                (bound, below) = (next, bucket.value);
            }
            assert!(bound.is_infinite() && below.total_cmp(&count.value).is_eq(), "{count:?} differs from its buckets");
        }
    }
}

fn family(name: &str, kind: &str, help: &str, format: Format) -> Family {
    assert!(help.ends_with('.') && help.len() > 10, "the help of {name} is {help:?}");
    let name = match (format, kind) {
        (Format::Text, "counter") => name.strip_suffix("_total").unwrap_or_else(|| panic!("{name} is no name of a counter")),
        (Format::OpenMetrics, "counter") => {
            assert!(!name.ends_with("_total"), "OpenMetrics describes {name} without its ending");
            name
        }
        _ => name,
    };
    let kinds: &[&str] = match format {
        Format::OpenMetrics => &["counter", "gauge", "histogram", "info"],
        Format::Text => &["counter", "gauge", "histogram"],
    };
    assert!(kinds.contains(&kind), "{name} is a {kind}");
    let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    assert!(is_name && (name.starts_with("tidegate_") || name.starts_with("process_")), "{name} is no name of a metric here");
    Family { name: name.to_owned(), kind: kind.to_owned(), unit: None, samples: Vec::new() }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?} has no value"));
    let value = value.parse().unwrap_or_else(|_| panic!("{line:?} has no number"));
    let (name, labels) = match series.split_once('{') {
        None => (series, Labels::new()),
        Some((name, labels)) => {
            (name, self::labels(labels.strip_suffix('}').unwrap_or_else(|| panic!("the labels of {line:?} are open"))))
        }
    };
    Sample { name: name.to_owned(), labels, value }
}

/// Labels without escapes: no value here needs any.
fn labels(mut text: &str) -> Labels {
    let mut labels = Labels::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").unwrap_or_else(|| panic!("{text:?} is no label"));
        let (value, rest) = rest.split_once('"').unwrap_or_else(|| panic!("{text:?} does not end"));
        assert!(!value.contains('\\') && !name.is_empty() && !value.is_empty(), "{text:?}");
        assert_eq!(labels.insert(name.to_owned(), value.to_owned()), None, "{name} is there twice");
        text = match rest.strip_prefix(',') {
            Some(rest) if !rest.is_empty() => rest,
            None if rest.is_empty() => rest,
            _ => panic!("{rest:?} follows a label"),
        };
    }
    labels
}
