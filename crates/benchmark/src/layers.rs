//! Each layer of a network by itself, beside what the machine could do: where the time goes, and what is left to gain.

use burn::tensor::{Device, Tensor};
use retinanet_convolution::{LayerCall, record_calls};

use crate::roof::Roof;
use crate::{Benchmark, BenchmarkError, Measurement};

/// How often each gradient does the operations of the output: that of the input and that of the weights once each.
const WITH_GRADIENTS: f64 = 3.0;

impl Benchmark<'_> {
    /// The layers of the network in training, each kind and size once, those first that take most of a step; before
    /// them, on a CPU, what the machine can do.
    ///
    /// # Errors
    /// If there is no such model, or the device fails.
    pub fn layers(&self) -> Result<Vec<Measurement>, BenchmarkError> {
        let roof = (!self.is_on_gpu()).then(Roof::measure);
        let mut layers = Vec::new();
        for (call, times) in self.counted_layers()? {
            let pair = self.layer(&call, times, roof.as_ref())?;
            layers.push(pair);
        }
        let of_step = |[_, all]: &[Measurement; 2]| all.of_network_s().unwrap_or(0.0);
        layers.sort_by(|a, b| of_step(b).total_cmp(&of_step(a)));
        let machine = roof.iter().flat_map(Roof::measurements);
        Ok(machine.chain(layers.into_iter().flatten()).collect())
    }

    /// Forward, and forward with all gradients.
    fn layer(
        &self,
        call: &LayerCall,
        times: usize,
        roof: Option<&Roof>,
    ) -> Result<[Measurement; 2], BenchmarkError> {
        let images = self.options.batch;
        let layer = call.prepare(images, self.device);
        let forward = self.time(|| (), |()| Ok(layer()))?;
        let with_gradients = self.time(
            || (),
            |()| {
                let output = layer();
                // From a gradient of ones: a loss would cost time of its own.
                Ok((output.backward(), output))
            },
        )?;
        let (operations, bytes) = (call.operations(images), call.bytes(images));
        let measured = |what: &str, timing, passes: f64| {
            let measured = Measurement::new("layer", format!("{call}, {what}"), timing);
            let measured = measured.with_times(times);
            let measured = if operations > 0.0 {
                measured.with_operations(passes * operations)
            } else {
                measured
            };
            match roof {
                Some(roof) => measured.with_least(passes * roof.least_s(operations, bytes)),
                None => measured,
            }
        };
        Ok([
            measured("forward", forward, 1.0),
            measured("forward+backward", with_gradients, WITH_GRADIENTS),
        ])
    }

    /// The layers and how often the network calls each, in the order of the first calls.
    fn counted_layers(&self) -> Result<Vec<(LayerCall, usize)>, BenchmarkError> {
        let (size, classes) = (self.options.size, self.options.classes);
        let device = Device::flex().autodiff();
        let model = (self.options.config.model).init(classes, self.options.seed, &device)?;
        let model = model.with_precision(self.options.precision);
        let calls = record_calls(|| {
            model.forward(Tensor::zeros([1, 3, size.height, size.width], &device));
        });
        let mut counted: Vec<(LayerCall, usize)> = Vec::new();
        for call in calls {
            match counted.iter_mut().find(|(other, _)| *other == call) {
                Some((_, times)) => *times += 1,
                None => counted.push((call, 1)),
            }
        }
        Ok(counted)
    }
}
