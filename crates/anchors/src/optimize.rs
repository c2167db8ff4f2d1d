//! Finds sizes and aspect ratios of anchors that fit given boxes better, at the same number of
//! anchors a cell.

use rayon::prelude::*;
use retinanet_boxes::BoundingBox;
use retinanet_settings::SettingError;

use crate::{AnchorConfig, AnchorError, AnchorGenerator, Lengths};

/// A box that anchors shall reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The box, in pixels of the network's input.
    pub bbox: BoundingBox,
    /// Height and width of that input, padding included.
    pub input: [usize; 2],
}

/// How well anchors fit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fit {
    /// The share of boxes whose best anchor reaches the foreground's threshold.
    pub reached: f64,
    /// The mean of the best overlaps.
    pub mean_iou: f64,
}

impl Fit {
    /// What is made as high as can be: first the share, and among equals the mean.
    fn score(self) -> f64 {
        self.reached + 0.1 * self.mean_iou
    }
}

/// Anchors that fit better than those that were there, or the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// The settings.
    pub config: AnchorConfig,
    /// How well the settings that were there fit.
    pub before: Fit,
    /// How well these fit.
    pub after: Fit,
}

/// Factors on all sizes that are tried, each way from the best so far: sixths of an octave.
const SIZE_STEPS: i32 = 18;

/// How far ratios are tried from each other, as factors.
const RATIO_SPREADS: [f64; 8] = [1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0];

/// Looks for better sizes and aspect ratios, in turn until neither helps.
///
/// All sizes move by one factor, since levels differ by octaves; ratios are spread evenly around
/// the middle of the boxes' own.
///
/// # Errors
///
/// Returns an error if the settings do not fit the strides, or tell each level's anchors apart.
pub fn optimize(
    config: &AnchorConfig,
    strides: &[usize],
    targets: &[Target],
    foreground: f32,
) -> Result<Proposal, AnchorError> {
    if config.levels.is_some() {
        let allowed = "left out to look for better sizes, since it describes each level by itself";
        return Err(SettingError::new("levels", allowed, "levels").into());
    }
    let measure = |config: &AnchorConfig| {
        let generator = config.init(strides)?;
        Ok::<_, AnchorError>(fit(&generator, targets, foreground))
    };
    let before = measure(config)?;
    let mut best = (config.clone(), before);
    loop {
        let last = best.1.score();
        let candidates = resized(&best.0)
            .into_iter()
            .chain(reshaped(&best.0, targets));
        for candidate in candidates.collect::<Vec<_>>() {
            let fit = measure(&candidate)?;
            if fit.score() > best.1.score() {
                best = (candidate, fit);
            }
        }
        if best.1.score() <= last + 1e-4 {
            break;
        }
    }
    Ok(Proposal {
        config: best.0,
        before,
        after: best.1,
    })
}

/// How well a generator's anchors fit.
pub fn fit(generator: &AnchorGenerator, targets: &[Target], foreground: f32) -> Fit {
    let ious = targets.par_iter().map(|target| {
        let [height, width] = target.input;
        generator.best_overlap(height, width, &target.bbox).iou
    });
    let ious: Vec<f32> = ious.collect();
    let count = ious.len().max(1) as f64;
    let reached = ious.iter().filter(|iou| **iou >= foreground).count();
    Fit {
        reached: reached as f64 / count,
        mean_iou: ious.iter().copied().map(f64::from).sum::<f64>() / count,
    }
}

/// The settings with all sizes larger or smaller.
fn resized(config: &AnchorConfig) -> Vec<AnchorConfig> {
    let steps = (-SIZE_STEPS..=SIZE_STEPS).filter(|step| *step != 0);
    let factors = steps.map(|step| (f64::from(step) / 6.0).exp2());
    factors
        .filter_map(|factor| {
            let sizes = config.sizes.iter();
            let sizes = sizes
                .map(|size| rounded(f64::from(*size) * factor))
                .collect();
            Some(AnchorConfig {
                sizes: scaled(sizes)?,
                ..config.clone()
            })
        })
        .collect()
}

