// Loss of each row and its gradient, in place: logits become (softmax - onehot) * scale, loss = log(sum exp) - logit[label].
//
// One invocation per row. The row's maximum is taken off first, so exp never overflows.
// A label that names no class: loss NaN, gradient 0, nothing out of bounds.

struct Params {
    rows: u32,
    classes: u32,
    labels_offset: u32,
    logits_offset: u32,
    logits_row_stride: u32,
    loss_offset: u32,
    scale: f32,
    padding: u32,
}

@group(0) @binding(0) var<storage, read_write> params: Params;
@group(0) @binding(1) var<storage, read_write> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> logits: array<f32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;

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
    let end = start + params.classes;
    let label = labels[params.labels_offset + row];
    if label >= params.classes {
        var nan_bits = 0x7fc00000u; // a variable: WGSL refuses a constant NaN
        loss[params.loss_offset + row] = bitcast<f32>(nan_bits);
        for (var at = start; at < end; at++) {
            logits[at] = 0.0;
        }
        return;
    }

    var top = logits[start];
    for (var at = start; at < end; at++) {
        top = max(top, logits[at]);
    }
    let shifted_label = logits[start + label] - top;
    var sum = 0.0;
    for (var at = start; at < end; at++) {
        let power = exp(logits[at] - top);
        logits[at] = power;
        sum += power;
    }
    loss[params.loss_offset + row] = log(sum) - shifted_label;
    for (var at = start; at < end; at++) {
        let onehot = select(0.0, 1.0, at == start + label);
        logits[at] = (logits[at] / sum - onehot) * params.scale;
    }
}
