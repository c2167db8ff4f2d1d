//! The widest vectors of the CPU, with the one thing that [`pulp`]'s have not: values that are spread over lanes.

use pulp::{Scalar, Simd};

#[cfg(target_arch = "x86_64")]
use pulp::{
    cast,
    x86::{V3, V4},
};

/// Vectors whose lanes can take values of their neighbours.
pub(crate) trait Spread: Simd {
    /// For each lane the value of the lane that it names, of the same half: AVX2 takes several times as long for others.
    fn spread(self, values: Self::f32s, lanes: Self::u32s) -> Self::f32s;
}

/// Of one lane.
impl Spread for Scalar {
    #[inline(always)]
    fn spread(self, values: f32, _: u32) -> f32 {
        values
    }
}

#[cfg(target_arch = "x86_64")]
impl Spread for V3 {
    #[inline(always)]
    fn spread(self, values: Self::f32s, lanes: Self::u32s) -> Self::f32s {
        // It counts within the half.
        cast(self.avx._mm256_permutevar_ps(cast(values), cast(lanes)))
    }
}

#[cfg(target_arch = "x86_64")]
impl Spread for V4 {
    #[inline(always)]
    fn spread(self, values: Self::f32s, lanes: Self::u32s) -> Self::f32s {
        cast(
            self.avx512f
                ._mm512_permutexvar_ps(cast(lanes), cast(values)),
        )
    }
}

/// What is computed with vectors of any width. `run` must be `#[inline(always)]`: only what is inlined is compiled for
/// them.
pub(crate) trait Work {
    fn run<S: Spread>(self, simd: S);
}

/// Vectors that the CPU at hand has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Width {
    One(Scalar),
    #[cfg(target_arch = "x86_64")]
    Eight(V3),
    #[cfg(target_arch = "x86_64")]
    Sixteen(V4),
}

impl Width {
    /// All, the widest first.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let wide = [
            V4::try_new().map(Self::Sixteen),
            V3::try_new().map(Self::Eight),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let wide = [None::<Self>];
        let one = Self::One(Scalar);
        wide.into_iter().flatten().chain([one])
    }

    pub(crate) fn widest() -> Self {
        let mut all = Self::all();
        all.next().unwrap_or(Self::One(Scalar))
    }

    pub(crate) const fn lanes(self) -> usize {
        match self {
            Self::One(_) => Scalar::F32_LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Eight(_) => V3::F32_LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Sixteen(_) => V4::F32_LANES,
        }
    }

    pub(crate) fn run(self, work: impl Work) {
        match self {
            Self::One(simd) => work.run(simd),
            #[cfg(target_arch = "x86_64")]
            Self::Eight(simd) => simd.vectorize(With(simd, work)),
            #[cfg(target_arch = "x86_64")]
            Self::Sixteen(simd) => simd.vectorize(With(simd, work)),
        }
    }
}

#[cfg(target_arch = "x86_64")]
struct With<S, W>(S, W);

#[cfg(target_arch = "x86_64")]
impl<S: Spread, W: Work> pulp::NullaryFnOnce for With<S, W> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.1.run(self.0);
    }
}
