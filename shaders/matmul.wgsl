// C = alpha A B + beta C: each invocation computes 4 x 4 elements straight from storage memory.
//
// No workgroup memory: on a CPU behind a GPU interface (llvmpipe) a tile copied to "shared" memory is only one more copy.
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

@compute @workgroup_size(16, 16)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_id) local: vec3u,
) {
    let col_tiles = (params.n + TILE - 1u) / TILE;
    let tile = group.y * groups.x + group.x;
    let row = (tile / col_tiles) * TILE + local.y * 4u;
    let col = (tile % col_tiles) * TILE + local.x * 4u;
    if row >= params.m || col >= params.n {
        return;
    }

    // Rows and columns beyond the edge are read as the last ones and not written.
    let rows = min(vec4u(row) + vec4u(0u, 1u, 2u, 3u), vec4u(params.m - 1u));
    let cols = min(vec4u(col) + vec4u(0u, 1u, 2u, 3u), vec4u(params.n - 1u));
    var a_at = vec4u(params.a_offset) + rows * params.a_row_stride;
    var b_at = vec4u(params.b_offset) + cols * params.b_col_stride;
    let a_step = vec4u(params.a_col_stride);
    let b_step = vec4u(params.b_row_stride);

    var sum_0 = vec4f();
    var sum_1 = vec4f();
    var sum_2 = vec4f();
    var sum_3 = vec4f();
    let k = params.k;
    for (var i = 0u; i < k; i++) {
        let b_row = vec4f(b[b_at.x], b[b_at.y], b[b_at.z], b[b_at.w]);
        sum_0 += a[a_at.x] * b_row;
        sum_1 += a[a_at.y] * b_row;
        sum_2 += a[a_at.z] * b_row;
        sum_3 += a[a_at.w] * b_row;
        a_at += a_step;
        b_at += b_step;
    }
    store(row, col, sum_0);
    store(row + 1u, col, sum_1);
    store(row + 2u, col, sum_2);
    store(row + 3u, col, sum_3);
}
