//! Puts the tensors of a weight file into a model, all of a part or nothing of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use burn::store::burn_pack::Tensor as PackTensor;
use burn::store::{ModuleSnapshot, bridge};
use burn::tensor::TensorData;
use retinanet_boxes::ClassList;

use crate::model::RetinaNet;
use crate::numbers::faulty_number;
use crate::weights::error::WeightsError;
use crate::weights::file::{CLASSES_KEY, WeightFile};
use crate::weights::names::{Layout, Names, layout, modern_torchvision};

/// The backbone's last stage.
pub(crate) const C5: &str = "backbone.layer4";

/// Parts of the model that a file may leave out as a whole, and what they are called.
const PARTS: [(&str, &str); 7] = [
    (C5, "C5"),
    ("pyramid", "pyramid"),
    ("pyramid.bottom_up", "path up the pyramid"),
    ("class_subnet", "class_subnet"),
    ("class_subnet.output", "class output"),
    ("box_subnet", "box_subnet"),
    ("box_subnet.scales", "factors of levels"),
];

/// Layers that give each anchor of a cell its values, and what they are called.
const OUTPUTS: [(&str, &str); 2] = [
    ("class_subnet.output", "class output"),
    ("box_subnet.output", "box output"),
];

/// Whether a parameter is of a part.
fn is_of(part: &str, parameter: &str) -> bool {
    let rest = parameter.strip_prefix(part);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// What a classifier and a program's own bookkeeping leave in a file that a detector does not need.
const HARMLESS: [&str; 6] = [
    "anchor_generator.",
    "fc.",
    "head.anchor_generator.",
    "pixel_mean",
    "pixel_std",
    "stem.fc.",
];

/// What was taken from a weight file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedWeights {
    /// Whose names the file has.
    pub names: Names,
    /// How many tensors were taken.
    pub tensors: usize,
    /// What starts afresh, in words.
    pub fresh: Vec<String>,
    /// The classes that the file's class output tells apart, if that was taken and the file says so.
    pub classes: Option<ClassList>,
    /// Tensors of the file that nothing needs.
    pub left_over: Vec<String>,
}

impl LoadedWeights {
    /// Whether the backbone's last stage starts afresh.
    pub fn lacks_c5(&self) -> bool {
        self.fresh
            .iter()
            .any(|it| it.starts_with("the file has no C5,"))
    }
}

impl fmt::Display for LoadedWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors, {}", self.tensors, self.names.describe())?;
        for fresh in &self.fresh {
            write!(f, "; {fresh}")?;
        }
        if !self.left_over.is_empty() {
            write!(f, "; left over: {}", self.left_over.join(", "))?;
        }
        Ok(())
    }
}

/// Loads a file that has all of the model.
///
/// # Errors
///
/// Returns an error that lists what is missing, left over or of another shape; the model stays as
/// it was.
pub fn load_weights(model: &mut RetinaNet, path: &Path) -> Result<LoadedWeights, WeightsError> {
    let file = WeightFile::read(path)?;
    load(model, file, path, false)
}

/// Loads what training starts from: a whole detector or the backbone alone. Where the file's
/// number of classes is another, the class output starts afresh, and where the anchors of a cell or
/// what is predicted of a box are others, the outputs that have them.
///
/// # Errors
///
/// As [`load_weights`]; only C5, pyramid and heads may be missing, each as a whole.
pub fn load_pretrained(model: &mut RetinaNet, path: &Path) -> Result<LoadedWeights, WeightsError> {
    let mut file = WeightFile::read(path)?;
    file.tensors = without_variants(file.tensors);
    load(model, file, path, true)
}

/// The tensors of a checkpoint under the names of a weight file: a record names the variant of every enum on the way, as
/// in `backbone.ResNet.norm1.BatchNorm.gamma`, and fields begin with a small letter.
fn without_variants(tensors: BTreeMap<String, TensorData>) -> BTreeMap<String, TensorData> {
    let named = tensors.into_iter().map(|(name, data)| {
        let fields = name
            .split('.')
            .filter(|part| !part.starts_with(char::is_uppercase));
        (fields.collect::<Vec<_>>().join("."), data)
    });
    named.collect()
}

/// Puts a file's tensors into a model. `partly`: a part of the model may be missing as a whole.
pub(crate) fn load(
    model: &mut RetinaNet,
    file: WeightFile,
    path: &Path,
    partly: bool,
) -> Result<LoadedWeights, WeightsError> {
    let names = file.names(path)?;
    let classes = file.metadata.get(CLASSES_KEY);
    let classes = classes.and_then(|text| serde_json::from_str(text).ok());
    let mut tensors = file.tensors;
    if names == Names::Torchvision {
        let renamed = tensors.into_iter();
        tensors = renamed
            .map(|(name, data)| (modern_torchvision(&name), data))
            .collect();
    }
    let mut fit = Fit::new(model, names, tensors);
    fit.take_all(model.classes());
    let mut loaded = fit.outcome(path, partly, model.classes())?;
    let takes_output = |tensor: &PackTensor| tensor.name.starts_with("class_subnet.output.");
    loaded.classes = classes.filter(|_| fit.taken.iter().any(takes_output));
    let result = model.apply(fit.taken, None, None, true);
    // Names and shapes fit, so nothing is left that could fail but a broken invariant.
    let mut faults: Vec<String> = result.errors.iter().map(ToString::to_string).collect();
    faults.extend(
        result
            .unused
            .iter()
            .map(|name| format!("`{name}` is unused")),
    );
    if let Some(reason) = faulty_number(model) {
        return Err(WeightsError::Read {
            path: path.to_owned(),
            reason,
        });
    }
    if faults.is_empty() {
        Ok(loaded)
    } else {
        Err(WeightsError::Fit {
            path: path.to_owned(),
            faults,
        })
    }
}

