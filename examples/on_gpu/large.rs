//! Buffers without a pool: one that the program reads, and one as large as a transfer.

use std::error::Error;

/// A buffer that the device copies to and the program reads.
pub struct Readable(pub wgpu::Buffer);

impl Readable {
    pub fn new(device: &wgpu::Device, bytes: u64) -> Self {
        Self(device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        }))
    }

    /// Waits for the device, and copies as many bytes as the buffer has.
    pub fn read(&self, device: &wgpu::Device, bytes: &mut [u8]) -> Result<(), Box<dyn Error>> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.0.map_async(wgpu::MapMode::Read, .., move |mapped| {
            // The receiver lives until this was called, or is dropped.
            let _ = sender.send(mapped);
        });
        device.poll(wgpu::PollType::wait_indefinitely())?;
        receiver.recv()??;
        bytes.copy_from_slice(&self.0.get_mapped_range(..)?);
        self.0.unmap();
        Ok(())
    }
}

/// One buffer as large as the transfer, with staging of its own: what a program without a pool has.
pub struct Large {
    buffer: wgpu::Buffer,
    readable: Readable,
}

impl Large {
    pub fn new(device: &wgpu::Device, bytes: u64) -> Self {
        use wgpu::BufferUsages as Usages;
        let usage = Usages::STORAGE | Usages::COPY_SRC | Usages::COPY_DST;
        let descriptor = wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false };
        Self { buffer: device.create_buffer(&descriptor), readable: Readable::new(device, bytes) }
    }

    pub fn upload(&self, device: &wgpu::Device, queue: &wgpu::Queue, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        queue.write_buffer(&self.buffer, 0, bytes);
        queue.submit([]);
        device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(())
    }

    pub fn download(&self, device: &wgpu::Device, queue: &wgpu::Queue, bytes: &mut [u8]) -> Result<(), Box<dyn Error>> {
        let mut encoder = device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.buffer, 0, &self.readable.0, 0, self.buffer.size());
        queue.submit([encoder.finish()]);
        self.readable.read(device, bytes)
    }
}
