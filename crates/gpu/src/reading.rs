//! Values on their way to the host, which meanwhile goes on.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use cubecl::future::reader::read_sync;

use crate::CubeTensor;

/// Values that the device copies for the host once it has computed them, before whatever it is given later.
pub struct Reading(State);

type Values = Vec<f32>;

enum State {
    Begun(Pin<Box<dyn Future<Output = Values>>>),
    There(Values),
    Taken,
}

impl Reading {
    /// Begins to read a tensor of f32. Burn's own reads copy when the values are first asked for, after all that the
    /// device was given meanwhile.
    pub fn begin(tensor: CubeTensor) -> Self {
        let mut future: Pin<Box<dyn Future<Output = Values>>> = Box::pin(read(tensor));
        // It gives the device the copy when it is first polled.
        let mut context = Context::from_waker(Waker::noop());
        Self(match future.as_mut().poll(&mut context) {
            Poll::Ready(values) => State::There(values),
            Poll::Pending => State::Begun(future),
        })
    }

    /// Waits for the values; none if the device failed.
    pub fn values(mut self) -> Vec<f64> {
        self.take().into_iter().map(f64::from).collect()
    }

    fn take(&mut self) -> Values {
        match mem::replace(&mut self.0, State::Taken) {
            State::There(values) => values,
            State::Begun(future) => read_sync(future),
            State::Taken => Values::new(),
        }
    }
}

impl Drop for Reading {
    /// Waits for values that nobody wants: the buffer that they are copied to would be used again while it is mapped.
    fn drop(&mut self) {
        self.take();
    }
}

async fn read(tensor: CubeTensor) -> Values {
    let CubeTensor { client, handle, .. } = tensor;
    let read = client.read_async(vec![handle]).await;
    let bytes = read.into_iter().flatten().next();
    let words = bytes.iter().flat_map(|bytes| bytes.as_chunks::<4>().0);
    words.copied().map(f32::from_ne_bytes).collect()
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").finish_non_exhaustive()
    }
}
