// Repeats the words of one range over another range of the same buffer. The host twin is `Host`'s `fill`.

@group(0) @binding(0) var<storage, read_write> fill_pattern: array<u32>;
@group(0) @binding(1) var<storage, read_write> fill_target: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let period = arrayLength(&fill_pattern);
    // Whole patterns, so that an invocation writes one and the same word of it all the time.
    let stride = groups.x * 256u / period * period;
    if (id.x >= stride) {
        return;
    }
    let value = fill_pattern[id.x % period];
    for (var word = id.x; word < arrayLength(&fill_target); word += stride) {
        fill_target[word] = value;
    }
}
