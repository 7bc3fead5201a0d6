//! What the stream records, as plain data, and how it becomes wgpu's commands.
//!
//! wgpu is asked when the work is sent, and not before: so all of it is in three error scopes, and one encoder.

use super::Gpu;

/// One operation that is recorded and not yet sent.
#[derive(Debug)]
pub(super) enum Work {
    Copy {
        from: wgpu::Buffer,
        from_at: u64,
        to: wgpu::Buffer,
        to_at: u64,
        bytes: u64,
    },
    /// Zeros.
    Clear {
        buffer: wgpu::Buffer,
        offset: u64,
        bytes: u64,
    },
    Dispatch {
        pipeline: wgpu::ComputePipeline,
        group: wgpu::BindGroup,
        workgroups: [u32; 3],
    },
    /// What a closure or another encoder has recorded.
    Commands(wgpu::CommandBuffer),
}

/// Sends `work` in order, and returns the last submission: an empty one where there is no work. Called inside error scopes.
///
/// Commands of others are submitted by themselves. wgpu drops a whole submission for one command buffer that breaks a rule.
pub(super) fn send(gpu: &Gpu, work: Vec<Work>) -> wgpu::SubmissionIndex {
    let mut sender = Sender { gpu, encoder: None, pass: None, last: None };
    work.into_iter().for_each(|work| sender.record(work));
    sender.end();
    match sender.last {
        Some(index) => index,
        None => gpu.submit_commands(None),
    }
}

struct Sender<'a> {
    gpu: &'a Gpu,
    /// Dropped before the encoder that it belongs to.
    pass: Option<wgpu::ComputePass<'static>>,
    encoder: Option<wgpu::CommandEncoder>,
    last: Option<wgpu::SubmissionIndex>,
}

impl Sender<'_> {
    fn record(&mut self, work: Work) {
        match work {
            Work::Copy { from, from_at, to, to_at, bytes } => {
                self.encoder().copy_buffer_to_buffer(&from, from_at, &to, to_at, bytes);
            }
            Work::Clear { buffer, offset, bytes } => self.encoder().clear_buffer(&buffer, offset, Some(bytes)),
            Work::Dispatch { pipeline, group, workgroups: [x, y, z] } => {
                let pass = self.pass();
                pass.set_pipeline(&pipeline);
                pass.set_bind_group(0, &group, &[]);
                pass.dispatch_workgroups(x, y, z);
            }
            Work::Commands(commands) => {
                self.end();
                self.last = Some(self.gpu.submit_commands(Some(commands)));
            }
        }
    }

    fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        self.pass = None;
        self.open_encoder()
    }

    fn open_encoder(&mut self) -> &mut wgpu::CommandEncoder {
        self.encoder.get_or_insert_with(|| {
            let descriptor = wgpu::CommandEncoderDescriptor { label: Some("tensorpool stream") };
            self.gpu.device.create_command_encoder(&descriptor)
        })
    }

    /// Returns the open pass. Dispatches that follow each other share it: wgpu keeps their order.
    fn pass(&mut self) -> &mut wgpu::ComputePass<'static> {
        let pass = match self.pass.take() {
            Some(pass) => pass,
            None => self.open_encoder().begin_compute_pass(&wgpu::ComputePassDescriptor::default()).forget_lifetime(),
        };
        self.pass.insert(pass)
    }

    fn end(&mut self) {
        self.pass = None;
        if let Some(encoder) = self.encoder.take() {
            self.last = Some(self.gpu.submit_commands(Some(encoder.finish())));
        }
    }
}
