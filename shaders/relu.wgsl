// x[i] becomes 0 where it is negative, in place. A NaN stays a NaN, as far as the device keeps them.

struct Params {
    len: u32,
    x_offset: u32,
    padding_0: u32,
    padding_1: u32,
}

@group(0) @binding(0) var<storage, read_write> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;

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
    let at = params.x_offset + i;
    if x[at] < 0.0 {
        x[at] = 0.0;
    }
}
