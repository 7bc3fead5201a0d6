// hit[r] = 1 if the largest logit of row r is at its label, else 0. Of equal logits the first counts.

struct Params {
    rows: u32,
    classes: u32,
    logits_offset: u32,
    logits_row_stride: u32,
    labels_offset: u32,
    hit_offset: u32,
    padding_0: u32,
    padding_1: u32,
}

@group(0) @binding(0) var<storage, read_write> params: Params;
@group(0) @binding(1) var<storage, read_write> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> labels: array<u32>;
@group(0) @binding(3) var<storage, read_write> hit: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = (group.y * groups.x + group.x) * 64u + lane;
    if row >= params.rows {
        return;
    }
    let start = params.logits_offset + row * params.logits_row_stride;
    var best = 0u;
    for (var class_index = 1u; class_index < params.classes; class_index++) {
        if logits[start + class_index] > logits[start + best] {
            best = class_index;
        }
    }
    let right = best == labels[params.labels_offset + row] && best < params.classes;
    hit[params.hit_offset + row] = select(0.0, 1.0, right);
}
