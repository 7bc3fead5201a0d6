// x[r, c] becomes upstream[r, c] where x[r, c] > 0, else 0: an activation turns into its gradient, in place.

struct Params {
    rows: u32,
    cols: u32,
    upstream_offset: u32,
    upstream_row_stride: u32,
    x_offset: u32,
    x_row_stride: u32,
    padding_0: u32,
    padding_1: u32,
}

@group(0) @binding(0) var<storage, read_write> params: Params;
@group(0) @binding(1) var<storage, read_write> upstream: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + lane;
    if i >= params.rows * params.cols {
        return;
    }
    let row = i / params.cols;
    let col = i % params.cols;
    let at = params.x_offset + row * params.x_row_stride + col;
    if x[at] > 0.0 {
        x[at] = upstream[params.upstream_offset + row * params.upstream_row_stride + col];
    } else {
        x[at] = 0.0;
    }
}
