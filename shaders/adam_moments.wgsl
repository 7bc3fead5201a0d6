// First half of Adam, on a range of the moments: m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2.
//
// Apart from adam.wgsl, so that a gradient can come in blocks and the weights it was computed from stay until the last.

struct Params {
    len: u32,
    g_offset: u32,
    m_offset: u32,
    v_offset: u32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
}

@group(0) @binding(0) var<storage, read_write> params: Params;
@group(0) @binding(1) var<storage, read_write> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> m: array<f32>;
@group(0) @binding(3) var<storage, read_write> v: array<f32>;

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
    let gradient = g[params.g_offset + i];
    let m_at = params.m_offset + i;
    let v_at = params.v_offset + i;
    m[m_at] = params.beta1 * m[m_at] + params.one_minus_beta1 * gradient;
    v[v_at] = params.beta2 * v[v_at] + params.one_minus_beta2 * gradient * gradient;
}
