//! Which anchors carry the class loss: the share of positives and of negatives, and how it is spread
//! over each (Lin et al. 2017, section 5.1 and figure 4).

use rayon::prelude::*;
use retinanet_boxes::AnchorLabel;
use serde::{Deserialize, Serialize};

use crate::ClassLoss;

/// The focusing exponents of the paper's figure 4.
const GAMMAS: [f64; 4] = [0.0, 0.5, 1.0, 2.0];

/// How many steps of either axis a curve is sampled at.
const STEPS: f64 = 100.0;

/// Collects the class losses of anchors, image by image.
///
/// Of sigmoids an anchor's loss is the sum over its classes. Losses are counted in bins whose width is 1 % of
/// the loss or less, so that memory does not grow with the images.
#[derive(Clone, Debug)]
pub struct LossSpread {
    loss: ClassLoss,
    /// With the loss that trains, before it is normalised.
    trained: Sides,
    /// With each of [`GAMMAS`] and without `alpha`.
    figure: Vec<Sides>,
}

/// Positive anchors, then negative ones.
type Sides = [Histogram; 2];

/// What [`LossSpread`] found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossShares {
    /// Positive anchors whose loss is finite.
    pub positives: u64,
    /// Negative anchors whose loss is finite.
    pub negatives: u64,
    /// The share of the class loss that positive anchors carry, in `[0, 1]`, all images weighing
    /// the same; 0 where there is no loss. The rest is the negatives'.
    pub positive_share: f64,
    /// The paper's figure 4: one pair of curves for each focusing exponent, by rising exponent.
    pub curves: Vec<LossCurves>,
}

/// Cumulative normalised loss with one focusing exponent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossCurves {
    /// The focusing exponent.
    pub gamma: f64,
    /// Over positive anchors: `[share of the anchors, share of their loss]`, the easiest first, from
    /// `[0, 0]` to `[1, 1]`. Empty where there are none.
    pub positives: Vec<[f64; 2]>,
    /// Over negative anchors.
    pub negatives: Vec<[f64; 2]>,
}

impl LossSpread {
    /// Nothing collected yet; `loss` is the one that trains.
    pub fn new(loss: ClassLoss) -> Self {
        Self {
            loss,
            trained: Sides::default(),
            figure: vec![Sides::default(); GAMMAS.len()],
        }
    }

    /// Adds the anchors of an image.
    ///
    /// # Shapes
    ///
    /// - `logits`: `[anchors × classes]`, anchor by anchor
    /// - `labels`: `[anchors]`
    pub fn add(&mut self, logits: &[f32], labels: &[AnchorLabel]) {
        let classes = logits.len() / labels.len().max(1);
        if classes == 0 {
            return;
        }
        let loss = &self.loss;
        let losses: Vec<_> = (logits.par_chunks(classes).zip(labels))
            .with_min_len(1024)
            .map(|(logits, label)| AnchorLosses::of(logits, *label, loss))
            .collect();
        for losses in losses.iter().flatten() {
            let side = usize::from(!losses.positive);
            self.trained[side].add(losses.trained);
            for (sides, value) in self.figure.iter_mut().zip(losses.figure) {
                sides[side].add(value);
            }
        }
    }

    /// What was found.
    pub fn shares(&self) -> LossShares {
        let [positives, negatives] = self.trained.each_ref().map(Histogram::total);
        let whole = positives.1 + negatives.1;
        LossShares {
            positives: positives.0,
            negatives: negatives.0,
            positive_share: if whole > 0.0 {
                positives.1 / whole
            } else {
                0.0
            },
            curves: (GAMMAS.into_iter().zip(&self.figure))
                .map(|(gamma, [positives, negatives])| LossCurves {
                    gamma,
                    positives: positives.curve(),
                    negatives: negatives.curve(),
                })
                .collect(),
        }
    }
}

/// The losses of one anchor.
struct AnchorLosses {
    positive: bool,
    trained: f32,
    figure: [f32; GAMMAS.len()],
}

impl AnchorLosses {
    /// Nothing if the anchor is ignored.
    fn of(logits: &[f32], label: AnchorLabel, loss: &ClassLoss) -> Option<Self> {
        let positive = match label {
            AnchorLabel::Ignored => return None,
            AnchorLabel::Background => false,
            AnchorLabel::Object(_) => true,
        };
        let (mut trained, mut figure) = (0.0, [0.0; GAMMAS.len()]);
        loss.terms(logits, label, |term| {
            trained += term.loss;
            // x^0, x^(1/2), x and x²
            let focus = [1.0, term.wrong.sqrt(), term.wrong, term.wrong * term.wrong];
            for (sum, focus) in figure.iter_mut().zip(focus) {
                *sum += focus * term.cross_entropy;
            }
        });
        Some(Self {
            positive,
            trained,
            figure,
        })
    }
}

/// How many losses there are of which size.
///
/// The upper half of a float's bits is its bin: the bits of numbers from 0 on rise as they do.
#[derive(Clone, Debug, Default)]
struct Histogram {
    /// Count and sum of each bin.
    bins: Vec<(u64, f64)>,
}

impl Histogram {
    fn add(&mut self, loss: f32) {
        if !loss.is_finite() {
            return;
        }
        let bin = (loss.max(0.0).to_bits() >> 16) as usize;
        if bin >= self.bins.len() {
            self.bins.resize(bin + 1, (0, 0.0));
        }
        self.bins[bin].0 += 1;
        self.bins[bin].1 += f64::from(loss);
    }

    fn total(&self) -> (u64, f64) {
        let add = |(count, sum), bin: &(u64, f64)| (count + bin.0, sum + bin.1);
        self.bins.iter().fold((0, 0.0), add)
    }

