//! What dispatches cost on pooled tensors, which are ranges of one buffer, beside tensors that are a wgpu buffer each.
//!
//! Both record the same kernel into an encoder, with bind groups made anew in each step, on one device and in turn. In a chain each
//! dispatch reads what the one before it wrote. Independent dispatches could overlap on a device, but wgpu puts a barrier between
//! two that write one buffer.

use std::error::Error;
use std::time::Instant;

use tensorpool::{Backend, Config, Gpu, Pool, Tensor};
use wgpu::{BindGroup, BufferBinding, ComputePass};

use super::{Scale, open};
use crate::figure::{Figure, Figures, median};
use crate::large::Readable;

const RATIO_MOST: f64 = 1.05;
const SHADER: &str = "
@group(0) @binding(0) var<storage, read_write> source: array<f32>;
@group(0) @binding(1) var<storage, read_write> target_: array<f32>;
@compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < arrayLength(&target_)) { target_[id.x] = source[id.x] * 0.75 + 1.0; }
}";

/// Dispatches of one step, as pairs of tensors that one reads and writes.
struct Step {
    name: &'static str,
    tensors: usize,
    pairs: Vec<(usize, usize)>,
    elements: usize,
}

pub fn measure(scale: &Scale) -> Figures {
    let gpu = open()?;
    let pipeline = pipeline(gpu.device());
    let pool = Pool::with_backend(gpu, &Config::new("512 MiB"))?;
    let (count, rounds) = scale.of((128, 101), (16, 3));
    let chain: Vec<(usize, usize)> = (0..count).map(|at| (at % 8, (at + 1) % 8)).collect();
    let apart: Vec<(usize, usize)> = (0..count).map(|at| (2 * at, 2 * at + 1)).collect();
    let large = scale.of(1 << 20, 1 << 16);
    let steps = [
        Step { name: "a chain, 64 KiB each", tensors: 8, pairs: chain.clone(), elements: 1 << 14 },
        Step { name: "a chain, large", tensors: 8, pairs: chain, elements: large },
        Step { name: "independent, 64 KiB each", tensors: 2 * count, pairs: apart, elements: 1 << 14 },
    ];
    let mut figures =
        vec![Figure::new("dispatches a step", count as u64, ""), Figure::new("large", 4 * large as u64, "B")];
    for step in steps {
        let [pooled, apart] = race(&pool, &pipeline, &step, rounds)?;
        let name = step.name;
        figures.push(Figure::new(format!("{name}: one buffer a tensor"), apart / count as f64, "µs a dispatch"));
        figures.push(Figure::new(format!("{name}: pooled"), pooled / count as f64, "µs a dispatch"));
        figures.push(
            Figure::new(format!("{name}: pooled by one buffer a tensor"), pooled / apart, "")
                .at_most(RATIO_MOST, !scale.small),
        );
    }
    Ok(figures)
}

fn pipeline(device: &wgpu::Device) -> wgpu::ComputePipeline {
    let source = wgpu::ShaderSource::Wgsl(SHADER.into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    })
}

