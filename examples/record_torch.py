"""Records what a PyTorch model asks the CPU allocator for while it trains, as a trace for `examples/replay`.

    python examples/record_torch.py mlp.trace.gz
    cargo run --release --example replay -- mlp.trace.gz --min-budget

Your own model: import `Recorder`, build the model inside it, run a step or two to warm up, and call `step()` before every
step that counts.

    with Recorder("mine.trace.gz", name="mine") as recorder:
        model, optimizer = ...
        train(batch)                      # warm up: optimizers make their state in the first step
        for batch in batches:
            recorder.step()
            train(batch)

PyTorch's profiler sees every allocation of the CPU allocator, the scratch inside an operation too, with the size that was
asked for. What is alive at the first `step()` becomes the trace's beginning. A label is the operation that asked.

On CUDA there is nothing to write: PyTorch's own snapshot is read as it is.

    torch.cuda.memory._record_memory_history(max_entries=1_000_000)
    for batch in batches:
        train(batch)
    torch.cuda.memory._dump_snapshot("mine.pickle")
    torch.cuda.memory._record_memory_history(enabled=None)

    cargo run --release --example replay -- mine.pickle --min-budget
"""

import gzip
import sys

import torch

# The steps, among the profiler's events.
MARK = "tensorpool step "


class Recorder:
    """Between entering and leaving, everything is recorded; leaving writes the file, gzipped if its name ends in .gz."""

    def __init__(self, path, name, **about):
        self.path, self.name, self.about, self.steps = path, name, about, 0

    def __enter__(self):
        activities = [torch.profiler.ProfilerActivity.CPU]
        self.profiler = torch.profiler.profile(activities=activities, profile_memory=True, record_shapes=False)
        self.profiler.__enter__()
        return self

    def step(self):
        """To be called before every step."""
        self.steps += 1
        with torch.profiler.record_function(f"{MARK}{self.steps}"):
            pass

    def __exit__(self, error, *rest):
        self.profiler.__exit__(error, *rest)
        if error is None:
            write(self.path, self.name, self.about, events(self.profiler))


def events(profiler):
    """(time, "a", address, bytes, label), (time, "f", address, bytes, label) and (time, "step", number), as they came."""
    found = []
    waiting = [(root, "") for root in profiler.profiler.kineto_results.experimental_event_tree()]
    while waiting:
        event, label = waiting.pop()
        kind = event.tag.name
        if kind == "Allocation" and event.extra_fields.device.type == "cpu":
            size = event.extra_fields.alloc_size
            found.append((event.start_time_ns, "a" if size > 0 else "f", event.extra_fields.ptr, abs(size), label))
        elif kind == "TorchOp":
            if event.name.startswith(MARK):
                found.append((event.start_time_ns, "step", int(event.name.removeprefix(MARK))))
            label = event.name
        waiting.extend((child, label) for child in event.children)
    found.sort(key=lambda event: event[0])
    return found


def write(path, name, about, events):
    """Writes the text format."""
    lines, ids, live, count = [], {}, {}, 0
    recording = False
    for _, kind, *event in events:
        if kind == "step":
            # The recording begins with what is alive, in the order in which it was allocated.
            for address, (size, label) in [] if recording else live.items():
                ids[address], count = allocate(lines, count, size, label)
            recording = True
            lines.append(f"# step {event[0]}")
            continue
        address, size, label = event
        if kind == "a":
            live[address] = (size, label)
            if recording:
                ids[address], count = allocate(lines, count, size, label)
        elif live.pop(address, None) and recording:
            lines.append(f"f {ids.pop(address)}")
    if not recording:
        raise ValueError("step() was never called: there is no beginning to write from")
    header = {"trace": name, "framework": f"torch {torch.__version__}", "device": "cpu", **about}
    text = "".join(f"# {key}: {value}\n" for key, value in header.items()) + "".join(f"{line}\n" for line in lines)
    with gzip.open(path, "wt") if str(path).endswith(".gz") else open(path, "w") as file:
        file.write(text)


def allocate(lines, count, size, label):
    lines.append(f"a {count} {size} {label}".rstrip())
    return count, count + 1


def main(path):
    """The perceptron that `examples/train_mlp` trains, in PyTorch."""
    torch.manual_seed(1)
    with Recorder(path, name="mlp 784-512-256-10", settings="batch 128, SGD with momentum", steps=3) as recorder:
        layers = [torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256), torch.nn.ReLU()]
        model = torch.nn.Sequential(*layers, torch.nn.Linear(256, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def train():
            images, labels = torch.rand(128, 784), torch.randint(10, (128,))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

        train()
        for _ in range(3):
            recorder.step()
            train()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: record_torch.py FILE.trace.gz")
    main(sys.argv[1])
