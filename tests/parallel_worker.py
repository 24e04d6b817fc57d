"""What two processes compute, for test_parallel.py to compare with one: ``torchrun … parallel_worker.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader
from monai.inferers import SimpleInferer
from monai.transforms import AsDiscreted, Compose, EnsureTyped, RandGaussianNoised

from medseg3d.data import SeededCacheDataset, training_loader
from medseg3d.engines import (
    LabelDice,
    ResumableTrainer,
    distribute,
    evaluator,
    join_processes,
    leave_processes,
    own_share,
    trainer,
)
from medseg3d.losses import SegmentationLoss
from medseg3d.processes import process_count, process_rank, summed_over_processes

BATCH, EPOCHS, IGNORED = 4, 4, 9
REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
LOSSES = {
    f"{'regions' if regions else 'labels'}-{'batch' if batch_dice else 'sample'}-{'ignore' if ignore else 'all'}": (
        regions,
        IGNORED if ignore else None,
        batch_dice,
    )
    for regions in (None, REGIONS)
    for batch_dice in (True, False)
    for ignore in (True, False)
}


def small_network(channels: int) -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.LeakyReLU(), torch.nn.Conv3d(4, channels, 1)
    )


def batch(*, ignore: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch whose first half has far fewer voxels that count, and fewer labels, than the second."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 1, 6, 5, 4, generator=generator)
    labels = torch.randint(0, 4, images.shape, generator=generator)
    labels[: BATCH // 2][labels[: BATCH // 2] == 3] = 0
    if ignore:
        labels[: BATCH // 2, :, 1:] = IGNORED
    return images, labels


def loss_and_gradients(name: str) -> dict[str, torch.Tensor]:
    """Mean loss over the processes, and the gradient that the optimizer sees."""
    regions, ignore_label, batch_dice = LOSSES[name]
    bare = small_network(3 if regions else 4)
    network = distribute(bare, "cpu")
    images, labels = batch(ignore=ignore_label is not None)
    own = BATCH // process_count()
    mine = slice(process_rank() * own, (process_rank() + 1) * own)
    loss = SegmentationLoss(regions, ignore_label, batch_dice)(network(images[mine]), labels[mine])
    loss.backward()
    mean = summed_over_processes(loss.detach()) / process_count()
    return {"loss": mean} | {key: value.grad for key, value in bare.named_parameters()}


def cases(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    made = []
    for index in range(count):
        label = np.zeros((1, 8, 8, 8), np.uint8)
        start = rng.integers(0, 4, 3)
        label[0, start[0] : start[0] + 4, start[1] : start[1] + 4, start[2] : start[2] + 4] = 1
        made.append(
            {"case": f"c{index}", "image": (label + rng.normal(0, 0.3, label.shape)).astype("f4"), "label": label}
        )
    return made


def make_trainer(folder: Path, *, resume: bool = False, stop_after: int = EPOCHS) -> ResumableTrainer:
    """Plain SGD without momentum: its steps are as close to each other as the gradients are."""
    network = distribute(small_network(2), "cpu")
    noisy = Compose([EnsureTyped(("image", "label"), track_meta=False), RandGaussianNoised("image", prob=0.8)])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    plain = CacheDataset(cases(3), EnsureTyped(("image", "label"), track_meta=False), progress=False)
    made = trainer(
        device="cpu",
        max_epochs=EPOCHS,
        train_data_loader=training_loader(
            SeededCacheDataset(cases(5), noisy, seed=2), batch_size=BATCH, iterations_per_epoch=3
        ),
        network=network,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=3 * EPOCHS, power=0.9),
        loss_function=SegmentationLoss(),
        inferer=SimpleInferer(),
        output_dir=folder,
        resume=resume,
        amp=False,
        labels={"inside": 1},
        evaluator=evaluator(
            device="cpu",
            val_data_loader=DataLoader(plain, batch_size=1, sampler=own_share(len(plain))),
            network=network,
            inferer=SimpleInferer(),
            postprocessing=AsDiscreted("pred", argmax=True),
            key_val_metric={"val_mean_dice": LabelDice({"inside": 1})},
            amp=False,
        ),
    )
    made.add_event_handler(Events.EPOCH_COMPLETED(once=stop_after), lambda engine: engine.terminate())
    return made


def main(folder: Path) -> None:
    join_processes("cpu", batch_size=BATCH)
    results = {name: loss_and_gradients(name) for name in LOSSES}
    if process_rank() == 0:
        torch.save(results, folder / "losses.pt")
    make_trainer(folder / "two").run()
    make_trainer(folder / "two_then_one", stop_after=2).run()
    make_trainer(folder / "one_then_two", resume=True).run()
    leave_processes()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
