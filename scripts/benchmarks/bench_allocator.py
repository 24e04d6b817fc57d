"""What ``medseg3d.engines.memory.keep_freed_memory`` gains: a DynUNet's training step on a CPU, with it and without.

Each runs in a process of its own, alternating, so that a noisy machine disturbs both alike; medians are compared.

    python scripts/benchmarks/bench_allocator.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS, STEPS, WARM_UP = 3, 5, 2
BATCH, PATCH = 9, (40, 56, 40)


def main() -> None:
    seconds: dict[str, list[float]] = {"default": [], "kept": []}
    for _ in range(ROUNDS):
        for mode in seconds:
            answer = subprocess.run([sys.executable, __file__, mode], capture_output=True, text=True, check=True)
            seconds[mode] += [float(value) for value in answer.stdout.split()]
    default, kept = (statistics.median(values) for values in seconds.values())
    size = "×".join(map(str, PATCH))
    print(f"DynUNet 32–256, batch {BATCH} of {size}, bfloat16: median of {ROUNDS * STEPS} training steps each")
    print(f"glibc's default  {default:.2f} s")
    print(f"memory kept      {kept:.2f} s   {kept / default:.2f} of it")


def measure(mode: str) -> None:
    import torch
    from monai.losses import DiceCELoss
    from monai.networks.nets import DynUNet

    from medseg3d.engines.memory import keep_freed_memory
    from medseg3d.losses import StackedDeepSupervisionLoss

    if mode == "kept":
        keep_freed_memory()
    torch.manual_seed(0)
    filters = [32, 64, 128, 256]
    network = DynUNet(3, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=filters, deep_supervision=True, deep_supr_num=2)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    loss = StackedDeepSupervisionLoss(DiceCELoss(softmax=True, to_onehot_y=True, batch=True))
    image, label = torch.randn(BATCH, 1, *PATCH), torch.randint(0, 3, (BATCH, 1, *PATCH))
    for step in range(WARM_UP + STEPS):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            prediction = network(image)
        optimizer.zero_grad(set_to_none=True)
        loss(prediction, label).backward()
        optimizer.step()
        if step >= WARM_UP:
            print(time.perf_counter() - start)


if __name__ == "__main__":
    measure(sys.argv[1]) if len(sys.argv) > 1 else main()
