//! Weight files of any format as named tensors.

use std::collections::{BTreeMap, HashMap};
use std::iter;
use std::path::Path;

use burn::store::burn_pack;
use burn::tensor::{Bytes, DType, TensorData, f16};
use pytorch_reader::PytorchReader;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::weights::error::WeightsError;

/// Key of the classes, as JSON, in a weight file's metadata.
pub(crate) const CLASSES_KEY: &str = "retinanet.classes";

/// What follows the name of whole weights in the name of their scales, one for each output.
pub(crate) const SCALE: &str = ".scale";

/// What a weight file holds.
#[derive(Debug, Default)]
pub(crate) struct WeightFile {
    /// The tensors of numbers, in single precision, by name.
    pub(crate) tensors: BTreeMap<String, TensorData>,
    /// What else it tells.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// The formats that weights can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WeightFormat {
    /// Hugging Face's, which most programs read.
    Safetensors,
    /// Burn's own.
    Burnpack,
}

impl WeightFile {
    /// Reads a file of safetensors, burnpack or PyTorch, whichever its content says it is.
    pub(crate) fn read(path: &Path) -> Result<Self, WeightsError> {
        let bytes = retinanet_files::read(path).map_err(|error| failed(path, &error))?;
        if bytes.starts_with(&burn_pack::MAGIC_NUMBER.to_le_bytes()) {
            return Self::from_burnpack(bytes).map_err(|error| failed(path, &error));
        }
        // A length of 8 bytes, then JSON.
        if bytes.get(8) == Some(&b'{') {
            return Self::from_safetensors(&bytes).map_err(|error| failed(path, &error));
        }
        let length = bytes.len();
        drop(bytes);
        Self::from_pytorch(path, length)
    }

