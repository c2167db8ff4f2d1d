//! A study's numbers, as Markdown, CSV and HTML.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::SystemTime;

use crate::study::{Study, StudyRun, Variant};

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Each metric's number.
    Numbers(BTreeMap<String, f64>),
    /// The loss became non-finite.
    Diverged,
    /// It has not ended.
    Missing,
}

/// The numbers of all variants.
pub struct Table {
    title: String,
    about: String,
    metrics: Vec<String>,
    has_paper: bool,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    /// Of each seed the run's report, as an address from the table on; none if it is not written.
    reports: Vec<(u64, Option<String>)>,
    paper: BTreeMap<String, f64>,
    outcomes: Vec<Outcome>,
}

/// Mean and spread of several numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Summary {
    mean: f64,
    /// The standard deviation of the seeds; 0 of a single number.
    spread: f64,
}

impl Table {
    /// The table of a study, whose runs have come to these outcomes.
    ///
    /// # Errors
    /// If an outcome is an error.
    pub fn new<E>(
        study: &Study,
        outcome: impl Fn(&StudyRun) -> Result<Outcome, E>,
    ) -> Result<Self, E> {
        let row = |variant: &Variant| {
            Ok(Row {
                name: variant.name.clone(),
                paper: variant.paper.clone(),
                reports: variant.runs.iter().map(report).collect(),
                outcomes: (variant.runs.iter())
                    .map(&outcome)
                    .collect::<Result<_, E>>()?,
            })
        };
        Ok(Self {
            title: study.title.clone(),
            about: study.about.clone(),
            metrics: study.metrics.clone(),
            has_paper: study.variants.iter().any(|it| !it.paper.is_empty()),
            rows: study.variants.iter().map(row).collect::<Result<_, E>>()?,
        })
    }

