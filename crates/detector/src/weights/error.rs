use std::path::PathBuf;

/// A weight file cannot be written or read, or does not fit the model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file cannot be written.
    #[error("cannot write the weights to `{}`: {reason}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The file cannot be read.
    #[error("cannot read weights from `{}`: {reason}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The file's class output is for another number of classes.
    #[error(
        "the weights in `{}` are for {file} classes, the model tells {model} apart",
        path.display()
    )]
    Classes {
        /// Which file.
        path: PathBuf,
        /// Classes of the file.
        file: usize,
        /// Classes of the model.
        model: usize,
    },
    /// The file's class output fits no number of classes.
    #[error(
        "the weights in `{}` give {logits} logits a cell, which {anchors_per_cell} anchors a cell \
         do not divide; is `anchors` right?",
        path.display()
    )]
    Anchors {
        /// Which file.
        path: PathBuf,
        /// Logits of a cell.
        logits: usize,
        /// Anchors of a cell, as the config says.
        anchors_per_cell: usize,
    },
    /// The file holds no tensor.
    #[error(
        "`{}` holds no tensors; the pickled NumPy arrays of detectron2's zoo become a file that can be read \
         with `scripts/unpickle.py model.pkl model.safetensors`, which runs nothing that a pickle may hold",
        path.display()
    )]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// The names in the file are nobody's that this program knows.
    #[error(
        "the {tensors} tensors in `{}` have the names of no known program (`{first}`, …); known \
         are torchvision's, timm's and detectron2's ResNet and RetinaNet",
        path.display()
    )]
    UnknownNames {
        /// Which file.
        path: PathBuf,
        /// How many tensors it has.
        tensors: usize,
        /// The first names.
        first: String,
    },
    /// Tensors are missing, left over or of another shape.
    #[error(
        "the weights in `{}` do not fit the model in {} places, first: {}; is it the same config?",
        path.display(),
        faults.len(),
        faults.iter().take(10).map(String::as_str).collect::<Vec<_>>().join("; ")
    )]
    Fit {
        /// Which file.
        path: PathBuf,
        /// One sentence for each tensor at fault.
        faults: Vec<String>,
    },
}
