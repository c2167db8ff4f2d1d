use retinanet_boxes::BoundingBox;
use retinanet_settings::{PositiveShare, SettingError, Share};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the [`MaxIouMatcher`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MaxIouConfig {
    /// Overlap with its best box from which an anchor is an object.
    pub foreground: PositiveShare,
    /// Overlap with its best box below which an anchor is background, at most `foreground`. Anchors between the two
    /// are ignored.
    pub background: Share,
    /// Whether the anchors that overlap a box most are objects however little that is.
    pub low_quality: LowQuality,
    /// The overlap from which that holds; 0 is any at all. Detectron's amounts to 0.4.
    pub min_low_quality: Share,
}

/// What becomes of the anchors that overlap a box most where that is less than
/// [`foreground`](MaxIouConfig::foreground).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LowQuality {
    /// Nothing special: keras-retinanet and others.
    Off,
    /// They are objects, each of the box that it itself overlaps most: detectron2, torchvision.
    #[default]
    Keep,
    /// They are objects, each of the box that chose it, the last where several did; also where an
    /// anchor was an object of another already: mmdetection.
    Reassign,
}

impl MaxIouConfig {
    /// Checks the settings and builds the matcher.
    ///
    /// # Errors
    ///
    /// Returns an error if `background` is above `foreground`.
    pub fn init(&self) -> Result<MaxIouMatcher, SettingError> {
        let (foreground, background) = (self.foreground.as_f32(), self.background.as_f32());
        if background > foreground {
            let allowed = format!("at most `foreground`, {foreground}");
            return Err(SettingError::new("background", allowed, background));
        }
        Ok(MaxIouMatcher {
            foreground,
            background,
            low_quality: self.low_quality,
            min_low_quality: self.min_low_quality.as_f32(),
        })
    }
}

impl Default for MaxIouConfig {
    fn default() -> Self {
        Self {
            foreground: PositiveShare::literal(0.5),
            background: Share::literal(0.4),
            low_quality: LowQuality::Keep,
            min_low_quality: Share::literal(0.0),
        }
    }
}

/// What an anchor answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// Nothing.
    Background,
    /// Nothing, and it takes no part in the loss: it is neither clearly one nor the other.
    Ignored,
    /// The box with this index.
    Object(usize),
}

/// Matches anchors to boxes by their overlap, which is intersection over union. Should be created
/// with [`MaxIouConfig::init`].
///
/// An anchor belongs to the box that it overlaps most, the first where several are equal. It is
/// an object from [`foreground`](MaxIouConfig::foreground) on, background below
/// [`background`](MaxIouConfig::background), and ignored between. Unless
/// [`low_quality`](MaxIouConfig::low_quality) is off, whichever anchors overlap a box most (all of
/// them where several are equal) are objects too.
///
/// A box that no anchor overlaps chooses none. The peers would make every anchor that misses it an
/// object.
#[derive(Clone, Copy, Debug)]
pub struct MaxIouMatcher {
    foreground: f32,
    background: f32,
    low_quality: LowQuality,
    min_low_quality: f32,
}

impl MaxIouMatcher {
    /// Overlap from which an anchor is an object.
    pub const fn foreground(&self) -> f32 {
        self.foreground
    }

    /// Overlap below which an anchor is background.
    pub const fn background(&self) -> f32 {
        self.background
    }

    /// Assigns each anchor. The time grows with anchors times boxes where they overlap at like
    /// sizes, the memory only with the anchors.
    pub fn assign(&self, anchors: &[BoundingBox], boxes: &[BoundingBox]) -> Vec<Assignment> {
        let mut assignments = vec![Assignment::Background; anchors.len()];
        if boxes.is_empty() {
            return assignments;
        }
        let mut claims: Vec<Claim> = boxes.iter().map(Claim::new).collect();
        let blocks = anchors
            .chunks(LANES)
            .zip(assignments.chunks_mut(LANES))
            .enumerate();
        // Backwards, since the generator puts the coarse levels last: there large boxes soon have a
        // high overlap, and need not be held against the many anchors of the fine levels.
        for (place, (anchors, assignments)) in blocks.rev() {
            let best = self.offer(&Block::new(anchors), place, &mut claims);
            if best.peak >= self.background {
                for (lane, assignment) in assignments.iter_mut().enumerate() {
                    *assignment = self.assignment(best.iou[lane], best.index[lane]);
                }
            }
        }
        if self.low_quality != LowQuality::Off {
            for (index, claim) in claims.iter().enumerate() {
                if claim.highest >= self.min_low_quality {
                    claim.choose(anchors, |anchor| {
                        self.assign_chosen(
                            &anchors[anchor],
                            index,
                            boxes,
                            &mut assignments[anchor],
                        );
                    });
                }
            }
        }
        assignments
    }