    /// The table in Markdown, a row for each variant.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", self.title);
        if !self.about.is_empty() {
            let _ = writeln!(text, "{}\n", self.about.trim());
        }
        let mut line = |cells: Vec<String>| {
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        };
        line(self.heads());
        line(vec!["---".to_owned(); self.heads().len()]);
        for row in &self.rows {
            line(self.cells(row));
        }
        text
    }

    /// A line for each run of each variant.
    pub fn csv(&self) -> String {
        let mut text = format!("run,seed_place,outcome,{}\n", self.metrics.join(","));
        for row in &self.rows {
            for (place, outcome) in row.outcomes.iter().enumerate() {
                let (word, numbers) = match outcome {
                    Outcome::Numbers(numbers) => ("done", Some(numbers)),
                    Outcome::Diverged => ("diverged", None),
                    Outcome::Missing => ("missing", None),
                };
                let number = |metric| numbers.map_or_else(String::new, |it| it[metric].to_string());
                let numbers: Vec<String> = self.metrics.iter().map(number).collect();
                let name = row.name.replace('"', "\"\"");
                let _ = writeln!(text, "\"{name}\",{place},{word},{}", numbers.join(","));
            }
        }
        text
    }

    /// A page with the table, a bar for each number, and links to the runs' reports.
    pub fn html(&self) -> String {
        let cell = |tag: &str, text: &str| format!("<{tag}>{}</{tag}>", escaped(text));
        let heads: String = self.heads().iter().map(|it| cell("th", it)).collect();
        let mut rows = String::new();
        for row in &self.rows {
            let cells: String = self.cells(row).iter().map(|it| cell("td", it)).collect();
            let reports = row.links();
            let bars: String = self.metrics.iter().map(|it| self.bar(row, it)).collect();
            let _ = writeln!(
                rows,
                "<tr>{cells}</tr>\n<tr class=bars><td>{reports}</td><td></td>{bars}{}</tr>",
                if self.has_paper { "<td></td>" } else { "" }
            );
        }
        let axes = self.metrics.iter().map(|metric| {
            let end = self.axis(metric);
            format!("<td><div class=axis><span>0</span><span>{end:.2}</span></div></td>")
        });
        let written = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        format!(
            include_str!("table.html"),
            title = escaped(&self.title),
            about = escaped(&self.about),
            heads = heads,
            axes = axes.collect::<String>(),
            rows = rows,
            written = written.map_or(0, |it| it.as_secs())
        )
    }

    /// Where the axis of a metric ends; it begins at 0. All precisions and recalls share one.
    fn axis(&self, metric: &str) -> f64 {
        let is_share = |name: &str| name.starts_with("AP") || name.starts_with("AR");
        let largest = |metric: &str| {
            let summaries = self.rows.iter().filter_map(|row| row.summary(metric));
            summaries.map(|it| it.mean + it.spread).fold(1e-9, f64::max)
        };
        if !is_share(metric) {
            return largest(metric);
        }
        let shares = self.metrics.iter().filter(|name| is_share(name));
        let largest = shares.map(|it| largest(it)).fold(1e-9, f64::max);
        (20.0 * largest).ceil() / 20.0
    }

    /// How far a number reaches along its axis, with its spread.
    fn bar(&self, row: &Row, metric: &str) -> String {
        let largest = self.axis(metric);
        let Some(Summary { mean, spread }) = row.summary(metric) else {
            return "<td></td>".into();
        };
        let per_cent = |value: f64| 100.0 * (value / largest).clamp(0.0, 1.0);
        let (low, high) = (per_cent(mean - spread), per_cent(mean + spread));
        format!(
            "<td><div class=bar><i style=\"width:{:.1}%\"></i><b style=\"left:{low:.1}%;width:{:.1}%\"></b></div></td>",
            per_cent(mean),
            high - low
        )
    }

    fn heads(&self) -> Vec<String> {
        let mut heads = vec!["run".to_owned(), "seeds".to_owned()];
        heads.extend(self.metrics.iter().cloned());
        if self.has_paper {
            heads.push("the paper".into());
        }
        heads
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let mut cells = vec![row.name.clone(), row.counts()];
        cells.extend(self.metrics.iter().map(|metric| {
            let shown = |it: Summary| match row.numbers(metric).count() {
                1 => format!("{:.3}", it.mean),
                _ => format!("{:.3} ± {:.3}", it.mean, it.spread),
            };
            row.summary(metric).map_or_else(|| "–".into(), shown)
        }));
        if self.has_paper {
            let shown = |(name, value): (&String, &f64)| format!("{name} {value}");
            let paper: Vec<_> = row.paper.iter().map(shown).collect();
            cells.push(paper.join(", "));
        }
        cells
    }
}

/// A run's report, as an address from the table on.
fn report(run: &StudyRun) -> (u64, Option<String>) {
    let file = run.directory.join("report.html");
    let folder = run.directory.file_name().filter(|_| file.is_file());
    let address = folder.map(|it| format!("{}/report.html", escaped_url(&it.to_string_lossy())));
    (run.seed, address)
}

impl Row {
    fn links(&self) -> String {
        let link = |(seed, address): &(u64, Option<String>)| match address {
            Some(address) => format!("<a href=\"{address}\">seed {seed}</a>"),
            None => format!("seed {seed}"),
        };
        let links: Vec<_> = self.reports.iter().map(link).collect();
        links.join(", ")
    }

    fn numbers<'a>(&'a self, metric: &'a str) -> impl Iterator<Item = f64> + 'a {
        self.outcomes
            .iter()
            .filter_map(move |outcome| match outcome {
                Outcome::Numbers(numbers) => numbers.get(metric).copied(),
                Outcome::Diverged | Outcome::Missing => None,
            })
    }

    fn summary(&self, metric: &str) -> Option<Summary> {
        let numbers: Vec<f64> = self.numbers(metric).collect();
        let count = numbers.len() as f64;
        if numbers.is_empty() {
            return None;
        }
        let mean = numbers.iter().sum::<f64>() / count;
        let squares: f64 = numbers.iter().map(|it| (it - mean).powi(2)).sum();
        let spread = (squares / (count - 1.0).max(1.0)).sqrt();
        Some(Summary { mean, spread })
    }

