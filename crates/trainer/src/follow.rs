use std::rc::Rc;

use burn::tensor::Device;
use retinanet_detector::pixel_form;
use retinanet_experiment::Observer;

use crate::error::TrainError;
use crate::evaluation::validation::validate;
use crate::planning::plan::Plan;
use crate::processes::communicator::Communicator;
use crate::processes::messages::Command;
use crate::processes::process_group::{Process, ProcessGroup};
use crate::train_state::TrainState;
use crate::training::prepare;

/// Trains along with the process that leads, which alone writes and tells: its share of each batch,
/// and of the images to evaluate. The plan is the leader's.
///
/// # Errors
///
/// Returns an error if an image cannot be read. The others wait then, and must be ended.
pub fn follow(
    plan: &Plan,
    device: &Device,
    communicator: Rc<dyn Communicator>,
) -> Result<(), TrainError> {
    struct Nobody;
    impl Observer for Nobody {}

    let device = prepare(plan, device);
    let group = ProcessGroup::new(communicator);
    let mut train_state = TrainState::join(plan, &device, group.clone())?;
    let loader = (plan.loader.clone())
        .with_form(pixel_form(&device))
        .shard(group.rank(), group.size())?;
    let mut batches = loader.start(train_state.iteration, plan.iterations);
    loop {
        match group.receive_command() {
            Command::Step => {
                let mut batch = plan.next_batch(&mut batches)?;
                train_state.skipped(&batch)?;
                train_state.unfreeze_if_due()?;
                // What is non-finite is so for all, and the leader says how to go on.
                let _ = train_state.learn(&mut batch);
            }
            Command::Evaluate => {
                let model = train_state.to_evaluate()?;
                let criterion = &train_state.learner.criterion;
                let process = Process {
                    group: &group,
                    device: &device,
                };
                validate(&model, plan, criterion, process, &mut Nobody)?;
            }
            Command::End => return Ok(()),
        }
    }
}
