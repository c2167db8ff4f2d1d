//! COCO's instances files as they are found in the world: the one reader for training, evaluation,
//! checks and conversion.
//!
//! What detection needs is read in every form that tools write it in (`7.0` for 7, `null` for an
//! `iscrowd` of 0, `"638"` for an area); what it does not need is passed over, whatever it is. What
//! cannot be understood stays in its record as a fault, so that one caller can list all of them and
//! another stop at the first.

mod error;
mod fields;
mod file;
mod hotcoco;
mod record;
mod results;

pub use error::AnnotationsError;
pub use file::{CocoFile, Faults, List, read_json};
pub use record::{Annotation, Category, Image, Masks, RawBox, shown, whole_number};
pub use results::{ResultRecord, read_results};