    /// How many seeds have ended, and how many have not or not well.
    fn counts(&self) -> String {
        let of = |outcome: &Outcome| self.outcomes.iter().filter(|it| *it == outcome).count();
        let (diverged, missing) = (of(&Outcome::Diverged), of(&Outcome::Missing));
        let mut text = (self.outcomes.len() - diverged - missing).to_string();
        for (count, word) in [(diverged, "diverged"), (missing, "missing")] {
            if count > 0 {
                let _ = write!(text, ", {count} {word}");
            }
        }
        text
    }
}

/// What stands for itself in the path of a URL; everything else becomes `%` and its number.
fn escaped_url(path: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    path.bytes().map(escape).collect()
}

fn escaped(text: &str) -> String {
    (text.replace('&', "&amp;").replace('<', "&lt;")).replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(outcomes: Vec<Vec<Outcome>>) -> Table {
        let rows = outcomes
            .into_iter()
            .enumerate()
            .map(|(place, outcomes)| Row {
                name: format!("run <{place}>"),
                paper: [("AP".to_owned(), 34.0)].into(),
                reports: vec![(0, Some("a/report.html".into())), (7, None)],
                outcomes,
            });
        Table {
            title: "Table 1b".into(),
            about: String::new(),
            metrics: vec!["AP".into()],
            has_paper: true,
            rows: rows.collect(),
        }
    }

    fn ap(value: f64) -> Outcome {
        Outcome::Numbers([("AP".to_owned(), value)].into())
    }

    #[test]
    fn seeds_are_summed_up_by_mean_and_standard_deviation() {
        // 0.1, 0.2 and 0.6: mean 0.3, deviations -0.2, -0.1 and 0.3; 0.14 / 2 = 0.07.
        let table = table(vec![
            vec![ap(0.1), ap(0.2), ap(0.6)],
            vec![ap(0.5), Outcome::Diverged, Outcome::Missing],
            vec![Outcome::Diverged],
        ]);
        let text = table.markdown();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], "| run | seeds | AP | the paper |");
        assert_eq!(lines[4], "| run <0> | 3 | 0.300 ± 0.265 | AP 34 |");
        assert_eq!(
            lines[5],
            "| run <1> | 1, 1 diverged, 1 missing | 0.500 | AP 34 |"
        );
        assert_eq!(lines[6], "| run <2> | 0, 1 diverged | – | AP 34 |");
        assert_eq!(
            table.csv().lines().collect::<Vec<_>>()[4..],
            [
                "\"run <1>\",0,done,0.5",
                "\"run <1>\",1,diverged,",
                "\"run <1>\",2,missing,",
                "\"run <2>\",0,diverged,"
            ]
        );
        let page = table.html();
        assert!(page.contains("run &lt;0&gt;") && !page.contains("run <0>"));
        assert!(page.contains("<a href=\"a/report.html\">seed 0</a>, seed 7"));
    }

    #[test]
    fn precisions_share_an_axis_and_a_loss_has_its_own() {
        let numbers = |ap: f64, ap50: f64, loss: f64| {
            let numbers = [("AP", ap), ("AP50", ap50), ("first_loss", loss)];
            Outcome::Numbers(numbers.map(|(name, value)| (name.to_owned(), value)).into())
        };
        let table = Table {
            metrics: ["AP", "AP50", "first_loss"].map(str::to_owned).into(),
            ..table(vec![
                vec![numbers(0.2, 0.4, 3.0)],
                vec![numbers(0.25, 0.47, 6.0)],
            ])
        };
        for (metric, end) in [("AP", 0.5), ("AP50", 0.5), ("first_loss", 6.0)] {
            assert!((table.axis(metric) - end).abs() < 1e-9, "{metric}");
        }
        // 0.2 of 0.5, and 3 of 6.
        assert!(table.bar(&table.rows[0], "AP").contains("width:40.0%"));
        assert!(
            table
                .bar(&table.rows[0], "first_loss")
                .contains("width:50.0%")
        );
    }

    #[test]
    fn folders_of_runs_become_addresses() {
        assert_eq!(escaped_url("γ-2 #1"), "%CE%B3-2%20%231");
    }
}
