//! How metrics are written: the `OpenMetrics` text, and the older text that every scraper reads. Knows neither what is counted nor who asks.

use std::fmt;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

/// Everything that `registry` holds, as `OpenMetrics` text 1.0.0.
///
/// # Errors
/// When a metric cannot be written.
pub(crate) fn open_metrics(registry: &Registry) -> Result<String, fmt::Error> {
    let mut shown = String::new();
    text::encode(&mut shown, registry)?;
    Ok(shown)
}

/// The same in Prometheus' text format 0.0.4. That one describes a counter by the name of its samples, which end in `_total`, and knows
/// neither infos nor unknowns; what else differs is a comment to it.
pub(crate) fn prometheus_text(open_metrics: &str) -> String {
    let mut shown = String::with_capacity(open_metrics.len() + open_metrics.len() / 16);
    // The description that a family's type is still awaited for: OpenMetrics puts the help first.
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        let mut described = line.splitn(4, ' ');
        match (described.next(), described.next(), described.next(), described.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(text)) => help = Some((name, text)),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", kind),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    _ => ("", kind),
                };
                if let Some((_, text)) = help.take().filter(|(of, _)| *of == name) {
                    push_line(&mut shown, &["# HELP ", name, suffix, " ", text]);
                }
                push_line(&mut shown, &["# TYPE ", name, suffix, " ", kind]);
            }
            _ => push_line(&mut shown, &[line]),
        }
    }
    shown
}

fn push_line(shown: &mut String, parts: &[&str]) {
    shown.extend(parts.iter().copied());
    shown.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_text_describes_each_family_by_the_name_of_its_samples() {
        let given = "# HELP a_groups Groups written.\n# TYPE a_groups counter\na_groups_total 3\n\
                     # HELP a_build The program.\n# TYPE a_build info\na_build_info{version=\"1\"} 1\n\
                     # HELP a_wait_seconds Waiting.\n# TYPE a_wait_seconds histogram\n# UNIT a_wait_seconds seconds\n\
                     a_wait_seconds_sum 0.5\na_wait_seconds_count 1\na_wait_seconds_bucket{le=\"+Inf\"} 1\n# EOF\n";
        let expected = "# HELP a_groups_total Groups written.\n# TYPE a_groups_total counter\na_groups_total 3\n\
                        # HELP a_build_info The program.\n# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n\
                        # HELP a_wait_seconds Waiting.\n# TYPE a_wait_seconds histogram\n# UNIT a_wait_seconds seconds\n\
                        a_wait_seconds_sum 0.5\na_wait_seconds_count 1\na_wait_seconds_bucket{le=\"+Inf\"} 1\n# EOF\n";
        assert_eq!(prometheus_text(given), expected);
    }
}
