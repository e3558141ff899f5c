//! Formats of the metrics page, chosen by the `Accept` header: `OpenMetrics`, or the Prometheus text format.

use std::fmt::Write as _;

/// Format of the metrics page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsFormat {
    /// The first choice of Prometheus.
    OpenMetrics,
    /// Text format version 0.0.4, which all other readers accept, including `promtool check metrics`.
    Text,
}

const OPEN_METRICS: &str = "application/openmetrics-text";

impl MetricsFormat {
    /// The media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The format that the `Accept` header prefers (RFC 9110, 12.5.1). `OpenMetrics` must be requested by name.
    pub fn accepted(accept: &str) -> Self {
        let (mut open_metrics, mut text) = (0.0_f64, 0.0_f64);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts
                .filter_map(|part| part.split_once('='))
                .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
                .map_or(1.0, |(_, q)| q.trim().parse::<f64>().unwrap_or(0.0).clamp(0.0, 1.0));
            match &*media {
                OPEN_METRICS => open_metrics = open_metrics.max(quality),
                "text/plain" | "text/*" | "*/*" => text = text.max(quality),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= text { Self::OpenMetrics } else { Self::Text }
    }
}

/// Converts an `OpenMetrics` page to text format 0.0.4, where metrics of counters and infos are named like their
/// samples, an info is a gauge, and there are no units and no end marker.
pub fn to_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                let _ = writeln!(text, "# HELP {name}{suffix} {help}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_header_selects_the_format() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let cases = [
            (prometheus, MetricsFormat::OpenMetrics),
            ("application/openmetrics-text", MetricsFormat::OpenMetrics),
            ("Application/OpenMetrics-Text; Q=0.9, text/plain; q=0.9", MetricsFormat::OpenMetrics),
            ("application/openmetrics-text;q=0.2, text/plain;q=0.9", MetricsFormat::Text),
            ("application/openmetrics-text;q=0", MetricsFormat::Text),
            ("application/openmetrics-text;q=nonsense", MetricsFormat::Text),
            ("text/plain;version=0.0.4", MetricsFormat::Text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", MetricsFormat::Text),
            ("*/*", MetricsFormat::Text),
            ("", MetricsFormat::Text),
            (";;,,=q", MetricsFormat::Text),
        ];
        for (accept, format) in cases {
            assert_eq!(MetricsFormat::accepted(accept), format, "{accept}");
        }
    }

    #[test]
    fn counters_and_infos_are_named_as_their_samples() {
        let page = "# HELP a_build A.\n# TYPE a_build info\na_build_info{v=\"# 1\"} 1\n\
                    # HELP b B b.\n# TYPE b counter\nb_total 7\n\
                    # HELP c_seconds C.\n# TYPE c_seconds gauge\n# UNIT c_seconds seconds\nc_seconds 0.5\n# EOF\n";
        let text = "# HELP a_build_info A.\n# TYPE a_build_info gauge\na_build_info{v=\"# 1\"} 1\n\
                    # HELP b_total B b.\n# TYPE b_total counter\nb_total 7\n\
                    # HELP c_seconds C.\n# TYPE c_seconds gauge\nc_seconds 0.5\n";
        assert_eq!(to_text(page), text);
    }
}