    /// Assigns an anchor that overlaps the `chooser` as much as any does.
    fn assign_chosen(
        &self,
        anchor: &BoundingBox,
        chooser: usize,
        boxes: &[BoundingBox],
        assignment: &mut Assignment,
    ) {
        if self.low_quality == LowQuality::Reassign {
            *assignment = Assignment::Object(chooser);
        } else if !matches!(assignment, Assignment::Object(_)) {
            *assignment = Assignment::Object(most_overlapping(anchor, boxes));
        }
    }

    /// Offers the boxes to the anchors of a block. Of the answer, only overlaps from the
    /// background's threshold on are sure to be an anchor's best.
    fn offer(&self, block: &Block, place: usize, claims: &mut [Claim]) -> Best {
        let mut best = Best::NONE;
        for (index, claim) in claims.iter_mut().enumerate() {
            // What stays below both changes neither an assignment nor a box's choice.
            let needed = self.background.min(claim.highest);
            if block.meets(&claim.bbox) && block.ceiling(claim.area) >= needed {
                let peak = best.offer(index, &block.ious(&claim.bbox, claim.area));
                claim.raise(peak, place);
            }
        }
        best
    }

    fn assignment(&self, iou: f32, index: u32) -> Assignment {
        if iou >= self.foreground {
            Assignment::Object(index as usize)
        } else if iou >= self.background {
            Assignment::Ignored
        } else {
            Assignment::Background
        }
    }
}

/// A box, and which anchors overlap it most of those seen so far.
struct Claim {
    bbox: BoundingBox,
    area: f32,
    highest: f32,
    /// The blocks where some anchor has this overlap, above 0.
    places: Vec<usize>,
}

impl Claim {
    fn new(bbox: &BoundingBox) -> Self {
        Self {
            bbox: *bbox,
            area: bbox.area(),
            highest: 0.0,
            places: Vec::new(),
        }
    }

    /// Notes the highest overlap in a block.
    fn raise(&mut self, peak: f32, place: usize) {
        if peak > self.highest {
            self.highest = peak;
            self.places.clear();
        }
        if peak == self.highest && peak > 0.0 {
            self.places.push(place);
        }
    }

    /// Calls on the anchors that overlap the box most.
    fn choose(&self, anchors: &[BoundingBox], mut call: impl FnMut(usize)) {
        for &place in &self.places {
            let block = anchors.iter().enumerate().skip(place * LANES).take(LANES);
            for (index, anchor) in block {
                if anchor.iou(&self.bbox) == self.highest {
                    call(index);
                }
            }
        }
    }
}

/// The first of the boxes that overlap an anchor most.
fn most_overlapping(anchor: &BoundingBox, boxes: &[BoundingBox]) -> usize {
    let mut best = (0, 0.0);
    for (index, bbox) in boxes.iter().enumerate() {
        let iou = anchor.iou(bbox);
        if iou > best.1 {
            best = (index, iou);
        }
    }
    best.0
}

/// How many anchors are handled together: a few vector registers, and in the generator's order
/// neighbours, so that most blocks miss most boxes altogether.
const LANES: usize = 64;

/// The highest overlap of each anchor of a block, the first box that has it, and the highest of
/// all.
struct Best {
    iou: [f32; LANES],
    index: [u32; LANES],
    peak: f32,
}

impl Best {
    const NONE: Self = Self {
        iou: [0.0; LANES],
        index: [0; LANES],
        peak: 0.0,
    };

