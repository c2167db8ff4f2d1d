use burn::tensor::Distribution;
use retinanet_anchors::{PyramidAnchors, TaskAlignedConfig};
use retinanet_boxes::{AnchorLabel, BoundingBox, ClassId, PositiveAnchor};

use std::sync::Arc;

use burn::tensor::{Device, TensorData};

use super::*;
use crate::class_loss::{QualityFocalConfig, VarifocalConfig};
use crate::iou_loss::IouLoss;

fn positive(anchor: usize, class: u32, deltas: [f32; 4]) -> PositiveAnchor {
    let unit = BoundingBox::new(0.0, 0.0, 1.0, 1.0);
    PositiveAnchor {
        anchor_box: unit,
        object_box: unit,
        anchor,
        class: ClassId(class),
        object: 0,
        deltas,
        quality: None,
    }
}

/// Two images of three anchors: one positive, one ignored and one background; then all
/// background.
fn images() -> Vec<AnchorTargets> {
    vec![
        AnchorTargets {
            labels: vec![
                AnchorLabel::Object(ClassId(1)),
                AnchorLabel::Ignored,
                AnchorLabel::Background,
            ],
            positives: vec![positive(0, 1, [0.5, -0.5, 0.0, 1.0])],
            objects: Vec::new(),
        },
        AnchorTargets::background(3),
    ]
}

fn batch(images: Vec<AnchorTargets>, device: &Device) -> BatchTargets {
    let unit = BoundingBox::new(0.0, 0.0, 1.0, 1.0);
    let anchors = PyramidAnchors::new([vec![unit; 2], vec![unit; 1]]);
    BatchTargets::new(images, Arc::new(anchors), device)
}

fn forward(
    criterion: &mut Criterion,
    logits: Tensor<3>,
    deltas: Tensor<3>,
    targets: &BatchTargets,
) -> Loss {
    let weights = criterion.weights(&targets.positives_per_image());
    criterion.forward(logits, deltas, targets, LossOptions::new(&weights))
}

fn criterion(normalizer: NormalizerKind) -> Criterion {
    let config = CriterionConfig {
        normalizer,
        ..CriterionConfig::default()
    };
    config.init(PredictionForm::default()).unwrap()
}

fn scalar(tensor: Tensor<1>) -> f32 {
    tensor.into_scalar::<f32>()
}

#[test]
fn parts_are_sums_over_counted_anchors_and_positives() {
    let device = Device::flex();
    let targets = batch(images(), &device);
    // All logits 0: every element costs α_t (1/2)² ln 2, α_t = 1/4 or 3/4. Of the 5 counted
    // anchors with 2 classes, 1 element is positive and 9 are negative.
    let element = 0.25_f32 * std::f32::consts::LN_2;
    let expected_class = element * (0.25 + 9.0 * 0.75);
    let logits = Tensor::zeros([2, 3, 2], &device);
    let deltas = Tensor::zeros([2, 3, 4], &device);

    let parts = forward(
        &mut criterion(NormalizerKind::Batch),
        logits.clone(),
        deltas.clone(),
        &targets,
    );
    assert!((scalar(parts.class) - expected_class).abs() < 1e-6);
    assert_eq!(scalar(parts.bbox), 2.0);

    // By image: both divide by 1, and the mean halves.
    let parts = forward(
        &mut criterion(NormalizerKind::Image),
        logits,
        deltas,
        &targets,
    );
    assert!((scalar(parts.class.clone()) - 0.5 * expected_class).abs() < 1e-6);
    assert_eq!(scalar(parts.bbox.clone()), 1.0);
    assert_eq!(scalar(parts.total()), scalar(parts.class) + 1.0);
}

