use std::fmt;

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Training or evaluation would stop at it, or report something that is not true.
    Error,
    /// Training runs, perhaps on less or on worse data than its owner thinks.
    Warning,
    /// Worth knowing; nothing need be wrong.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// What can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// `images`, `annotations` or `categories` is missing or no list, or lists no image or category.
    MissingList,
    /// Training data without a box to learn.
    NothingToLearn,
    /// Validation data without a box to find.
    NothingToMeasure,
    /// A category that is another in the other split.
    OtherCategory,
    /// A record that is not an object, or a field that is missing or of the wrong type.
    MalformedRecord,
    /// An image's id is another's too.
    DuplicateImageId,
    /// An annotation's id is another's too.
    DuplicateAnnotationId,
    /// A category's id is another's too.
    DuplicateCategoryId,
    /// An annotation of an image that is not listed.
    UnknownImage,
    /// An annotation of a category that is not listed.
    UnknownCategory,
    /// An image whose width or height is missing, 0 or no whole number.
    MissingSize,
    /// An image without a file name.
    EmptyFileName,
    /// An image with the file name of another.
    RepeatedFileName,
    /// An image file that does not exist.
    MissingFile,
    /// An image file that cannot be read or decoded.
    UndecodableFile,
    /// An image file without its end.
    TruncatedFile,
    /// An image file of another size than the annotations say.
    SizeMismatch,
    /// The same, where the annotations have the size before the EXIF orientation is applied.
    RotatedSize,
    /// An image of 16 bits whose values lie at the dark end.
    DarkImage,
    /// An image that its EXIF orientation turns, whose size fits the boxes either way.
    TurnedImage,
    /// An image whose file is, byte for byte, in the other split too.
    SharedImage,
    /// An image whose file is, byte for byte, that of another image of the split.
    RepeatedImage,
    /// An annotation without a box.
    MissingBox,
    /// A box that is not four numbers.
    MalformedBox,
    /// A box with an edge that is infinite or not a number.
    NonFiniteBox,
    /// A box without area: a side is 0 or negative.
    DegenerateBox,
    /// A box wholly outside its image.
    OutsideBox,
    /// A box that reaches over its image's border by more than 0.1 pixels.
    PartlyOutsideBox,
    /// Boxes that seem to be `[x1, y1, x2, y2]` in place of `[x, y, width, height]`.
    CornerBox,
    /// Boxes of numbers between 0 and 1, as fractions of the image's sides.
    NormalisedBox,
    /// A box of the same image, category and numbers as an earlier one.
    RepeatedBox,
    /// An `area` that the box contradicts.
    AreaMismatch,
    /// Polygons whose bounds are more than 2 pixels off the box.
    PolygonMismatch,
    /// A box that no anchor overlaps enough, wherever the anchor lies.
    UnreachableBox,
    /// An id above 2⁵³.
    LargeId,
    /// An annotation with the id 0.
    ZeroId,
    /// An annotation without an id.
    MissingId,
    /// A category whose name is missing or blank.
    UnnamedCategory,
    /// A category with the name of another.
    RepeatedCategoryName,
    /// A category without annotations.
    UnusedCategory,
    /// An image without annotations.
    EmptyImage,
    /// An annotation of a crowd.
    Crowd,
}

impl Kind {
    /// How bad it is.
    pub const fn severity(self) -> Severity {
        self.about().severity
    }

