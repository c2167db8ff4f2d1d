//! Weights in few bytes: deflated safetensors, in which the weights of a convolution are whole numbers with a scale for
//! each output channel. `scripts/pack_weights.py` makes them.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::ZlibDecoder;
use half::f16;
use safetensors::tensor::{Dtype, SafeTensorError, TensorView};
use safetensors::{SafeTensors, serialize};

/// Why packed weights cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("they cannot be inflated")]
    Inflate(#[from] std::io::Error),
    #[error("they are no safetensors")]
    Tensors(#[from] SafeTensorError),
    #[error("`{0}` has no scales")]
    Scales(String),
}

/// The bytes of a safetensors file in half precision, of those of the tensors that are wanted.
pub(crate) fn unpack(
    packed: &[u8],
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = Vec::new();
    ZlibDecoder::new(packed).read_to_end(&mut bytes)?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let mut unpacked: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (name, tensor) in tensors.iter() {
        if !is_wanted(name) || name.strip_suffix(".scale").is_some() {
            continue;
        }
        let data = match tensor.dtype() {
            Dtype::I8 => {
                let scales = tensors.tensor(&format!("{name}.scale"));
                let scales = scales.map_err(|_| UnpackError::Scales(name.to_owned()))?;
                scaled(tensor.data(), scales.data())
                    .ok_or_else(|| UnpackError::Scales(name.to_owned()))?
            }
            _ => tensor.data().to_vec(),
        };
        unpacked.insert(name.to_owned(), (tensor.shape().to_vec(), data));
    }
    let views = unpacked
        .iter()
        .map(|(name, (shape, data))| Ok((name, TensorView::new(Dtype::F16, shape.clone(), data)?)));
    let views: Vec<_> = views.collect::<Result<_, SafeTensorError>>()?;
    Ok(serialize(views, None)?)
}

/// Whole numbers times the scale of their output channel, as many of them for each; nothing if they do not divide.
fn scaled(numbers: &[u8], scales: &[u8]) -> Option<Vec<u8>> {
    let (scales, []) = scales.as_chunks::<2>() else {
        return None;
    };
    let of_channel = numbers.len().checked_div(scales.len())?;
    if of_channel * scales.len() != numbers.len() {
        return None;
    }
    let channels = numbers.chunks_exact(of_channel.max(1)).zip(scales);
    let values = channels.flat_map(|(numbers, scale)| {
        let scale = f16::from_le_bytes(*scale).to_f32();
        let value = move |number: &u8| f16::from_f32(f32::from(number.cast_signed()) * scale);
        numbers
            .iter()
            .flat_map(move |number| value(number).to_le_bytes())
    });
    Some(values.collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    fn packed(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Vec<u8> {
        let views = tensors.iter().map(|(name, dtype, shape, data)| {
            (
                *name,
                TensorView::new(*dtype, shape.to_vec(), data).unwrap(),
            )
        });
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&serialize(views, None).unwrap()).unwrap();
        encoder.finish().unwrap()
    }

    fn halves(values: &[f32]) -> Vec<u8> {
        let halves = values.iter().map(|value| f16::from_f32(*value));
        halves.flat_map(f16::to_le_bytes).collect()
    }

    #[test]
    fn each_output_channel_has_its_scale() {
        let numbers = [1_i8, -2, 3, -4].map(i8::cast_unsigned).to_vec();
        let packed = packed(&[
            ("a.weight", Dtype::I8, &[2, 2, 1, 1], numbers),
            ("a.weight.scale", Dtype::F16, &[2], halves(&[0.5, 2.0])),
            ("b.gamma", Dtype::F16, &[1], halves(&[7.0])),
        ]);
        let unpacked = unpack(&packed, |name| name.starts_with("a.")).unwrap();
        let tensors = SafeTensors::deserialize(&unpacked).unwrap();
        assert_eq!(tensors.names(), ["a.weight"]);
        let weight = tensors.tensor("a.weight").unwrap();
        assert_eq!(weight.shape(), [2, 2, 1, 1]);
        assert_eq!(weight.data(), halves(&[0.5, -1.0, 6.0, -8.0]));
        let all = unpack(&packed, |_| true).unwrap();
        let all = SafeTensors::deserialize(&all).unwrap();
        assert_eq!(all.tensor("b.gamma").unwrap().data(), halves(&[7.0]));
    }

    #[test]
    fn what_is_not_packed_so_is_told() {
        let unscaled = packed(&[("a.weight", Dtype::I8, &[1], vec![1])]);
        let error = unpack(&unscaled, |_| true).unwrap_err();
        assert_eq!(error.to_string(), "`a.weight` has no scales");
        let none = packed(&[
            ("a.weight", Dtype::I8, &[3], vec![1, 2, 3]),
            ("a.weight.scale", Dtype::F16, &[2], halves(&[1.0, 1.0])),
        ]);
        assert!(unpack(&none, |_| true).is_err());
        assert!(unpack(b"nothing", |_| true).is_err());
        assert!(unpack(&packed(&[])[..4], |_| true).is_err());
    }
}
