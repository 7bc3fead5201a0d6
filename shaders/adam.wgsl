// Second half of Adam: w -= (lr / correction1) * m / (sqrt(v) / sqrt(correction2) + eps), correction = 1 - beta^step.
//
// The quotient and the root are taken on the host, once.

struct Params {
    len: u32,
    m_offset: u32,
    v_offset: u32,
    w_offset: u32,
    step_size: f32,
    correction2_sqrt: f32,
    eps: f32,
    padding: u32,
}

@group(0) @binding(0) var<storage, read_write> params: Params;
@group(0) @binding(1) var<storage, read_write> m: array<f32>;
@group(0) @binding(2) var<storage, read_write> v: array<f32>;
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
    let denominator = sqrt(v[params.v_offset + i]) / params.correction2_sqrt + params.eps;
    w[params.w_offset + i] -= params.step_size * (m[params.m_offset + i] / denominator);
}
