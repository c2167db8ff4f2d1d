use std::path::Path;

use burn::tensor::Device;
use retinanet_detector::{Detector, DetectorError};

pub fn print_objects(run: &Path, photo: &Path) -> Result<(), DetectorError> {
    let detector = Detector::open(run, &Device::flex())?;
    for found in detector.detect_file(photo)? {
        let class = detector.classes().name(found.class);
        println!("{class} {:.2} {:?}", found.score, found.bbox);
    }
    Ok(())
}
