"""What training draws its samples from: a cached data set whose randomness is keyed, and the order of the draws.

Random augmentation normally depends on how many worker processes there are and on everything drawn before. Here each
sample is a pure function of (seed, draw), where draw counts all samples since training began. So a resumed run sees
what the uninterrupted one would have seen, with any number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset
from monai.transforms import Compose
from torch.utils.data import DataLoader, Sampler

from medseg3d.processes import ProcessSampler, process_rank

__all__ = ["SAMPLE_SEED", "EpochSampler", "SeededCacheDataset", "default_workers", "training_loader"]

Draw = tuple[int, int]  # (index of the case, number of the draw)

SAMPLE_SEED = "sample_seed"
"""Entry of a sample with its own seed, for what changes whole batches later (``medseg3d.augmentation``)."""


class EpochSampler(Sampler[Draw]):
    """Draws for one epoch after another: shuffled passes over the data, cut into epochs of a fixed number of samples.

    Every case is drawn once before any is drawn twice, whatever ``samples_per_epoch`` is; with ``weights`` each draw is
    independent of the others.

    Args:
        cases: number of cases in the data set.
        samples_per_epoch: draws an epoch.
        seed: of the shuffling.
        weights: how likely each case is drawn, in proportion; None shuffles.
    """

    def __init__(
        self, cases: int, samples_per_epoch: int, *, seed: int = 0, weights: Sequence[float] | None = None
    ) -> None:
        self.cases, self.samples_per_epoch, self.seed = cases, samples_per_epoch, seed
        self.probabilities = None if weights is None else np.asarray(weights, dtype=float) / np.sum(weights)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples_per_epoch

    def __iter__(self) -> Iterator[Draw]:
        first = self.epoch * self.samples_per_epoch
        shuffled, order = -1, np.empty(0, dtype=int)
        for draw in range(first, first + self.samples_per_epoch):
            shuffle, position = divmod(draw, self.cases)
            if shuffle != shuffled:
                order = self._pass(np.random.default_rng((self.seed, shuffle)))
                shuffled = shuffle
            yield int(order[position]), draw

    def _pass(self, generator: np.random.Generator) -> np.ndarray:
        """As many draws as there are cases."""
        if self.probabilities is None:
            return generator.permutation(self.cases)
        return generator.choice(self.cases, size=self.cases, p=self.probabilities)


class SeededCacheDataset(CacheDataset):
    """MONAI's ``CacheDataset`` whose random transforms start from (seed, draw) for each sample.

    Items are asked for by ``(index, draw)``, as ``EpochSampler`` yields them; a plain index counts as draw 0. Each has
    an entry ``sample_seed``, from which ``medseg3d.augmentation`` goes on drawing when it is part of a batch. Random
    transforms must not write into what they are given (MONAI's and ours do not), since cached arrays are not copied.

    Args:
        data: a mapping a case.
        transform: the deterministic transforms first (their result is cached), then the random ones.
        seed: of all randomness.
        cache_rate: share of the cases kept in memory, 0 to 1.
        num_workers: threads that fill the cache.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable | Sequence[Callable],
        *,
        seed: int = 0,
        cache_rate: float = 1.0,
        num_workers: int = 2,
    ) -> None:
        compose = transform if isinstance(transform, Compose) else Compose(transform)
        self.seed = seed
        super().__init__(
            data,
            compose,
            cache_rate=cache_rate,
            num_workers=num_workers,
            copy_cache=False,
            progress=process_rank() == 0,
        )

    def __getitem__(self, index: int | Draw) -> Any:
        case, draw = (index, 0) if isinstance(index, int) else index
        sample_seed = int(np.random.SeedSequence((self.seed, draw)).generate_state(1)[0])
        self.transform.set_random_state(seed=sample_seed)
        sample = self._transform(case)
        if isinstance(sample, dict):
            sample[SAMPLE_SEED] = sample_seed
        return sample

    def _transform(self, index: int) -> Any:
        if index < self.cache_num and isinstance(self._cache[index], dict):
            first_random = self.transform.get_index_of_first(_is_random)
            # Shallow: transforms replace a sample's entries, and must not replace the cache's.
            sample = dict(self._cache[index])
            return sample if first_random is None else self.transform(sample, start=first_random)
        return super()._transform(index)


def _is_random(transform: Callable) -> bool:
    from monai.transforms import RandomizableTrait, Transform

    return isinstance(transform, RandomizableTrait) or not isinstance(transform, Transform)


def default_workers(device: torch.device | str) -> int:
    """Processes that read patches, for training on ``device``: a GPU's share of the cores, at most 8; none for a CPU.

    On a CPU the network uses every core, so a process beside it takes from it what it gives
    (``scripts/benchmarks/bench_step.py``).

    >>> default_workers("cpu")
    0
    """
    if torch.device(device).type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // max(1, torch.cuda.device_count()) - 1))


def training_loader(
    dataset: SeededCacheDataset,
    *,
    batch_size: int,
    iterations_per_epoch: int,
    num_workers: int = 0,
    pin_memory: bool = False,
    weights: Sequence[float] | None = None,
    collate_fn: Callable[..., Any] | None = None,
) -> DataLoader:
    """Batches for ``iterations_per_epoch`` iterations an epoch, in the order of an ``EpochSampler``.

    Args:
        batch_size: samples in a batch; of all processes together, where several train (``medseg3d.processes``).
        num_workers: processes that augment; the samples are the same for any number.
        pin_memory: copy batches to page-locked memory, for a GPU.
        weights: how likely each case is drawn, see ``medseg3d.imbalance.sampling_weights``; None shuffles.
        collate_fn: makes a batch of samples; None stacks them, as MONAI's ``list_data_collate``.
    """
    from monai.data import list_data_collate

    draws = EpochSampler(len(dataset), batch_size * iterations_per_epoch, seed=dataset.seed, weights=weights)
    sampler = ProcessSampler(draws, batch_size)
    return DataLoader(
        dataset,
        batch_size=sampler.own_batch_size,
        sampler=sampler,
        num_workers=num_workers,
        # Its own: else it draws from the global state, once an epoch without workers and once a run with them.
        generator=torch.Generator(),
        collate_fn=collate_fn or list_data_collate,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        worker_init_fn=_one_thread if num_workers else None,
    )


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