/// Beside the loss of every element as it is defined, with the one positive's overlap for a target.
#[test]
fn soft_targets_are_the_overlaps_of_predicted_boxes() {
    let device = Device::flex();
    let targets = batch(images(), &device);
    let numbers: Vec<f32> = (0..12).map(|it| (it as f32 * 0.7).sin() * 2.0).collect();
    let logits = Tensor::<3>::from_data(TensorData::new(numbers, [2, 3, 2]), &device);
    let deltas = Tensor::<3>::full([2, 3, 4], 0.1, &device);
    for class in [
        ClassLossConfig::QualityFocal(QualityFocalConfig::default()),
        ClassLossConfig::Varifocal(VarifocalConfig::default()),
    ] {
        let config = CriterionConfig {
            class,
            normalizer: NormalizerKind::Batch,
            ..CriterionConfig::default()
        };
        let criterion = config.init(PredictionForm::default()).unwrap();
        let ClassLoss::Quality(loss) = criterion.class() else {
            panic!("{config:?}")
        };
        let positives = targets.on_device().positives.clone().unwrap();
        let predicted = Tensor::<2>::full([1, 4], 0.1, &device);
        let coder = PredictionForm::default().coder;
        let quality = scalar(IouLoss::overlaps(coder, predicted, &positives));
        assert!(quality > 0.05 && quality < 0.95, "{quality}");
        let mut wanted = [0.0; 12];
        let mut counted = [1.0; 12];
        for (image, of_image) in targets.images().iter().enumerate() {
            for (anchor, label) in of_image.labels.iter().enumerate() {
                let first = (image * 3 + anchor) * 2;
                match label {
                    AnchorLabel::Object(class) => wanted[first + class.index()] = quality,
                    AnchorLabel::Ignored => counted[first..first + 2].fill(0.0),
                    AnchorLabel::Background => {}
                }
            }
        }
        let tensor = |values: [f32; 12]| {
            Tensor::<3>::from_data(TensorData::new(values.to_vec(), [2, 3, 2]), &device)
        };
        let expected = loss.forward(logits.clone(), tensor(wanted)) * tensor(counted);
        let expected = expected.sum().into_scalar::<f32>();
        let (logits, deltas) = (logits.clone(), deltas.clone());
        let weights = [1.0, 1.0];
        let options = LossOptions {
            by_level: true,
            ..LossOptions::new(&weights)
        };
        let told = criterion.forward(logits, deltas, &targets, options);
        let levels: f32 = told
            .levels
            .into_iter()
            .map(|[class, _]| scalar(class))
            .sum();
        for found in [scalar(told.class), levels] {
            assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
        }
    }
}

