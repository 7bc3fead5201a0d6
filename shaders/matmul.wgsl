// C = alpha A B + beta C: each invocation computes 8 x 8 elements straight from storage memory.
//
// For CPUs behind a GPU interface (llvmpipe). There a load costs more than a multiply-add and "workgroup memory" is only one
// more copy, so each pair of an A column and a B row, 16 loads, is used for 64 products: 1.7 times as fast as 4 x 4.
// Bindings, parameters and the workgroups to dispatch are those of matmul_tiled.wgsl.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    a_offset: u32,
    a_row_stride: u32,
    a_col_stride: u32,
    b_offset: u32,
    b_row_stride: u32,
    b_col_stride: u32,
    c_offset: u32,
    c_row_stride: u32,
    c_col_stride: u32,
    alpha: f32,
    beta: f32,
    padding_0: u32,
    padding_1: u32,
}

@group(0) @binding(0) var<storage, read_write> params: Params;
@group(0) @binding(1) var<storage, read_write> a: array<f32>;
@group(0) @binding(2) var<storage, read_write> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

const TILE = 64u; // rows and columns of C per workgroup
const EACH = 8u; // rows and columns of C per invocation

fn store(row: u32, col: u32, sum: vec4f) {
    for (var j = 0u; j < 4u; j++) {
        if row < params.m && col + j < params.n {
            let at = params.c_offset + row * params.c_row_stride + (col + j) * params.c_col_stride;
            var value = params.alpha * sum[j];
            if params.beta != 0.0 {
                value += params.beta * c[at];
            }
            c[at] = value;
        }
    }
}

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_id) local: vec3u,
) {
    let col_tiles = (params.n + TILE - 1u) / TILE;
    let tile = group.y * groups.x + group.x;
    let row = (tile / col_tiles) * TILE + local.y * EACH;
    let col = (tile % col_tiles) * TILE + local.x * EACH;
    if row >= params.m || col >= params.n {
        return;
    }

    // Rows and columns beyond the edge are read as the last ones and not written.
    let low = vec4u(0u, 1u, 2u, 3u);
    let high = vec4u(4u, 5u, 6u, 7u);
    let row_last = vec4u(params.m - 1u);
    let col_last = vec4u(params.n - 1u);
    var a_low = vec4u(params.a_offset) + min(row + low, row_last) * params.a_row_stride;
    var a_high = vec4u(params.a_offset) + min(row + high, row_last) * params.a_row_stride;
    var b_low = vec4u(params.b_offset) + min(col + low, col_last) * params.b_col_stride;
    var b_high = vec4u(params.b_offset) + min(col + high, col_last) * params.b_col_stride;
    let a_step = vec4u(params.a_col_stride);
    let b_step = vec4u(params.b_row_stride);

    var sum_0_low = vec4f();
    var sum_0_high = vec4f();
    var sum_1_low = vec4f();
    var sum_1_high = vec4f();
    var sum_2_low = vec4f();
    var sum_2_high = vec4f();
    var sum_3_low = vec4f();
    var sum_3_high = vec4f();
    var sum_4_low = vec4f();
    var sum_4_high = vec4f();
    var sum_5_low = vec4f();
    var sum_5_high = vec4f();
    var sum_6_low = vec4f();
    var sum_6_high = vec4f();
    var sum_7_low = vec4f();
    var sum_7_high = vec4f();
    let k = params.k;
    for (var i = 0u; i < k; i++) {
        let row_low = vec4f(b[b_low.x], b[b_low.y], b[b_low.z], b[b_low.w]);
        let row_high = vec4f(b[b_high.x], b[b_high.y], b[b_high.z], b[b_high.w]);
        let a_0 = a[a_low.x];
        sum_0_low += a_0 * row_low;
        sum_0_high += a_0 * row_high;
        let a_1 = a[a_low.y];
        sum_1_low += a_1 * row_low;
        sum_1_high += a_1 * row_high;
        let a_2 = a[a_low.z];
        sum_2_low += a_2 * row_low;
        sum_2_high += a_2 * row_high;
        let a_3 = a[a_low.w];
        sum_3_low += a_3 * row_low;
        sum_3_high += a_3 * row_high;
        let a_4 = a[a_high.x];
        sum_4_low += a_4 * row_low;
        sum_4_high += a_4 * row_high;
        let a_5 = a[a_high.y];
        sum_5_low += a_5 * row_low;
        sum_5_high += a_5 * row_high;
        let a_6 = a[a_high.z];
        sum_6_low += a_6 * row_low;
        sum_6_high += a_6 * row_high;
        let a_7 = a[a_high.w];
        sum_7_low += a_7 * row_low;
        sum_7_high += a_7 * row_high;
        a_low += a_step;
        a_high += a_step;
        b_low += b_step;
        b_high += b_step;
    }
    store(row, col, sum_0_low);
    store(row, col + 4u, sum_0_high);
    store(row + 1u, col, sum_1_low);
    store(row + 1u, col + 4u, sum_1_high);
    store(row + 2u, col, sum_2_low);
    store(row + 2u, col + 4u, sum_2_high);
    store(row + 3u, col, sum_3_low);
    store(row + 3u, col + 4u, sum_3_high);
    store(row + 4u, col, sum_4_low);
    store(row + 4u, col + 4u, sum_4_high);
    store(row + 5u, col, sum_5_low);
    store(row + 5u, col + 4u, sum_5_high);
    store(row + 6u, col, sum_6_low);
    store(row + 6u, col + 4u, sum_6_high);
    store(row + 7u, col, sum_7_low);
    store(row + 7u, col + 4u, sum_7_high);
}
