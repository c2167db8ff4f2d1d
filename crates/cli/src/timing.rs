//! What looking at images takes, in words.

use std::time::Duration;

use retinanet_experiment::ImageTimes;

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
        median(|it| it.detect.prepare),
        median(|it| it.detect.network),
        median(|it| it.detect.post),
    ))
}

fn whole(times: &ImageTimes) -> Duration {
    times.read + times.detect.prepare + times.detect.network + times.detect.post
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
    fn medians_and_the_95th_percentile_are_told() {
        let times: Vec<ImageTimes> = (1..=100)
            .map(|place| ImageTimes {
                read: Duration::from_millis(2),
                detect: Times {
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
