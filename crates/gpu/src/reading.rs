//! Values on their way to the host, which meanwhile goes on.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use burn::tensor::{Tensor, TensorData};
use cubecl::future::reader::read_sync;

/// Values that the device copies for the host once it has computed them, before whatever it is given later.
pub struct Reading(State);

enum State {
    Begun(Pin<Box<dyn Future<Output = TensorData>>>),
    There(TensorData),
}

impl Reading {
    /// Begins to read.
    ///
    /// # Panics
    ///
    /// Panics if the device has failed, as all of Burn's reads do.
    pub fn begin<const D: usize>(tensor: Tensor<D>) -> Self {
        let mut future: Pin<Box<dyn Future<Output = TensorData>>> =
            Box::pin(async move { tensor.into_data_async().await.expect(FAILED) });
        // It asks the device when it is first polled.
        let mut context = Context::from_waker(Waker::noop());
        Self(match future.as_mut().poll(&mut context) {
            Poll::Ready(data) => State::There(data),
            Poll::Pending => State::Begun(future),
        })
    }

    /// Waits for the values.
    ///
    /// # Panics
    ///
    /// Panics if the device fails, as all of Burn's reads do.
    pub fn values(self) -> Vec<f64> {
        let data = match self.0 {
            State::There(data) => data,
            State::Begun(future) => read_sync(future),
        };
        data.iter().collect()
    }
}

/// What Burn says of its own reads.
const FAILED: &str = "the device did not give what it computed";

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").finish_non_exhaustive()
    }
}
