// m[i] = mu * m[i] + g[i], then w[i] -= lr * m[i] (PyTorch's SGD with momentum and no dampening).

struct Params {
    len: u32,
    g_offset: u32,
    m_offset: u32,
    w_offset: u32,
    mu: f32,
    lr: f32,
    padding_0: u32,
    padding_1: u32,
}

@group(0) @binding(0) var<storage, read_write> params: Params;
@group(0) @binding(1) var<storage, read_write> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> m: array<f32>;
@group(0) @binding(3) var<storage, read_write> w: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + lane;
    if i >= params.len {
        return;
    }
    let velocity = params.mu * m[params.m_offset + i] + g[params.g_offset + i];
    m[params.m_offset + i] = velocity;
    w[params.w_offset + i] -= params.lr * velocity;
}
