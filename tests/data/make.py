"""Makes the snapshots of this folder: `python3 make.py` here.

What they hold is invented; its form is that of `torch.cuda.memory._dump_snapshot`: shared call stacks, blocks that were
alive before the recording, one whose free is not complete, a failed allocation, segments that came and went, two devices
that were recorded and one that was not. Others have step marks and pinned memory, no history, and a history with holes.

The rest is not made here. `negaddr`, `devneg`, `tuple` and the CSV files were found to be read wrong. `kineto_*.json.gz` are recordings of
ours with torch 1.12.1 and 1.9.1 on the CPU: `profile(activities=[CPU], profile_memory=True)` around four steps of an MLP
32-64-10, batch 16, SGD with momentum 0.9, after one step before; then `export_chrome_trace`.
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


def annotation(name, stage, time_us, device=0):
    return {"name": name, "stage": stage, "device": device, "time_us": time_us}


def step(number, base):
    """One training step: its buffer, the optimizer's buffer, and what says that it ended."""
    time = 100 * number
    entries = [
        entry("alloc", base, 1000, time_us=time),
        entry("free_completed", base, 1000, time_us=time + 10),
        entry("alloc", base, 200, time_us=time + 20),
        entry("free_completed", base, 200, time_us=time + 30),
    ]
    return entries, [
        annotation("Optimizer.zero_grad#SGD.zero_grad", "START", time - 1),
        annotation("Optimizer.zero_grad#SGD.zero_grad", "END", time),
        annotation("## forward ##", "START", time),
        annotation("Optimizer.step#SGD.step", "START", time + 20),
        annotation("Optimizer.step#SGD.step", "END", time + 30),
    ]


STEPS = [step(number, 0x2000) for number in (1, 2, 3)]

# As PyTorch 2.14 writes it: marks of steps, and pinned host memory.
MODERN = {
    "segments": [segment(0, 0x1000, [(4096, 4000, "active_allocated"), (4096, 0, "inactive")])],
    "device_traces": [[entry for entries, _ in STEPS for entry in entries]],
    "allocator_settings": {},
    "external_annotations": [annotation for _, annotations in STEPS for annotation in annotations],
    "host_segments": [segment(-1, 0x8000, [(1024, 600, "active_allocated")])],
    "host_traces": [entry("segment_alloc", 0x8000, 1024), entry("alloc", 0x8000, 600)],
}

# What remains where nothing was recorded: of a whole snapshot, and of `torch.cuda.memory_snapshot()`.
NO_HISTORY = {**MODERN, "device_traces": [[]], "host_segments": [], "host_traces": [], "external_annotations": []}

# Recording that was switched off and on: the free of 0x1000, in whose place 0x1200 is, is not there, and neither is that of
# 0x5000, which is not in the last segments. With these alive, more would be than PyTorch had reserved.
CUT_OFF = {
    "segments": [segment(0, 0x1000, [(512, 0, "inactive"), (512, 512, "active_allocated"), (1024, 0, "inactive")])],
    "device_traces": [
        [
            entry("alloc", 0x1000, 2048),
            entry("alloc", 0x5000, 4096),
            entry("free_completed", 0x7000, 128),
            entry("alloc", 0x1200, 512),
            entry("free_completed", 0x6000, 64),
        ]
    ],
}

for protocol in range(6):
    with open(f"snapshot{protocol}.pickle", "wb") as file:
        pickle.dump(SNAPSHOT, file, protocol)

SNAPSHOTS = {"modern": MODERN, "no_history": NO_HISTORY, "segments": NO_HISTORY["segments"], "cut_off": CUT_OFF}
for name, snapshot in SNAPSHOTS.items():
    with open(f"{name}.pickle", "wb") as file:
        pickle.dump(snapshot, file, 4)
