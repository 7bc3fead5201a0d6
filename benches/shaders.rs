//! The two product shaders on whatever adapter there is, in the three forms of a training step's largest layer.
//!
//!     cargo bench --bench shaders
//!
//! Medians of nine submissions of four dispatches each. On a processor's Vulkan driver they say nothing about a GPU.

#[path = "../tests/support/raw_gpu.rs"]
mod raw_gpu;

use bytemuck::{bytes_of, cast_slice};
use raw_gpu::Gpu;
use tensorpool::nn::matmul::{self, Layout};

const DISPATCHES: u32 = 4;

fn main() {
    let tests_only = std::env::args().any(|argument| argument == "--test");
    let submissions = if tests_only { 1 } else { 9 };
    let Some(gpu) = Gpu::open("the race of the product shaders") else { return };
    let (batch, inputs, outputs) = (128, 784, 512);
    let (x, w, d) = (Layout::row_major(inputs), Layout::row_major(outputs), Layout::row_major(outputs));
    let forms = [
        ("A B", matmul::Params::new(batch, outputs, inputs, x, w, d)),
        ("At B", matmul::Params::new(inputs, outputs, batch, x.transposed(), d, w)),
        ("A Bt", matmul::Params::new(batch, inputs, outputs, d, w.transposed(), x)),
    ];
    println!("{}: {batch} x {inputs} x {outputs}", gpu.adapter);
    for (name, source) in [("matmul", matmul::SHADER), ("matmul_tiled", matmul::TILED_SHADER)] {
        let kernel = gpu.kernel(name, source, 4);
        for (form, params) in &forms {
            let params = params.as_ref().expect("the sizes fit in 32 bits");
            let data = vec![0.5_f32; inputs * outputs];
            let bindings = [bytes_of(params), cast_slice(&data), cast_slice(&data), cast_slice(&data)];
            let run = || gpu.run_times(&kernel, params.workgroups(), &bindings, DISPATCHES as usize).1;
            let mut times: Vec<_> = (0..submissions).map(|_| run() / DISPATCHES).collect();
            times.sort();
            println!("{name:>12} {form:>5}: {:8.2} ms", times[times.len() / 2].as_secs_f64() * 1e3);
        }
    }
}