    pub(crate) fn from_safetensors(bytes: &[u8]) -> Result<Self, safetensors::SafeTensorError> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let tensors = SafeTensors::deserialize(bytes)?;
        let tensors = tensors.iter().filter_map(|(name, view)| {
            let dtype = match view.dtype() {
                Dtype::F64 => DType::F64,
                Dtype::F32 => DType::F32,
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::BF16,
                Dtype::I8 => {
                    let whole = view.data().to_vec();
                    let whole = TensorData::from_bytes_vec(whole, view.shape(), DType::I8);
                    return Some((name.to_owned(), whole));
                }
                _ => return None,
            };
            let values = numbers(view.data().to_vec(), view.shape(), dtype);
            Some((name.to_owned(), values))
        });
        let mut file = Self {
            tensors: tensors.collect(),
            metadata: header
                .metadata()
                .clone()
                .unwrap_or_default()
                .into_iter()
                .collect(),
        };
        file.restore();
        Ok(file)
    }

    /// Dequantises whole numbers; those without scales are left out.
    pub(crate) fn restore(&mut self) {
        let is_whole = |data: &TensorData| data.dtype() == DType::I8;
        let whole: Vec<_> = (self.tensors.extract_if(.., |_, data| is_whole(data))).collect();
        for (name, data) in whole {
            let Some(scales) = self.tensors.remove(&format!("{name}{SCALE}")) else {
                continue;
            };
            let shape = data.shape().to_vec();
            let each = shape.iter().skip(1).product::<usize>().max(1);
            let scales: Vec<f32> = scales.iter().collect();
            if scales.len() * each == data.num_elements() {
                let scales = scales
                    .into_iter()
                    .flat_map(|scale| iter::repeat_n(scale, each));
                let values = data.iter::<i8>().zip(scales);
                let values: Vec<f32> = values.map(|(it, scale)| f32::from(it) * scale).collect();
                self.tensors.insert(name, TensorData::new(values, shape));
            }
        }
    }

    fn from_burnpack(bytes: Vec<u8>) -> Result<Self, burn_pack::Error> {
        let reader = burn_pack::Reader::from_bytes(Bytes::from_bytes_vec(bytes))?;
        let metadata = reader.metadata().clone();
        let mut tensors = BTreeMap::new();
        for tensor in reader.into_tensors()? {
            let (name, dtype, shape, _, bytes) = tensor.into_parts()?;
            if dtype.is_float() {
                let data = TensorData::from_bytes(bytes, shape, dtype);
                tensors.insert(name, data.convert::<f32>());
            }
        }
        Ok(Self { tensors, metadata })
    }

    /// Reads a file of so many bytes.
    fn from_pytorch(path: &Path, length: usize) -> Result<Self, WeightsError> {
        let reader = PytorchReader::new(path).map_err(|error| failed(path, &error))?;
        let claimed = (reader.tensors().values()).map(|tensor| {
            let elements = tensor
                .shape()
                .iter()
                .try_fold(1_usize, |product, side| product.checked_mul(*side));
            elements.map_or(usize::MAX, |elements| {
                elements.saturating_mul(tensor.dtype().size())
            })
        });
        let claimed = claimed.fold(0, usize::saturating_add);
        if claimed > MOST_UNPACKED * (length + SMALL_FILE) {
            let reason = format!(
                "it claims tensors of {claimed} bytes and has {length}: views that repeat values, or packed ones"
            );
            return Err(failed(path, &reason));
        }
        let mut tensors = BTreeMap::new();
        for (name, tensor) in reader.into_tensors() {
            let dtype = match tensor.dtype() {
                pytorch_reader::DType::F64 => DType::F64,
                pytorch_reader::DType::F32 => DType::F32,
                pytorch_reader::DType::F16 => DType::F16,
                pytorch_reader::DType::BF16 => DType::BF16,
                _ => continue,
            };
            let bytes = tensor.read().map_err(|error| failed(path, &error))?;
            tensors.insert(name, numbers(bytes, tensor.shape(), dtype));
        }
        Ok(Self {
            tensors: unwrapped(tensors),
            metadata: BTreeMap::new(),
        })
    }

    /// Turns all numbers into half precision, unless one of them has no place there.
    pub(crate) fn halve(&mut self, path: &Path) -> Result<(), WeightsError> {
        for (name, data) in &mut self.tensors {
            let half = data.clone().convert::<f16>();
            if half.iter::<f32>().any(|value| !value.is_finite()) {
                return Err(WeightsError::Write {
                    path: path.to_owned(),
                    reason: format!("`{name}` has values that half precision has no place for"),
                });
            }
            *data = half;
        }
        Ok(())
    }

    /// Writes the file, or leaves what is there.
    pub(crate) fn write(&self, path: &Path, format: WeightFormat) -> Result<(), WeightsError> {
        let bytes = match format {
            WeightFormat::Safetensors => self.to_safetensors(),
            WeightFormat::Burnpack => self.to_burnpack(),
        };
        let reason = match bytes {
            Ok(bytes) => match retinanet_files::write(path, bytes) {
                Ok(()) => return Ok(()),
                Err(error) => error.to_string(),
            },
            Err(reason) => reason,
        };
        Err(WeightsError::Write {
            path: path.to_owned(),
            reason,
        })
    }

    pub(crate) fn to_safetensors(&self) -> Result<Vec<u8>, String> {
        let views = self.tensors.iter().map(|(name, data)| {
            let dtype = match data.dtype() {
                DType::I64 => Dtype::I64,
                DType::F16 => Dtype::F16,
                DType::I8 => Dtype::I8,
                _ => Dtype::F32,
            };
            TensorView::new(dtype, data.shape().to_vec(), data.as_bytes())
                .map(|view| (name, view))
                .map_err(|error| error.to_string())
        });
        let views: Vec<_> = views.collect::<Result<_, _>>()?;
        let metadata: HashMap<_, _> = self.metadata.clone().into_iter().collect();
        safetensors::serialize(views, Some(metadata)).map_err(|error| error.to_string())
    }

    fn to_burnpack(&self) -> Result<Vec<u8>, String> {
        let tensors = self
            .tensors
            .iter()
            .map(|(name, data)| burn::store::bridge::from_data(data.clone(), name.clone(), None));
        let mut writer = burn_pack::Writer::new(tensors.collect());
        for (key, value) in &self.metadata {
            writer = writer.with_metadata(key, value);
        }
        let bytes = writer.into_bytes().map_err(|error| error.to_string())?;
        Ok(bytes.to_vec())
    }
}

/// Without the dictionaries around it: training scripts save `{"model": weights, "optimizer": …}`.
fn unwrapped(tensors: BTreeMap<String, TensorData>) -> BTreeMap<String, TensorData> {
    let wrapping = ["model.", "state_dict.", "module."];
    let wrapped = wrapping
        .into_iter()
        .find(|prefix| tensors.keys().any(|name| name.starts_with(prefix)));
    let Some(prefix) = wrapped else {
        return tensors;
    };
    let inner = tensors.into_iter().filter_map(|(name, data)| {
        let name = name.strip_prefix(prefix)?.to_owned();
        Some((name, data))
    });
    unwrapped(inner.collect())
}

/// How many times larger a PyTorch file's tensors may be than the file. `torch.save` packs nothing; only
/// views that share values make a file smaller than its tensors.
const MOST_UNPACKED: usize = 4;

/// What counts to the size of a file that is hardly more than its names.
const SMALL_FILE: usize = 1 << 20;

fn numbers(bytes: Vec<u8>, shape: &[usize], dtype: DType) -> TensorData {
    TensorData::from_bytes_vec(bytes, shape.to_vec(), dtype).convert::<f32>()
}

fn failed(path: &Path, reason: &impl ToString) -> WeightsError {
    WeightsError::Read {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
