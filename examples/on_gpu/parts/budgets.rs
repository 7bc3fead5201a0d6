//! The smallest budgets that the crate computes for this device: training in them, and in 1 KiB less.

use tensorpool::nn::{Allocator, Optimizer, STEP_BYTES, Settings, StepKind, Trainer, needs};
use tensorpool::{Config, Gpu, Pool, Result, SlabPolicy};

use super::{Scale, open};
use crate::figure::{Figure, Figures};

pub fn measure(scale: &Scale) -> Figures {
    let steps = scale.of(20, 2);
    let mut figures = Vec::new();
    for (name, optimizer) in [("SGD", Optimizer::Sgd), ("momentum", Optimizer::MOMENTUM), ("Adam", Optimizer::ADAM)] {
        for kind in [StepKind::Frugal, StepKind::Ordinary] {
            let widths = vec![784, 512, 256, 10];
            let settings = Settings { widths, batch: 128, optimizer, learning_rate: 0.001, seed: 1 };
            let least = needs(&open()?, &settings, kind, Allocator::Pool)?.budget_bytes;
            let name = format!("{name}, {kind}");
            figures.push(Figure::new(format!("{name}: smallest budget"), least, "B"));
            let loss = train(open()?, least, &settings, kind, steps)?;
            let figure = Figure::new(format!("{name}: loss in it after {steps} steps"), f64::from(loss), "");
            figures.push(figure.must("a number", loss.is_finite(), true));
            let refused = match train(open()?, least - STEP_BYTES, &settings, kind, steps) {
                Ok(loss) => Figure::text(format!("{name}: 1 KiB less"), format!("trains, loss {loss}"))
                    .must("refused", false, true),
                Err(error) => Figure::text(format!("{name}: 1 KiB less"), error.kind().to_string()).must(
                    "refused",
                    error.is_no_room(),
                    true,
                ),
            };
            figures.push(refused);
        }
    }
    Ok(figures)
}

/// Trains so many steps on one batch, and returns the last loss.
fn train(gpu: Gpu, budget_bytes: u64, settings: &Settings, kind: StepKind, steps: usize) -> Result<f32> {
    let config = Config::new(budget_bytes).free_lists(false).slabs(SlabPolicy::Single);
    let pool = Pool::with_backend(gpu, &config)?;
    let mut trainer = Trainer::new(&pool, settings.clone(), kind)?;
    let images: Vec<f32> = (0..settings.batch * settings.widths[0]).map(|at| (at % 17) as f32 / 17.0).collect();
    let labels: Vec<u32> = (0..settings.batch as u32).map(|at| at % 10).collect();
    let mut loss = f32::NAN;
    for _ in 0..steps {
        loss = trainer.step(&images, &labels)?;
    }
    Ok(loss)
}
