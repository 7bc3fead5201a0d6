// Copies words between two ranges of one buffer. The host twin is `copy_from_slice`.
//
// A binding starts where the device lets bindings start, up to 63 words before its range, and ends with the range. These
// numbers are data, so that one pipeline serves all places: the source skips one word for each row of workgroups but the
// first, the target skips what makes both ranges equally long.

@group(0) @binding(0) var<storage, read_write> copy_source: array<u32>;
@group(0) @binding(1) var<storage, read_write> copy_target: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let source_skip = groups.y - 1u;
    let words = arrayLength(&copy_source) - source_skip;
    let target_skip = arrayLength(&copy_target) - words;
    let row = groups.x * 256u;
    for (var word = id.y * row + id.x; word < words; word += groups.y * row) {
        copy_target[target_skip + word] = copy_source[source_skip + word];
    }
}
