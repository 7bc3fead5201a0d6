"""Makes the snapshots of this folder: `python3 make.py` here.

What they hold is invented; its form is that of `torch.cuda.memory._dump_snapshot`: shared call stacks, blocks that were
alive before the recording, one whose free is not complete, a failed allocation, segments that came and went, two devices
that were recorded and one that was not.
"""

import pickle

STACK = [{"filename": "train.py", "line": line, "name": name} for line, name in [(7, "forward"), (21, "<module>")]]


def entry(action, addr, size, **more):
    key = "device_free" if action == "oom" else "addr"
    return {"action": action, key: addr, "size": size, "stream": 0, "time_us": 1, "frames": STACK, **more}


def segment(device, address, blocks, **more):
    total = sum(size for size, _, _ in blocks)
    found = []
    for size, requested, state in blocks:
        at = address + sum(block["size"] for block in found)
        block = {"address": at, "size": size, "requested_size": requested, "state": state, "frames": STACK}
        found.append(block)
    return {"device": device, "address": address, "total_size": total, "blocks": found, "segment_pool_id": (0, 0), **more}


# Over 2^63, as addresses of kernels are.
HIGH = 0xFFFF_8000_0000_0000

SNAPSHOT = {
    "segments": [
        # 0x1000 was there before and is in no entry; 0x1400 is allocated and its free is not complete.
        segment(0, 0x1000, [(1024, 1000, "active_allocated"), (512, 500, "active_pending_free"), (512, 0, "inactive")]),
        segment(0, HIGH, [(4096, 4000, "active_allocated")], is_expandable=True),
        segment(1, 0x1000, [(2048, 0, "inactive")]),
        segment(2, 0x1000, [(2048, 2000, "active_allocated")]),
    ],
    "device_traces": [
        [
            # There before, because it is freed and was not allocated.
            entry("free_requested", 0x9000, 300),
            entry("free_completed", 0x9000, 300),
            entry("segment_free", 0x9000, 8192),
            entry("oom", 1234, 1 << 40),
            entry("alloc", 0x1400, 500),
            entry("segment_map", HIGH, 4096),
            entry("alloc", HIGH, 4000),
            entry("free_requested", 0x1400, 500),
            entry("snapshot", 0, 0),
        ],
        [entry("segment_alloc", 0x1000, 2048), entry("alloc", 0x1000, 64), entry("free_completed", 0x1000, 64)],
        [],
    ],
    "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": "", "expandable_segments": False, "threshold": 0.5},
    "external_annotations": [],
}

for protocol in range(6):
    with open(f"snapshot{protocol}.pickle", "wb") as file:
        pickle.dump(SNAPSHOT, file, protocol)