/// Returns the median times of a step in µs: of pooled tensors, and of one buffer a tensor.
fn race(
    pool: &Pool<Gpu>,
    pipeline: &wgpu::ComputePipeline,
    step: &Step,
    rounds: usize,
) -> Result<[f64; 2], Box<dyn Error>> {
    let first: Vec<f32> = (0..step.elements).map(|at| at as f32).collect();
    let mut tensors = (0..step.tensors).map(|_| pool.zeros::<f32>([step.elements])).collect::<Result<Vec<_>, _>>()?;
    tensors.iter_mut().try_for_each(|tensor| tensor.upload(&first))?;
    let (device, queue) = (pool.backend().device(), pool.backend().queue());
    let buffers: Vec<wgpu::Buffer> = (0..step.tensors).map(|_| buffer(device, queue, &first)).collect();
    queue.submit([]);
    pool.backend().complete(pool.backend().recorded())?;
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let mut times = [const { Vec::new() }; 2];
    for round in 0..=rounds {
        for turn in 0..2 {
            let racer = (round + turn) % 2;
            let start = Instant::now();
            match racer {
                0 => pooled(pool, pipeline, step, &tensors)?,
                _ => apart(device, queue, pipeline, step, &buffers)?,
            }
            // The first round compiles.
            if round > 0 {
                times[racer].push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    let last = step.pairs.last().map_or(0, |(_, to)| *to);
    let (ours, theirs) = (tensors[last].to_array()?.into_raw_vec_and_offset().0, read(device, queue, &buffers[last])?);
    if ours != theirs || ours == first {
        return Err(format!("{}: the two ways of the same step left other contents", step.name).into());
    }
    Ok(times.map(median))
}

fn pooled(
    pool: &Pool<Gpu>,
    pipeline: &wgpu::ComputePipeline,
    step: &Step,
    tensors: &[Tensor<f32, Gpu>],
) -> tensorpool::Result<()> {
    pool.encode(|encoder| {
        let device = encoder.device();
        let groups = step.pairs.iter().map(|(from, to)| {
            Ok(group(device, pipeline, [tensors[*from].binding(encoder)?, tensors[*to].binding(encoder)?]))
        });
        let groups = groups.collect::<tensorpool::Result<Vec<_>>>()?;
        record(&mut encoder.begin_compute_pass(&Default::default()), pipeline, &groups, step.elements);
        Ok(())
    })?;
    pool.backend().complete(pool.backend().recorded())
}

fn apart(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    pipeline: &wgpu::ComputePipeline,
    step: &Step,
    buffers: &[wgpu::Buffer],
) -> Result<(), wgpu::PollError> {
    let mut encoder = device.create_command_encoder(&Default::default());
    let binding = |index: usize| buffers[index].as_entire_buffer_binding();
    let groups = step.pairs.iter().map(|(from, to)| group(device, pipeline, [binding(*from), binding(*to)]));
    let groups: Vec<BindGroup> = groups.collect();
    record(&mut encoder.begin_compute_pass(&Default::default()), pipeline, &groups, step.elements);
    queue.submit([encoder.finish()]);
    device.poll(wgpu::PollType::wait_indefinitely()).map(drop)
}

fn group(device: &wgpu::Device, pipeline: &wgpu::ComputePipeline, bindings: [BufferBinding<'_>; 2]) -> BindGroup {
    let [source, target] = bindings.map(wgpu::BindingResource::Buffer);
    device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: source },
            wgpu::BindGroupEntry { binding: 1, resource: target },
        ],
    })
}

fn record(pass: &mut ComputePass<'_>, pipeline: &wgpu::ComputePipeline, groups: &[BindGroup], elements: usize) {
    pass.set_pipeline(pipeline);
    for group in groups {
        pass.set_bind_group(0, group, &[]);
        pass.dispatch_workgroups(elements.div_ceil(256) as u32, 1, 1);
    }
}

fn buffer(device: &wgpu::Device, queue: &wgpu::Queue, elements: &[f32]) -> wgpu::Buffer {
    use wgpu::BufferUsages as Usages;
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: size_of_val(elements) as u64,
        usage: Usages::STORAGE | Usages::COPY_SRC | Usages::COPY_DST,
        mapped_at_creation: false,
    });
    queue.write_buffer(&buffer, 0, bytemuck::cast_slice(elements));
    buffer
}

fn read(device: &wgpu::Device, queue: &wgpu::Queue, buffer: &wgpu::Buffer) -> Result<Vec<f32>, Box<dyn Error>> {
    let readable = Readable::new(device, buffer.size());
    let mut encoder = device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &readable.0, 0, buffer.size());
    queue.submit([encoder.finish()]);
    let mut elements = vec![0.0; buffer.size() as usize / size_of::<f32>()];
    readable.read(device, bytemuck::cast_slice_mut(&mut elements))?;
    Ok(elements)
}
