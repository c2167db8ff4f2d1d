//! Numbers of a config that know their range: a value outside it is refused when it is read, with its path, and no
//! crate sees it. Crates that use a number with a range of its own declare it by [`real!`].

mod error;
mod real;
mod whole;

pub use error::{OutOfRange, SettingError};
pub use whole::{Count, MOST, Whole};

#[doc(hidden)]
pub use schemars;
#[doc(hidden)]
pub use serde;

real! {
    /// A probability, an overlap, or another share of a whole.
    pub Share: at_least 0, at_most 1
}
real! {
    /// A share that is not nothing.
    pub PositiveShare: above 0, at_most 1
}
real! {
    /// A share that is not the whole, such as what a moving average keeps.
    pub ShareBelowOne: at_least 0, below 1
}
real! {
    /// A share that is neither nothing nor the whole.
    pub OpenShare: above 0, below 1
}
real! {
    /// A number above 0.
    pub Positive: above 0, finite
}
real! {
    /// A number of at least 0.
    pub NonNegative: at_least 0, finite
}
real! {
    /// A factor or a penalty.
    pub Factor: at_least 0, at_most 100
}
real! {
    /// A factor that is not 0.
    pub PositiveFactor: above 0, at_most 100
}