    /// Takes up a box's overlaps with the anchors and returns the highest of them.
    fn offer(&mut self, index: usize, ious: &[f32; LANES]) -> f32 {
        let best = self.iou.iter_mut().zip(&mut self.index);
        for (&iou, (best_iou, best_index)) in ious.iter().zip(best) {
            let better = iou > *best_iou;
            *best_iou = if better { iou } else { *best_iou };
            *best_index = if better { index as u32 } else { *best_index };
        }
        let peak = fold(ious, higher);
        self.peak = self.peak.max(peak);
        peak
    }
}

/// Consecutive anchors, an array an edge, so that the loops over them become vector code.
struct Block {
    x1: [f32; LANES],
    y1: [f32; LANES],
    x2: [f32; LANES],
    y2: [f32; LANES],
    area: [f32; LANES],
    /// A box around all the anchors.
    hull: BoundingBox,
    /// The areas of the smallest and of the largest.
    areas: [f32; 2],
}

impl Block {
    /// The block of these anchors; lanes past the last repeat the first.
    fn new(anchors: &[BoundingBox]) -> Self {
        let mut lanes = [anchors[0]; LANES];
        lanes[..anchors.len()].copy_from_slice(anchors);
        let x1 = lanes.map(|anchor| anchor.x1);
        let y1 = lanes.map(|anchor| anchor.y1);
        let x2 = lanes.map(|anchor| anchor.x2);
        let y2 = lanes.map(|anchor| anchor.y2);
        let area = lanes.map(|anchor| anchor.area());
        let [smallest, left, top] = [&area, &x1, &y1].map(|lanes| fold(lanes, lower));
        let [largest, right, bottom] = [&area, &x2, &y2].map(|lanes| fold(lanes, higher));
        Self {
            x1,
            y1,
            x2,
            y2,
            area,
            hull: BoundingBox::new(left, top, right, bottom),
            areas: [smallest, largest],
        }
    }

    /// Whether any of the anchors could overlap the box.
    fn meets(&self, bbox: &BoundingBox) -> bool {
        let hull = &self.hull;
        hull.x1 < bbox.x2 && bbox.x1 < hull.x2 && hull.y1 < bbox.y2 && bbox.y1 < hull.y2
    }

    /// What no overlap of the anchors with a box of this area exceeds: the smaller area over the
    /// larger, and a little for rounding.
    fn ceiling(&self, area: f32) -> f32 {
        let [smallest, largest] = self.areas;
        1.000_01 * (area / smallest).min(largest / area)
    }

    /// [`BoundingBox::iou`] of each anchor, operation by operation, with a box of this area.
    fn ious(&self, bbox: &BoundingBox, area: f32) -> [f32; LANES] {
        let mut ious = [0.0; LANES];
        for (lane, iou) in ious.iter_mut().enumerate() {
            let width = lower(self.x2[lane], bbox.x2) - higher(self.x1[lane], bbox.x1);
            let height = lower(self.y2[lane], bbox.y2) - higher(self.y1[lane], bbox.y1);
            let intersection = higher(width, 0.0) * higher(height, 0.0);
            let quotient = intersection / (self.area[lane] + area - intersection);
            *iou = if intersection > 0.0 { quotient } else { 0.0 };
        }
        ious
    }
}

/// Folds the lanes, eight at a time: one after the other, each would wait for the last.
fn fold(lanes: &[f32; LANES], choose: impl Fn(f32, f32) -> f32 + Copy) -> f32 {
    let mut partial = [lanes[0]; 8];
    for chunk in lanes.chunks_exact(partial.len()) {
        for (partial, &lane) in partial.iter_mut().zip(chunk) {
            *partial = choose(*partial, lane);
        }
    }
    partial.into_iter().fold(lanes[0], choose)
}

/// `f32::min` without its care for NaN, which is a single vector instruction.
fn lower(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// `f32::max`, likewise.
fn higher(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[cfg(test)]
#[expect(
    clippy::float_cmp,
    reason = "the matcher's overlaps are the definition's to the bit"
)]
mod tests;
