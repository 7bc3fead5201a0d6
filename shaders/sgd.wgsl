// w[i] -= lr * g[i]. With momentum g is the velocity.

struct Params {
    len: u32,
    g_offset: u32,
    w_offset: u32,
    lr: f32,
}

@group(0) @binding(0) var<storage, read_write> params: Params;
@group(0) @binding(1) var<storage, read_write> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> w: array<f32>;

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
    w[params.w_offset + i] -= params.lr * g[params.g_offset + i];
}
