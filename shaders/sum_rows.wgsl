// out[c] = alpha * (sum of x[r, c] over r) + beta * out[c]: one invocation per column adds its rows in order.

struct Params {
    rows: u32,
    cols: u32,
    x_offset: u32,
    x_row_stride: u32,
    out_offset: u32,
    alpha: f32,
    beta: f32,
    padding: u32,
}

@group(0) @binding(0) var<storage, read_write> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let col = (group.y * groups.x + group.x) * 64u + lane;
    if col >= params.cols {
        return;
    }
    var sum = 0.0;
    for (var row = 0u; row < params.rows; row++) {
        sum += x[params.x_offset + row * params.x_row_stride + col];
    }
    let at = params.out_offset + col;
    var value = params.alpha * sum;
    if params.beta != 0.0 {
        value += params.beta * out[at];
    }
    out[at] = value;
}
