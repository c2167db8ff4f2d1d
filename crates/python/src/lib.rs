//! The part in Rust of the Python module `retinanet`; `python/retinanet/__init__.py` is around it, and takes NumPy's arrays
//! apart so that this needs none.

mod detector;
mod errors;
mod process;
mod training;

use pyo3::prelude::*;

/// Detection and training, as `retinanet` wraps them.
#[pymodule]
mod _retinanet {
    #[pymodule_export]
    use crate::detector::Detector;
    #[pymodule_export]
    use crate::errors::RetinanetError;
    #[pymodule_export]
    use crate::training::train;
}