#[test]
fn what_goes_by_predictions_wants_soft_targets_and_weighs_boxes_itself() {
    let refused = |class: ClassLossConfig, weigh_by| {
        let mut config = CriterionConfig {
            class,
            ..CriterionConfig::default()
        };
        config.assigner.kind = AssignerKind::TaskAligned(TaskAlignedConfig::default());
        config.bbox.weigh_by = weigh_by;
        let criterion = config.init(PredictionForm::default());
        criterion.err().map(|error| error.to_string())
    };
    let soft = || ClassLossConfig::Varifocal(VarifocalConfig::default());
    assert_eq!(refused(soft(), BoxWeighting::Equal), None);
    for (class, weigh_by, reason) in [
        (
            ClassLossConfig::default(),
            BoxWeighting::Equal,
            "soft targets",
        ),
        (soft(), BoxWeighting::Overlap, "weighted already"),
    ] {
        let error = refused(class, weigh_by).unwrap();
        assert!(error.starts_with("`assigner.kind`"), "{error}");
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_softmax_has_one_term_for_each_counted_anchor() {
    let device = Device::flex();
    let targets = batch(images(), &device);
    let config = CriterionConfig {
        normalizer: NormalizerKind::Image,
        ..CriterionConfig::default()
    };
    let class_loss = |ignored_logit: f32| {
        let mut logits = vec![0.0_f32; 12];
        logits[2] = ignored_logit;
        let logits = Tensor::<3>::from_data(TensorData::new(logits, [2, 3, 2]), &device);
        let deltas = Tensor::zeros([2, 3, 4], &device);
        let softmax = PredictionForm {
            softmax: true,
            ..PredictionForm::default()
        };
        let mut criterion = config.init(softmax).unwrap();
        scalar(forward(&mut criterion, logits, deltas, &targets).class)
    };
    // All logits 0: p_t is a third. One object and four times background are counted, and the
    // mean over images halves.
    let anchor = (2.0_f32 / 3.0).powi(2) * 3.0_f32.ln();
    let expected = 0.5 * anchor * (0.25 + 4.0 * 0.75);
    assert!((class_loss(0.0) - expected).abs() < 1e-6);
    assert_eq!(class_loss(50.0), class_loss(0.0));
}

#[test]
fn ignored_anchors_have_neither_loss_nor_gradient() {
    let device = Device::flex().autodiff();
    let targets = batch(images(), &device);
    let run = |ignored_logit: f32| {
        let mut values = vec![0.3_f32; 12];
        values[2] = ignored_logit;
        values[3] = -ignored_logit;
        let logits =
            Tensor::<3>::from_data(TensorData::new(values, [2, 3, 2]), &device).require_grad();
        let deltas = Tensor::<3>::zeros([2, 3, 4], &device).require_grad();
        let parts = forward(
            &mut criterion(NormalizerKind::Batch),
            logits.clone(),
            deltas.clone(),
            &targets,
        );
        let total = parts.total();
        let gradients = total.backward();
        let values = |tensor: &Tensor<3>| -> Vec<f32> {
            tensor
                .grad(&gradients)
                .unwrap()
                .into_data()
                .try_to_vec()
                .unwrap()
        };
        (scalar(total), values(&logits), values(&deltas))
    };
    let (loss, of_logits, of_deltas) = run(0.3);
    assert_eq!(run(50.0).0, loss);
    assert_eq!(of_logits[2..4], [0.0, 0.0]);
    assert!(
        of_logits[..2]
            .iter()
            .chain(&of_logits[4..])
            .all(|g| *g != 0.0)
    );
    assert_eq!(of_deltas[..4], [-1.0, 1.0, 0.0, -1.0]);
    assert!(of_deltas[4..].iter().all(|gradient| *gradient == 0.0));
}

#[test]
fn a_batch_without_objects_has_a_class_loss_and_a_box_loss_of_zero() {
    let device = Device::flex().autodiff();
    let targets = batch(images().split_off(1), &device);
    let logits = Tensor::<3>::zeros([1, 3, 2], &device).require_grad();
    let deltas = Tensor::<3>::random([1, 3, 4], Distribution::Default, &device).require_grad();
    let parts = forward(
        &mut criterion(NormalizerKind::MovingAverage),
        logits,
        deltas.clone(),
        &targets,
    );
    assert!(scalar(parts.class.clone()) > 0.0);
    assert_eq!(scalar(parts.bbox.clone()), 0.0);
    let gradients = parts.total().backward();
    let gradient = deltas.grad(&gradients).unwrap().abs().sum();
    assert_eq!(gradient.into_scalar::<f32>(), 0.0);
}

/// The sum over the levels is the loss, whether all anchors count or a sample of them.
#[test]
fn levels_sum_to_the_loss() {
    let device = Device::flex();
    let targets = batch(images(), &device);
    let random = SamplingConfig::Random(crate::RandomConfig {
        negatives_per_positive: retinanet_settings::Positive::literal(1.0),
    });
    for sampling in [SamplingConfig::default(), random] {
        let config = CriterionConfig {
            sampling,
            ..CriterionConfig::default()
        };
        let criterion = config.init(PredictionForm::default()).unwrap();
        let random = |classes| Tensor::random([2, 3, classes], Distribution::Default, &device);
        let options = LossOptions {
            seed: 3,
            by_level: true,
            ..LossOptions::new(&[0.5, 0.25])
        };
        let loss = criterion.forward(random(2), random(4), &targets, options);
        assert_eq!(loss.levels.len(), 2);
        let value = |loss: &Tensor<1>| f64::from(loss.clone().into_scalar::<f32>());
        let sum = |part: usize| {
            loss.levels
                .iter()
                .map(|level| value(&level[part]))
                .sum::<f64>()
        };
        for (part, whole) in [(0, loss.class.clone()), (1, loss.bbox.clone())] {
            let whole = f64::from(scalar(whole));
            assert!((sum(part) - whole).abs() <= 1e-6 * whole.abs(), "{loss:?}");
        }
    }
}
