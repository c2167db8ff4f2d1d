use retinanet_settings::SettingError;

/// Anchors cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnchorError {
    /// The settings do not fit each other, or the pyramid.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A pyramid level has no stride.
    #[error("the stride of every pyramid level must be above 0, got 0 at level {level}")]
    Stride {
        /// The level, counted from the finest.
        level: usize,
    },
}
