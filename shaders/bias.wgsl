// x[r, c] += b[c]: adds one row to every row of a matrix, in place.

struct Params {
    rows: u32,
    cols: u32,
    x_offset: u32,
    x_row_stride: u32,
    b_offset: u32,
    padding_0: u32,
    padding_1: u32,
    padding_2: u32,
}

@group(0) @binding(0) var<storage, read_write> params: Params;
@group(0) @binding(1) var<storage, read_write> b: array<f32>;
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
    x[params.x_offset + row * params.x_row_stride + col] += b[params.b_offset + col];
}
