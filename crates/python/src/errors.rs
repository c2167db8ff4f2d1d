use std::error::Error;
use std::fmt::Write;

use pyo3::PyErr;
use pyo3::create_exception;
use pyo3::exceptions::PyException;

create_exception!(
    retinanet,
    RetinanetError,
    PyException,
    "What the library refused or could not do."
);

/// An error with all that led to it, as an exception.
pub(crate) fn raise(error: &dyn Error) -> PyErr {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // A transparent error says what its source says.
        let said = cause.to_string();
        if !text.ends_with(&said) {
            // Writing to a string does not fail.
            let _ = write!(text, ": {said}");
        }
        source = cause.source();
    }
    RetinanetError::new_err(text)
}