/// The settings with other aspect ratios, as many as before.
fn reshaped(config: &AnchorConfig, targets: &[Target]) -> Vec<AnchorConfig> {
    let mut ratios: Vec<f64> = targets
        .iter()
        .map(|target| f64::from(target.bbox.height()) / f64::from(target.bbox.width()))
        .collect();
    ratios.sort_by(f64::total_cmp);
    let Some(&middle) = ratios.get(ratios.len() / 2) else {
        return Vec::new();
    };
    let count = config.aspect_ratios.len();
    let spread = |center: f64, factor: f64| {
        let places = (0..count).map(|index| index as f64 - (count as f64 - 1.0) / 2.0);
        let ratios = places.map(|place| rounded(center * factor.powf(place)));
        Some(AnchorConfig {
            aspect_ratios: scaled(ratios.collect())?,
            ..config.clone()
        })
    };
    let centers = [1.0, middle, middle.sqrt()];
    centers
        .into_iter()
        .flat_map(|center| RATIO_SPREADS.map(|factor| spread(center, factor)))
        .flatten()
        .collect()
}

/// Lengths, unless one left what lengths can be.
fn scaled(lengths: Vec<f32>) -> Option<Lengths> {
    Lengths::try_from(lengths).ok()
}

/// To three digits: more say nothing and are hard to read.
fn rounded(value: f64) -> f32 {
    let digits = 10_f64.powf(2.0 - value.log10().floor());
    ((value * digits).round() / digits) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRIDES: [usize; 5] = [8, 16, 32, 64, 128];

    fn target(width: f32, height: f32, index: usize) -> Target {
        let (x, y) = (
            40.0 + (index * 37 % 400) as f32,
            60.0 + (index * 53 % 300) as f32,
        );
        Target {
            bbox: BoundingBox::from_center(x, y, width, height),
            input: [512, 512],
        }
    }

    #[test]
    fn tiny_boxes_get_smaller_anchors() {
        let targets: Vec<_> = (0..200).map(|index| target(9.0, 11.0, index)).collect();
        let config = AnchorConfig::default();
        let proposal = optimize(&config, &STRIDES, &targets, 0.5).unwrap();
        assert!(proposal.before.reached < 0.1, "{proposal:?}");
        assert!(proposal.after.reached > 0.6, "{proposal:?}");
        assert!(proposal.config.sizes[0] < 16.0, "{proposal:?}");
        assert_eq!(proposal.config.anchors_per_cell(), 9);
    }

    #[test]
    fn tall_boxes_get_taller_anchors() {
        let targets: Vec<_> = (0..200).map(|index| target(30.0, 180.0, index)).collect();
        let config = AnchorConfig::default();
        let proposal = optimize(&config, &STRIDES, &targets, 0.5).unwrap();
        assert!(proposal.before.reached < 0.2, "{proposal:?}");
        assert!(proposal.after.reached > 0.95, "{proposal:?}");
        let tallest = proposal
            .config
            .aspect_ratios
            .iter()
            .copied()
            .fold(0.0, f32::max);
        assert!(tallest > 4.0, "{proposal:?}");
    }

    #[test]
    fn anchors_that_fit_stay() {
        let targets: Vec<_> = (0..50).map(|index| target(64.0, 64.0, 8 * index)).collect();
        let config = AnchorConfig::default();
        let proposal = optimize(&config, &STRIDES, &targets, 0.5).unwrap();
        assert_eq!(proposal.before.reached, 1.0);
        assert!(proposal.after.mean_iou >= proposal.before.mean_iou);
    }

    #[test]
    fn without_boxes_and_with_levels_of_their_own_nothing_is_proposed() {
        let config = AnchorConfig::default();
        let proposal = optimize(&config, &STRIDES, &[], 0.5).unwrap();
        assert_eq!(proposal.config, config);
        let fixed = AnchorConfig {
            levels: Some(Vec::new()),
            ..config
        };
        let error = optimize(&fixed, &STRIDES, &[], 0.5).unwrap_err();
        assert!(
            error.to_string().starts_with("`levels` must be left out"),
            "{error}"
        );
    }
}
