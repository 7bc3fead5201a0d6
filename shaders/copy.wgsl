// Copies words between two ranges of one buffer. The host twin is `copy_from_slice`.
//
// Both ranges end where their bindings end; a range that does not start where a binding may start is shifted into it.

override source_shift: u32 = 0u;
override target_shift: u32 = 0u;

@group(0) @binding(0) var<storage, read_write> copy_source: array<u32>;
@group(0) @binding(1) var<storage, read_write> copy_target: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let words = arrayLength(&copy_target) - target_shift;
    for (var word = id.x; word < words; word += groups.x * 256u) {
        copy_target[target_shift + word] = copy_source[source_shift + word];
    }
}
