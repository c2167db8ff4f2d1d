use hotcoco::{BootstrapCI, CompareOpts, ComparisonResult, compare};

use crate::{CocoDetection, Comparison, Difference, EvaluationError, Evaluator};

const CONFIDENCE: f64 = 0.95;

impl Evaluator {
    /// How far AP of these detections may be from that of as many other images, with 95 % confidence: half of the
    /// interval that the bootstrap over images gives. None where AP is undefined or 0 on all of them, or one image says
    /// nothing about others.
    ///
    /// Images are resampled `samples` times.
    ///
    /// # Errors
    ///
    /// Returns an error as [`Evaluator::evaluate`] does.
    pub fn uncertainty(
        &self,
        detections: &[CocoDetection],
        samples: usize,
        seed: u64,
    ) -> Result<Option<f64>, EvaluationError> {
        // Against no detections, whose AP is 0 on any images.
        let comparison = self.compare(&[], detections, samples, seed)?;
        let ap = comparison.metrics.iter().find(|metric| metric.name == "AP");
        let interval = ap.and_then(|ap| ap.interval);
        let reach = interval.map(|[low, high]| (high - low) / 2.0);
        Ok(reach.filter(|reach| *reach > 0.0))
    }

    /// What the detections `b` are better or worse in than the detections `a`, over all images.
    ///
    /// Images are resampled `samples` times to say where the differences lie; each time costs two
    /// evaluations. The same seed draws the same images.
    ///
    /// # Errors
    ///
    /// Returns an error as [`Evaluator::evaluate`] does, for either.
    pub fn compare(
        &self,
        a: &[CocoDetection],
        b: &[CocoDetection],
        samples: usize,
        seed: u64,
    ) -> Result<Comparison, EvaluationError> {
        let a = self.run(a, self.images())?;
        let b = self.run(b, self.images())?;
        // hotcoco refuses to compare on no images.
        if a.params.img_ids.is_empty() {
            return Ok(Comparison::undefined(&a.metric_keys(), samples));
        }
        let options = CompareOpts {
            n_bootstrap: samples,
            // hotcoco draws its `i`-th images with `seed + i`: neighbouring seeds would share
            // nearly all of them.
            seed: seed.wrapping_mul(samples as u64),
            confidence: CONFIDENCE,
        };
        Ok(compare(&a, &b, &options)?.into())
    }
}

impl Comparison {
    fn undefined(names: &[&str], samples: usize) -> Self {
        let metrics = names
            .iter()
            .map(|&name| Difference::new(name.into(), -1.0, -1.0));
        Self {
            metrics: metrics.collect(),
            classes: Vec::new(),
            samples,
            images: 0,
        }
    }
}

impl From<ComparisonResult> for Comparison {
    fn from(result: ComparisonResult) -> Self {
        let metrics = result.metric_keys.iter().map(|name| {
            let [a, b] = [&result.metrics_a, &result.metrics_b]
                .map(|metrics| metrics.get(name).copied().unwrap_or(-1.0));
            let drawn = result.ci.as_ref().and_then(|drawn| drawn.get(name));
            Difference::new(name.clone(), a, b).within(drawn, result.num_images)
        });
        let classes = result
            .per_category
            .iter()
            .map(|class| Difference::new(class.cat_name.clone(), class.ap_a, class.ap_b));
        Self {
            metrics: metrics.collect(),
            classes: classes.collect(),
            samples: result.n_bootstrap,
            images: result.num_images,
        }
    }
}

impl Difference {
    fn new(name: String, a: f64, b: f64) -> Self {
        let mut difference = Self {
            name,
            a,
            b,
            difference: 0.0,
            interval: None,
        };
        if difference.is_defined() {
            difference.difference = b - a;
        }
        difference
    }

    pub(crate) fn is_defined(&self) -> bool {
        self.a >= 0.0 && self.b >= 0.0
    }

    fn within(mut self, drawn: Option<&BootstrapCI>, images: usize) -> Self {
        if let Some(drawn) = drawn
            && let Some(widening) = widening(images)
            && self.is_defined()
        {
            let reach = widening * (drawn.upper - drawn.lower) / 2.0;
            self.interval = Some([self.difference - reach, self.difference + reach]);
        }
        self
    }
}

/// How much wider a bootstrap's intervals are than hotcoco's; `None` if one image says nothing
/// about others.
///
/// hotcoco draws as many images as there are, but counts one that is drawn twice once. Its samples
/// thus are subsets with a share `s` of the images, of 63 % where these are many. The mean over a
/// subset sampled without replacement has `(1 - s) / s` times the variance of one over as many images
/// as there are, sampled with replacement. Only the width is of use: AP of fewer images is another on
/// average, so the samples need not lie around the difference.
fn widening(images: usize) -> Option<f64> {
    let images = images as f64;
    let left_out = (1.0 - 1.0 / images).powf(images);
    (left_out > 0.0).then(|| ((1.0 - left_out) / left_out).sqrt())
}
