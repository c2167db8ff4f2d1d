use std::rc::Rc;

use burn::tensor::Device;
use retinanet_data::Batch;
use retinanet_experiment::Observer;

use crate::error::TrainError;
use crate::plan::Plan;
use crate::team::{Command, Team};
use crate::trainee::Trainee;
use crate::training::prepare;
use crate::validation::validate;
use crate::world::World;

/// Trains along with the process that leads, which alone writes and tells: its share of each batch,
/// and of the images to evaluate. The plan is the leader's.
///
/// # Errors
///
/// Returns an error where an image cannot be read. The others wait then, and must be ended.
pub fn follow(plan: &Plan, device: &Device, world: Rc<dyn World>) -> Result<(), TrainError> {
    struct Nobody;
    impl Observer for Nobody {}

    let device = prepare(plan, device);
    let team = Team::new(world);
    let mut trainee = Trainee::join(plan, &device, team.clone())?;
    let loader = plan.loader.clone().share(team.rank(), team.size())?;
    let mut batches = loader.start(trainee.iteration, plan.iterations);
    loop {
        match team.hear() {
            Command::Step => {
                let parts = batches.by_ref().take(plan.config.train.accumulate);
                let mut batch: Vec<Batch> = parts.collect::<Result<_, _>>()?;
                trainee.skipped(&batch);
                trainee.unfreeze_if_due()?;
                // What is not finite is so for all, and the leader says how to go on.
                let _ = trainee.learn(&mut batch);
            }
            Command::Evaluate => {
                let model = trainee.to_evaluate()?;
                let criterion = &trainee.learner.criterion;
                validate(&model, plan, criterion, (&team, &device), &mut Nobody)?;
            }
            Command::End => return Ok(()),
        }
    }
}
