// C = alpha A B + beta C for GPUs: a workgroup copies 64 x 16 of A and 16 x 64 of B to workgroup memory, and each of its
// 16 x 16 invocations computes 4 x 4 elements from there, so that an element of storage memory is read once per 64 products.
//
// Bindings, parameters and the workgroups to dispatch are those of matmul.wgsl.

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
const DEPTH = 16u; // k per pass
const SIDE = 16u; // invocations along each side
const INVOCATIONS = SIDE * SIDE;

var<workgroup> depth_total: u32;
// Element (k, row) of A and (k, column) of B at k * PITCH + row or column; the odd pitch spreads a column over the banks.
const PITCH = TILE + 1u;
var<workgroup> a_tile: array<f32, DEPTH * PITCH>;
var<workgroup> b_tile: array<f32, DEPTH * PITCH>;

// Which (row or column of the tile, k of the pass) an invocation copies: neighbours take neighbours in memory.
fn place(lane: u32, k_is_contiguous: bool) -> vec2u {
    if k_is_contiguous {
        return vec2u(lane / DEPTH, lane % DEPTH);
    }
    return vec2u(lane % TILE, lane / TILE);
}

// Neighbouring invocations hold neighbouring columns; the four columns of one are SIDE apart.
fn store(row: u32, col_first: u32, sum: vec4f) {
    for (var j = 0u; j < 4u; j++) {
        let col = col_first + j * SIDE;
        if row < params.m && col < params.n {
            let at = params.c_offset + row * params.c_row_stride + col * params.c_col_stride;
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
    @builtin(local_invocation_index) lane: u32,
) {
    // The barriers below need a loop bound that is provably the same for the whole workgroup.
    if lane == 0u {
        depth_total = params.k;
    }
    let k = workgroupUniformLoad(&depth_total);

    let col_tiles = (params.n + TILE - 1u) / TILE;
    let tile = group.y * groups.x + group.x;
    let row_base = (tile / col_tiles) * TILE;
    let col_base = (tile % col_tiles) * TILE;

    var sum_0 = vec4f();
    var sum_1 = vec4f();
    var sum_2 = vec4f();
    var sum_3 = vec4f();
    for (var k_base = 0u; k_base < k; k_base += DEPTH) {
        for (var i = 0u; i < TILE * DEPTH; i += INVOCATIONS) {
            let a_place = place(lane + i, params.a_col_stride == 1u);
            let row = row_base + a_place.x;
            let a_k = k_base + a_place.y;
            var value = 0.0;
            if row < params.m && a_k < k {
                value = a[params.a_offset + row * params.a_row_stride + a_k * params.a_col_stride];
            }
            a_tile[a_place.y * PITCH + a_place.x] = value;

            let b_place = place(lane + i, params.b_row_stride == 1u);
            let col = col_base + b_place.x;
            let b_k = k_base + b_place.y;
            value = 0.0;
            if col < params.n && b_k < k {
                value = b[params.b_offset + b_k * params.b_row_stride + col * params.b_col_stride];
            }
            b_tile[b_place.y * PITCH + b_place.x] = value;
        }
        workgroupBarrier();
        for (var i = 0u; i < DEPTH; i++) {
            let a_at = i * PITCH + local.y * 4u;
            let b_at = i * PITCH + local.x;
            let b_row = vec4f(b_tile[b_at], b_tile[b_at + SIDE], b_tile[b_at + 2u * SIDE], b_tile[b_at + 3u * SIDE]);
            sum_0 += a_tile[a_at] * b_row;
            sum_1 += a_tile[a_at + 1u] * b_row;
            sum_2 += a_tile[a_at + 2u] * b_row;
            sum_3 += a_tile[a_at + 3u] * b_row;
        }
        workgroupBarrier();
    }
    let row = row_base + local.y * 4u;
    let col = col_base + local.x;
    store(row, col, sum_0);
    store(row + 1u, col, sum_1);
    store(row + 2u, col, sum_2);
    store(row + 3u, col, sum_3);
}