    /// `[share of the losses, share of their sum]`, rising.
    fn curve(&self) -> Vec<[f64; 2]> {
        let (count, sum) = self.total();
        if count == 0 || sum <= 0.0 {
            return Vec::new();
        }
        let mut points = vec![[0.0, 0.0]];
        let (mut counted, mut summed, mut last) = (0, 0.0, [0, 0]);
        for bin in self.bins.iter().filter(|bin| bin.0 > 0) {
            counted += bin.0;
            summed += bin.1;
            let point = [counted as f64 / count as f64, summed / sum];
            // Wherever either has moved by a hundredth: hard negatives are so few that even steps
            // over the anchors would jump over them.
            let place = point.map(|share| (STEPS * share) as usize);
            if place != last {
                points.push(point);
                last = place;
            }
        }
        // The sums may differ in the last place.
        points.retain(|point| point[0] < 1.0);
        points.push([1.0, 1.0]);
        points
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData};
    use retinanet_boxes::ClassId;

    use super::*;
    use crate::{ClassLossConfig, FocalConfig, Gamma};

    const POSITIVE: AnchorLabel = AnchorLabel::Object(ClassId(1));

    fn spread(config: &ClassLossConfig) -> LossSpread {
        LossSpread::new(ClassLoss::Sigmoid(config.over_sigmoids()))
    }

    #[test]
    fn the_losses_are_those_that_train() {
        let device = Device::flex();
        for (config, targets) in [
            (ClassLossConfig::default(), [0.0, 1.0]),
            (ClassLossConfig::default(), [0.0, 0.0]),
            (
                ClassLossConfig::Focal(FocalConfig {
                    gamma: Gamma::literal(0.7),
                    ..FocalConfig::default()
                }),
                [0.0, 1.0],
            ),
        ] {
            let loss = config.over_sigmoids();
            let label = match targets {
                [_, 1.0] => POSITIVE,
                _ => AnchorLabel::Background,
            };
            for logits in [[-3.0, 0.5], [2.0, -80.0], [90.0, 4.0]] {
                let tensor = |values| Tensor::<1>::from_data(TensorData::new(values, [2]), &device);
                let expected = loss.forward(tensor(logits.to_vec()), tensor(targets.to_vec()));
                let expected = expected.sum().into_scalar::<f32>();
                let loss = ClassLoss::Sigmoid(loss.clone());
                let found = AnchorLosses::of(&logits, label, &loss).unwrap().trained;
                assert!(
                    (found - expected).abs() <= 1e-5 * expected,
                    "{logits:?}: {found}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn shares_worked_by_hand() {
        // Logits 0: each element costs (1/2)² ln 2, times 1/4 where it is the object's class and
        // 3/4 elsewhere. The positive anchor has one of each, the two negatives two others.
        let mut spread = spread(&ClassLossConfig::default());
        let labels = [
            POSITIVE,
            AnchorLabel::Background,
            AnchorLabel::Ignored,
            AnchorLabel::Background,
        ];
        spread.add(&[0.0; 8], &labels);
        let shares = spread.shares();
        assert_eq!((shares.positives, shares.negatives), (1, 2));
        assert!((shares.positive_share - 1.0 / (1.0 + 3.0)).abs() < 1e-6);
    }

    #[test]
    fn the_hardest_of_a_hundred_negatives_carries_what_the_formula_says() {
        for (place, gamma) in GAMMAS.into_iter().enumerate() {
            let mut spread = spread(&ClassLossConfig::default());
            for _ in 0..99 {
                spread.add(&[-2.0], &[AnchorLabel::Background]);
            }
            spread.add(&[3.0], &[AnchorLabel::Background]);
            let p = |logit: f64| 1.0 / (1.0 + (-logit).exp());
            let loss = |logit: f64| -p(logit).powf(gamma) * (1.0 - p(logit)).ln();
            let easy = 99.0 * loss(-2.0) / (99.0 * loss(-2.0) + loss(3.0));
            let curves = &spread.shares().curves[place];
            assert_eq!(curves.gamma, gamma);
            let [x, y] = curves.negatives[1];
            assert!((x - 0.99).abs() < 1e-9);
            assert!((y - easy).abs() < 1e-5, "{y}, not {easy}");
            assert_eq!(curves.negatives[0], [0.0, 0.0]);
            assert_eq!(curves.negatives.last(), Some(&[1.0, 1.0]));
            assert!(
                curves
                    .negatives
                    .is_sorted_by(|a, b| a[0] < b[0] && a[1] <= b[1])
            );
            assert!(curves.positives.is_empty());
        }
    }

    #[test]
    fn the_few_hard_ones_are_not_jumped_over() {
        let mut spread = spread(&ClassLossConfig::default());
        let logits: Vec<f32> = (0..200_000)
            .map(|place| {
                if place < 20 {
                    place as f32
                } else {
                    -4.0 - 1e-6 * place as f32
                }
            })
            .collect();
        spread.add(&logits, &vec![AnchorLabel::Background; logits.len()]);
        let curve = &spread.shares().curves[3].negatives;
        assert!(curve.len() < 250, "{}", curve.len());
        let hard = curve.iter().filter(|point| point[0] > 0.9999).count();
        assert!(hard > 10, "{hard}");
    }

    #[test]
    fn nothing_has_no_shares() {
        let mut spread = spread(&ClassLossConfig::default());
        spread.add(&[], &[]);
        spread.add(&[f32::NAN], &[AnchorLabel::Background]);
        let shares = spread.shares();
        assert_eq!(shares.positive_share, 0.0);
        assert!(
            shares
                .curves
                .iter()
                .all(|curves| curves.negatives.is_empty())
        );
    }
}
