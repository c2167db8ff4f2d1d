/// More scales, sizes or aspect ratios than anyone means.
pub(crate) const MOST_SHAPES: usize = 64;

/// A setting of this crate is out of range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AnchorError {
    /// A list that needs an entry has none.
    #[error("`{key}` must have at least one entry, got none")]
    Empty {
        /// The setting.
        key: String,
    },
    /// A size or an aspect ratio is no length.
    #[error("`{key}` must be in [0.001, 1e6], got {got}")]
    NotPositive {
        /// The setting.
        key: String,
        /// What it holds.
        got: f32,
    },
    /// A list has more entries than anyone means.
    #[error("`{key}` must have at most {MOST_SHAPES} entries, got {got}")]
    TooMany {
        /// The setting.
        key: String,
        /// How many there are.
        got: usize,
    },
    /// An octave has no scale, or more than anyone means.
    #[error("`anchors.scales_per_octave` must be in [1, {MOST_SHAPES}], got {got}")]
    ScalesPerOctave {
        /// What it holds.
        got: usize,
    },
    /// The anchors are not described for the levels that the pyramid has.
    #[error("`{key}` must have one entry for each of the {expected} pyramid levels, got {got}")]
    LevelCount {
        /// The setting.
        key: &'static str,
        /// How many levels it describes.
        got: usize,
        /// How many the pyramid has.
        expected: usize,
    },
    /// The levels differ in how many anchors a cell has, yet share one head.
    #[error(
        "`anchors.levels[{level}]` has {got} anchors a cell and `anchors.levels[0]` has \
         {expected}; the head is shared, so every level must have the same number"
    )]
    UnequalCells {
        /// The first level that differs.
        level: usize,
        /// How many anchors its cells have.
        got: usize,
        /// How many the cells of the first level have.
        expected: usize,
    },
    /// An anchor vanishes or overflows.
    #[error(
        "an anchor of size {size} and aspect ratio {aspect_ratio} has no finite area above 0 \
         after `anchors.rounding`"
    )]
    NoArea {
        /// The side of the square of the anchor's area.
        size: f64,
        /// Height over width.
        aspect_ratio: f64,
    },
    /// A pyramid level has no stride.
    #[error("the stride of every pyramid level must be above 0, got 0 at level {level}")]
    Stride {
        /// The level, counted from the finest.
        level: usize,
    },
    /// The thresholds of the matcher are no thresholds.
    #[error(
        "`matcher.background` and `matcher.foreground` must satisfy \
         0 <= background <= foreground <= 1 with foreground above 0, got background {background} \
         and foreground {foreground}"
    )]
    Thresholds {
        /// Overlap below which an anchor is background.
        background: f32,
        /// Overlap from which an anchor is an object.
        foreground: f32,
    },
    /// The overlap from which a box may choose its best anchors is none.
    #[error("`matcher.min_low_quality` must be in [0, 1], got {got}")]
    MinLowQuality {
        /// What the setting holds.
        got: f32,
    },
    /// The overlap from which an anchor is left out for a crowd is none.
    #[error("`matcher.crowd_overlap` must be in [0, 1], got {got}")]
    CrowdOverlap {
        /// What the setting holds.
        got: f32,
    },
    /// Anchors that are described level by level have no sizes to look for.
    #[error("`anchors.levels` describes each level by itself; remove it to look for better sizes")]
    LevelsAreFixed,
    /// A weight of the box coder would lose its delta.
    #[error("`model.box_coder.weights` must be finite and above 0, got {got:?}")]
    Weights {
        /// The weights of `dx`, `dy`, `dw`, `dh`.
        got: [f32; 4],
    },
}