    /// What it is, as a heading.
    pub const fn title(self) -> &'static str {
        self.about().title
    }

    /// What training will do about it.
    pub const fn consequence(self) -> &'static str {
        self.about().consequence
    }

    /// What to do.
    pub const fn advice(self) -> &'static str {
        self.about().advice
    }

    /// What the ids of the examples are ids of.
    pub(super) const fn subject(self) -> &'static str {
        self.about().subject
    }

    #[expect(clippy::too_many_lines, reason = "a table, one entry a kind")]
    const fn about(self) -> About {
        match self {
            Self::MissingList => error(
                "list",
                "lists that are missing, empty or no lists",
                "Training refuses the file.",
                "Check that this is a COCO instances file, and of the right split.",
            ),
            Self::NothingToLearn => error(
                "list",
                "training data without a box to learn",
                "There is nothing to learn from: the model would only learn to find nothing.",
                "Check that this is the right split, and that its boxes are not all crowds \
                 (`iscrowd`) or left out for a reason given below.",
            ),
            Self::NothingToMeasure => warning(
                "list",
                "validation data without a box to find",
                "AP is undefined: no checkpoint is the best, and the last is used.",
                "Check that this is the right split, and that its boxes are not all crowds \
                 (`iscrowd`).",
            ),
            Self::OtherCategory => error(
                "category",
                "categories that the training annotations do not have, or call otherwise",
                "Training refuses the pair of files: what is found could not be measured.",
                "Give both files the same ids and names; validation may lack some.",
            ),
            Self::MalformedRecord => error(
                "id",
                "records that are not as COCO writes them",
                "Training refuses the file.",
                "Correct the records; ids are whole numbers from 0, `iscrowd` is 0 or 1. The fix \
                 repairs numbers that are written as text.",
            ),
            Self::DuplicateImageId => error(
                "image",
                "image ids that occur twice",
                "Training refuses the file: whose annotations are whose?",
                "Give each image an id of its own, and its annotations that id.",
            ),
            Self::DuplicateAnnotationId => warning(
                "annotation",
                "annotation ids that occur twice",
                "Training does not mind; pycocotools forgets all but the last when evaluating.",
                "Number the annotations anew; the fix does.",
            ),
            Self::DuplicateCategoryId => error(
                "category",
                "category ids that occur twice",
                "Training and evaluation refuse the file.",
                "Give each category an id of its own, and its annotations that id.",
            ),
            Self::UnknownImage => error(
                "annotation",
                "annotations of images that are not listed",
                "Training refuses the file.",
                "Add the images, or drop the annotations; the fix drops them.",
            ),
            Self::UnknownCategory => error(
                "annotation",
                "annotations of categories that are not listed",
                "Training refuses the file.",
                "Add the categories, or drop the annotations; the fix drops them.",
            ),
            Self::MissingSize => error(
                "image",
                "images without a size",
                "Training refuses the file.",
                "Write the width and height of the upright image, in whole pixels.",
            ),
            Self::EmptyFileName => error(
                "image",
                "images without a file name",
                "Training refuses the file, or stops before it begins: there is no such image.",
                "Name the file, or drop the image and its annotations.",
            ),
            Self::RepeatedFileName => warning(
                "image",
                "images with the file name of another",
                "Objects that are boxed on one entry are background on the other.",
                "Merge the entries, or correct the name.",
            ),
            Self::MissingFile => error(
                "image",
                "image files that do not exist",
                "Training stops before it begins.",
                "Check the folder of the images, upper and lower case included.",
            ),
            Self::UndecodableFile => error(
                "image",
                "image files that cannot be read or decoded",
                "Training stops when it comes to the image.",
                "Fetch the files again or convert them, or drop the images.",
            ),
            Self::TruncatedFile => error(
                "image",
                "image files that are cut short",
                "Training stops when it comes to the image.",
                "Fetch the files again.",
            ),
            Self::SizeMismatch => error(
                "image",
                "image files of another size than the annotations say",
                "Training stops when it comes to the image: its boxes would be wrong.",
                "Find the files that the boxes were drawn on, or scale the boxes.",
            ),
            Self::RotatedSize => error(
                "image",
                "sizes of the stored image, where the EXIF orientation turns it",
                "Training stops when it comes to the image: it sees the upright image, and the \
                 boxes were drawn on the stored one.",
                "Turn the boxes and swap width and height, or remove the orientation from the \
                 files.",
            ),
            Self::DarkImage => note(
                "image",
                "images of 16 bits that come out nearly black",
                "Training sees 16 bits as 8, 65535 as 255: few grey values are left of these.",
                "In `[data]` of the config, set `range_16_bit` to the range that the values fill; it goes along with the trained detector.",
            ),
            Self::TurnedImage => warning(
                "image",
                "images that EXIF turns, whose size does not tell how the boxes were drawn",
                "Training takes the boxes as drawn on the upright image, as viewers show it.",
                "Look at some of them (`retinanet dataset view`); if the boxes are off, they were \
                 drawn on the stored image: remove the orientation from the files.",
            ),
            Self::SharedImage => error(
                "image",
                "images that are in both splits",
                "The evaluation counts images that were learnt by heart: its score is too good.",
                "Keep each image in one split.",
            ),
            Self::RepeatedImage => warning(
                "image",
                "images that are copies of another",
                "Each copy counts; objects that are boxed on one are background on the other.",
                "Drop the copies, or merge their annotations.",
            ),
            Self::MissingBox => error(
                "annotation",
                "annotations without a box",
                "Training leaves them out; evaluation refuses the file.",
                "Draw the boxes, or drop the annotations; the fix drops them.",
            ),
            Self::MalformedBox => error(
                "annotation",
                "boxes that are not four numbers",
                "Training refuses the file.",
                "Write `[x, y, width, height]`; of turned boxes, the upright bounds.",
            ),
            Self::NonFiniteBox => error(
                "annotation",
                "boxes with edges that are not finite",
                "Training leaves them out; evaluation may refuse the file.",
                "Redraw the boxes, or drop the annotations; the fix drops them.",
            ),
            Self::DegenerateBox => warning(
                "annotation",
                "boxes without area",
                "Training leaves them out; evaluation counts them as objects never found.",
                "Redraw the boxes, or drop the annotations; the fix drops them.",
            ),
            Self::OutsideBox => warning(
                "annotation",
                "boxes wholly outside their images",
                "Training leaves them out; evaluation counts them as objects never found.",
                "Look whether the sizes or the images are mixed up; the fix drops the boxes.",
            ),
            Self::PartlyOutsideBox => warning(
                "annotation",
                "boxes that reach outside their images",
                "Training clips them; evaluation does not, which costs overlap.",
                "Look whether the sizes are right; the fix clips the boxes.",
            ),
            Self::CornerBox => error(
                "annotation",
                "boxes that seem to be `[x1, y1, x2, y2]`",
                "Training learns boxes that are too large, and the score is worthless.",
                "Write `[x, y, width, height]`; the fix refuses such a file.",
            ),
            Self::NormalisedBox => error(
                "annotation",
                "boxes of numbers between 0 and 1: normalised?",
                "Training would learn boxes smaller than a pixel.",
                "Multiply x and width by the image's width, y and height by its height.",
            ),
            Self::AreaMismatch => warning(
                "annotation",
                "areas that the box contradicts",
                "Training does not mind; evaluation sorts objects into small, medium and large by \
                 `area`.",
                "Write the area of the mask, or of the box where there is none; the fix writes \
                 the box's.",
            ),
            Self::RepeatedBox => warning(
                "annotation",
                "boxes that repeat an earlier one",
                "Training learns the first; evaluation counts the others as objects never found.",
                "Drop the repetitions; the fix does.",
            ),
            Self::PolygonMismatch => warning(
                "annotation",
                "polygons with other bounds than the box",
                "Training learns the box.",
                "Find out which is right; an image resized without its boxes looks like this.",
            ),
            Self::UnreachableBox => warning(
                "annotation",
                "boxes that no anchor can match",
                "They are learnt from the anchors that overlap them most, however little, or \
                 never where `matcher.low_quality` is `off`.",
                "Add smaller or larger sizes or other aspect ratios to `anchors`, or resize \
                 otherwise.",
            ),
            Self::LargeId => warning(
                "id",
                "ids above 2^53",
                "Training does not mind; tools that keep numbers as floats take neighbouring ids \
                 for one.",
                "Use smaller ids.",
            ),
            Self::ZeroId => note(
                "annotation",
                "annotations with the id 0",
                "Training does not mind; pycocotools takes a detection of them for a false one.",
                "Number the annotations from 1; the fix does.",
            ),
            Self::MissingId => note(
                "annotation",
                "annotations without an id",
                "Training and evaluation do not mind; other tools do.",
                "Number the annotations; the fix does.",
            ),
            Self::UnnamedCategory => warning(
                "category",
                "categories without a name",
                "Results name the class by nothing; where `name` is missing, training refuses \
                 the file.",
                "Name the categories.",
            ),
            Self::RepeatedCategoryName => warning(
                "category",
                "categories with the name of another",
                "They are two classes, which the model must tell apart.",
                "Merge the categories, or give them different names.",
            ),
            Self::UnusedCategory => note(
                "category",
                "categories without annotations",
                "The model has a class for them that it only learns never to predict.",
                "Nothing, if the list is meant to be that long; else drop the categories.",
            ),
            Self::EmptyImage => note(
                "image",
                "images without annotations",
                "Training learns them as background, or leaves them out where `keep_empty` \
                 is false.",
                "Nothing, if there is nothing on them; else annotate them.",
            ),
            Self::Crowd => note(
                "annotation",
                "crowd regions",
                "Training passes over them; evaluation forgives detections in them.",
                "Nothing.",
            ),
        }
    }
}

struct About {
    severity: Severity,
    subject: &'static str,
    title: &'static str,
    consequence: &'static str,
    advice: &'static str,
}

const fn error(
    subject: &'static str,
    title: &'static str,
    consequence: &'static str,
    advice: &'static str,
) -> About {
    About {
        severity: Severity::Error,
        subject,
        title,
        consequence,
        advice,
    }
}

const fn warning(
    subject: &'static str,
    title: &'static str,
    consequence: &'static str,
    advice: &'static str,
) -> About {
    About {
        severity: Severity::Warning,
        ..error(subject, title, consequence, advice)
    }
}

const fn note(
    subject: &'static str,
    title: &'static str,
    consequence: &'static str,
    advice: &'static str,
) -> About {
    About {
        severity: Severity::Note,
        ..error(subject, title, consequence, advice)
    }
}