/// A file held against a model.
struct Fit {
    names: Names,
    layout: Layout,
    /// The model's parameters.
    wanted: Vec<PackTensor>,
    /// The file's tensors that are not taken yet.
    file: BTreeMap<String, TensorData>,
    /// The file's tensors under the model's names.
    taken: Vec<PackTensor>,
    /// The model's parameters that the file does not have, and what they would be called.
    missing: Vec<(String, String)>,
    /// Sentences about shapes.
    faults: Vec<String>,
    /// Classes of the file, where they are not the model's, and sentences about shapes.
    other_classes: Option<(usize, Vec<String>)>,
    /// Outputs that have other values, and sentences about their shapes.
    other_outputs: BTreeMap<&'static str, Vec<String>>,
}

impl Fit {
    fn new(model: &RetinaNet, names: Names, file: BTreeMap<String, TensorData>) -> Self {
        let wanted = model.collect(None, None, true);
        Self {
            names,
            layout: layout(&wanted),
            wanted,
            file,
            taken: Vec::new(),
            missing: Vec::new(),
            faults: Vec::new(),
            other_classes: None,
            other_outputs: BTreeMap::new(),
        }
    }

    fn take_all(&mut self, classes: usize) {
        for parameter in std::mem::take(&mut self.wanted) {
            let name = self.names.of(&parameter.name, self.layout);
            let found = name.as_ref().and_then(|name| self.file.remove(name));
            let name = name.unwrap_or_else(|| parameter.name.clone());
            let Some(data) = found else {
                self.missing.push((parameter.name, name));
                continue;
            };
            let (wanted, found) = (parameter.shape.to_vec(), data.shape().to_vec());
            if found == wanted {
                let taken = bridge::from_data(data, parameter.name, None);
                self.taken.push(taken);
                continue;
            }
            let fault = format!("`{name}` is {found:?} and the model's {wanted:?}");
            let output = OUTPUTS.into_iter();
            let output = (output.filter(|_| found.get(1..) == wanted.get(1..)))
                .find(|(output, _)| is_of(output, &parameter.name));
            match (output, &found[..], &wanted[..]) {
                (Some(("class_subnet.output", _)), [found, ..], [wanted, ..])
                    if found.saturating_mul(classes).is_multiple_of(*wanted) =>
                {
                    let classes = found.saturating_mul(classes) / wanted;
                    self.other_classes
                        .get_or_insert((classes, Vec::new()))
                        .1
                        .push(fault);
                }
                (Some((_, called)), ..) => {
                    self.other_outputs.entry(called).or_default().push(fault);
                }
                (None, ..) => self.faults.push(fault),
            }
        }
    }

    /// What to tell of it, or why it does not fit.
    fn outcome(
        &mut self,
        path: &Path,
        partly: bool,
        classes: usize,
    ) -> Result<LoadedWeights, WeightsError> {
        let mut fresh = Vec::new();
        if partly {
            for (part, called) in PARTS {
                let is_missing = self.missing.iter().any(|(native, _)| is_of(part, native));
                if is_missing && !self.taken.iter().any(|tensor| is_of(part, &tensor.name)) {
                    self.missing.retain(|(native, _)| !is_of(part, native));
                    fresh.push(format!("the file has no {called}, which starts afresh"));
                }
            }
        }
        if !self.other_outputs.is_empty()
            && let Some((_, faults)) = self.other_classes.take()
        {
            // With other anchors nothing tells how many classes there are.
            self.other_outputs.insert("class output", faults);
        }
        if let Some((file, _)) = self.other_classes {
            if !partly {
                return Err(WeightsError::Classes {
                    path: path.to_owned(),
                    file,
                    model: classes,
                });
            }
            fresh.push(format!(
                "the file tells {file} classes apart and the model {classes}, so the class output \
                 starts afresh"
            ));
        }
        for (called, faults) in std::mem::take(&mut self.other_outputs) {
            if partly {
                fresh.push(format!(
                    "the file's {called} has other values for a cell's anchors, so it starts afresh"
                ));
            } else {
                self.faults.extend(faults);
            }
        }
        let (left_over, unknown): (Vec<_>, Vec<_>) = std::mem::take(&mut self.file)
            .into_keys()
            .filter(|name| !name.ends_with("num_batches_tracked"))
            .partition(|name| HARMLESS.iter().any(|prefix| name.starts_with(prefix)));
        let mut faults = std::mem::take(&mut self.faults);
        let missing = self.missing.iter();
        faults.extend(missing.map(|(_, name)| format!("`{name}` is missing")));
        faults.extend(unknown.iter().map(|name| format!("`{name}` is left over")));
        if !faults.is_empty() {
            return Err(WeightsError::Fit {
                path: path.to_owned(),
                faults,
            });
        }
        Ok(LoadedWeights {
            names: self.names,
            tensors: self.taken.len(),
            fresh,
            classes: None,
            left_over,
        })
    }
}

impl WeightFile {
    /// Whose names the file has.
    pub(crate) fn names(&self, path: &Path) -> Result<Names, WeightsError> {
        if self.tensors.is_empty() {
            return Err(WeightsError::Empty {
                path: path.to_owned(),
            });
        }
        Names::recognize(self.tensors.keys().map(String::as_str)).ok_or_else(|| {
            let first: Vec<&str> = self.tensors.keys().take(3).map(String::as_str).collect();
            WeightsError::UnknownNames {
                path: path.to_owned(),
                tensors: self.tensors.len(),
                first: first.join("`, `"),
            }
        })
    }
}
