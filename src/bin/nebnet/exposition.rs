//! The text format of Prometheus, version 0.0.4, without knowing what is shown.
//!
//! Every family has a HELP and a TYPE line, also when it has no sample yet, and its samples stand
//! below these together.

use std::{
    fmt::{Display, Write as _},
    time::Duration,
};

use nebnet::Traffic;

/// A page on its way. All names begin with `nebnet_`, which is added here.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
}

/// A family that has a sample for each row of a table: its name, kind and help, and what it shows
/// of a row.
pub(crate) type Column<R> = (&'static str, &'static str, &'static str, fn(&R) -> u64);

impl Exposition {
    pub(crate) fn finish(self) -> String {
        self.text
    }

    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        debug_assert_eq!(
            kind == "counter",
            name.ends_with("_total"),
            "counters end in _total, and nothing else does"
        );
        let text = &mut self.text;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "# HELP nebnet_{name} {help}\n# TYPE nebnet_{name} {kind}"
        );
    }

    pub(crate) fn sample(
        &mut self,
        name: &str,
        labels: &[(&str, &dyn Display)],
        value: impl Display,
    ) {
        let _ = write!(self.text, "nebnet_{name}");
        for (index, (label, value)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(
                self.text,
                "{open}{label}=\"{}\"",
                escape_label(&value.to_string())
            );
        }
        let _ = writeln!(
            self.text,
            "{} {value}",
            if labels.is_empty() { "" } else { "}" }
        );
    }

    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    pub(crate) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    pub(crate) fn seconds(&mut self, name: &str, kind: &str, help: &str, value: Duration) {
        self.family(name, kind, help);
        self.sample(name, &[], value.as_secs_f64());
    }

    /// Two counters: of messages, and of their bytes.
    pub(crate) fn traffic(&mut self, name: &str, what: &str, traffic: Traffic) {
        self.counter(&format!("{name}_messages_total"), what, traffic.messages);
        let help = format!("{what}, in bytes of whole frames");
        self.counter(&format!("{name}_bytes_total"), &help, traffic.bytes);
    }

    /// The columns of a table, one family after the other; `labels` are those of a row.
    pub(crate) fn table<R, L: AsRef<[(&'static str, String)]>>(
        &mut self,
        prefix: &str,
        columns: &[Column<R>],
        rows: &[R],
        labels: impl Fn(usize, &R) -> L,
    ) {
        for (name, kind, help, read) in columns {
            let name = format!("{prefix}_{name}");
            self.family(&name, kind, help);
            for (index, row) in rows.iter().enumerate() {
                let labels = labels(index, row);
                let labels = labels.as_ref().iter();
                let labels: Vec<(&str, &dyn Display)> = labels
                    .map(|(label, value)| (*label, value as &dyn Display))
                    .collect();
                self.sample(&name, &labels, read(row));
            }
        }
    }
}

fn escape_label(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_the_form_that_scrapers_read() {
        let mut out = Exposition::default();
        out.counter("accepted_total", "peers accepted", 3);
        out.sample("x", &[("a", &"q\"\\\n"), ("b", &7)], 1);
        assert_eq!(
            out.finish(),
            "# HELP nebnet_accepted_total peers accepted\n\
             # TYPE nebnet_accepted_total counter\n\
             nebnet_accepted_total 3\n\
             nebnet_x{a=\"q\\\"\\\\\\n\",b=\"7\"} 1\n"
        );
    }
}
