//! What looking at images takes, in words.

use std::time::Duration;

use retinanet_trainer::ImageTimes;

/// The median time an image of each part, and the 95th percentile of all of it; nothing of no
/// images.
pub(crate) fn describe(times: &[ImageTimes]) -> Option<String> {
    if times.is_empty() {
        return None;
    }
    let median = |part: fn(&ImageTimes) -> Duration| {
        let parts: Vec<Duration> = times.iter().map(part).collect();
        milliseconds(quantile(parts, 0.5))
    };
    let whole: Vec<Duration> = times.iter().map(whole).collect();
    Some(format!(
        "an image took {} ms (95 % of them at most {} ms): reading {}, preparing {}, network {}, \
         post-processing {}",
        milliseconds(quantile(whole.clone(), 0.5)),
        milliseconds(quantile(whole, 0.95)),
        median(|it| it.read),
        median(|it| it.find.prepare),
        median(|it| it.find.network),
        median(|it| it.find.post),
    ))
}

/// A time as a person would say it: `0.2 s`, `4 min`, `3.1 h`, `250 days`.
pub(crate) fn roughly(seconds: f64) -> String {
    const UNITS: [(f64, &str); 5] = [
        (1.0, "s"),
        (60.0, "min"),
        (3_600.0, "h"),
        (86_400.0, "days"),
        (31_557_600.0, "years"),
    ];
    // A year is told in days up to three, a day in hours up to three, and so on.
    let fits = |unit: &&(f64, &str)| seconds >= 3.0 * unit.0;
    let (length, name) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
    let count = seconds / length;
    if count >= 10.0 {
        format!("{count:.0} {name}")
    } else {
        format!("{count:.1} {name}")
    }
}

fn whole(times: &ImageTimes) -> Duration {
    times.read + times.find.prepare + times.find.network + times.find.post
}

/// The value that this share of the values does not exceed.
fn quantile(mut values: Vec<Duration>, share: f64) -> Duration {
    values.sort_unstable();
    let rank = (share * values.len() as f64).ceil() as usize;
    let place = rank.clamp(1, values.len().max(1)) - 1;
    values.get(place).copied().unwrap_or_default()
}

fn milliseconds(duration: Duration) -> String {
    let milliseconds = 1e3 * duration.as_secs_f64();
    if milliseconds < 10.0 {
        format!("{milliseconds:.1}")
    } else {
        format!("{milliseconds:.0}")
    }
}

#[cfg(test)]
mod tests {
    use retinanet_detector::Times;

    use super::*;

    #[test]
    fn times_are_told_in_fitting_units() {
        for (seconds, told) in [
            (0.0, "0.0 s"),
            (0.21, "0.2 s"),
            (12.4, "12 s"),
            (170.0, "170 s"),
            (240.0, "4.0 min"),
            (10_000.0, "167 min"),
            (11_160.0, "3.1 h"),
            (21_600_000.0, "250 days"),
            (1e12, "31688 years"),
        ] {
            assert_eq!(roughly(seconds), told);
        }
    }

    #[test]
    fn medians_and_the_95th_percentile_are_told() {
        let times: Vec<ImageTimes> = (1..=100)
            .map(|place| ImageTimes {
                read: Duration::from_millis(2),
                find: Times {
                    prepare: Duration::from_micros(1500),
                    network: Duration::from_millis(place),
                    post: Duration::from_micros(500),
                },
            })
            .collect();
        assert_eq!(
            describe(&times).unwrap(),
            "an image took 54 ms (95 % of them at most 99 ms): reading 2.0, preparing 1.5, network \
             50, post-processing 0.5"
        );
        assert_eq!(describe(&[]), None);
    }
}
