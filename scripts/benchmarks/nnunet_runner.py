"""Train nnU-Net v2 for a fixed number of iterations on a data list's other folds, and score the held-out fold.

The peer's half of a benchmark: it runs in an environment of its own (nnU-Net pins and brings its own packages), so it
imports nothing of medseg3d and hands over one JSON file::

    python -m venv nnunet-venv
    nnunet-venv/bin/python -m pip install torch nnunetv2
    nnunet-venv/bin/python nnunet_runner.py --datalist datalist.json --fold 0 --work work --out nnunet.json

What is nnU-Net's own, unchanged: fingerprint, plan and preprocessing (`3d_fullres`), network, loss, optimizer,
augmentation, the poly learning rate (a step an epoch, here over the epochs of this budget), the validation on patches
after each epoch, the final checkpoint, and the predictor with mirroring. As nnU-Net ships it, a CPU run uses neither
torch.compile nor autocast: float32 throughout.

What the budget sets: the batch size (the plan's own is reported beside it), and the length: epochs of
`--iterations-per-epoch`, with nnU-Net's one validation batch to five training batches (250 to 50 as shipped).
As in nnU-Net's own cross-validation, fingerprint and plan see all cases, the held-out ones too; no weight is chosen by
the held-out fold, since the final checkpoint is used and not the best.

Times are apart: preparation, set-up of the trainer, training iterations (with the wait for their batches), validation
batches of the epochs, prediction. Tried with nnunetv2 2.8.1, torch 2.14.1, Python 3.11.

Exit status: 0 done; 1 the data or the run failed; 2 wrong usage; 3 nnunetv2 is not installed for this interpreter.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import random
import resource
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Nothing heavy at the top: nnU-Net's worker processes import this file again, it reads its folders and process counts
# from the environment when it is imported, and an interpreter without it shall get a message and not a traceback.
if TYPE_CHECKING:
    import numpy as np
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

DATASET_ID = 900
DATASET_NAME = f"Dataset{DATASET_ID}_Benchmark"
CONFIGURATION = "3d_fullres"
FILE_ENDING = ".nii.gz"
TRAINING_ITERATIONS_PER_VALIDATION_ITERATION = 5
REPORTED_PACKAGES = (
    "nnunetv2",
    "torch",
    "batchgenerators",
    "batchgeneratorsv2",
    "dynamic_network_architectures",
    "numpy",
)

EXIT_FAILED, EXIT_USAGE, EXIT_NOT_INSTALLED = 1, 2, 3


class RunnerError(Exception):
    """The run cannot be done with these inputs; the message says what and what to do."""


@dataclass(frozen=True)
class Case:
    """One labelled study: a file a channel, and a label map on their grid."""

    name: str
    images: tuple[Path, ...]
    label: Path
    fold: int


@dataclass(frozen=True)
class DataList:
    """The cases of a data list, with the foreground labels by name."""

    labels: dict[str, int]
    channels: tuple[str, ...]
    cases: tuple[Case, ...]

    def held_out(self, fold: int) -> list[Case]:
        """The cases of `fold`, in the order of the list."""
        return [case for case in self.cases if case.fold == fold]

    def kept(self, fold: int) -> list[Case]:
        """The cases of every other fold."""
        return [case for case in self.cases if case.fold != fold]


@dataclass
class TrainingClock:
    """Wall seconds of one training, kept apart by what they were spent on."""

    setup_s: float = 0.0  # network, data loaders and the first batch
    validation_s: float = 0.0  # nnU-Net's validation batches, a few after each epoch
    bookkeeping_s: float = 0.0  # checkpoints, plots and logs after each epoch
    iterations_s: list[float] = field(default_factory=list)  # each with the wait for its batch
    waits_s: list[float] = field(default_factory=list)  # for the batch alone

    @property
    def training_s(self) -> float:
        """Seconds in training iterations alone."""
        return sum(self.iterations_s)


@dataclass(frozen=True)
class Scores:
    """Dice of the held-out cases, with the seconds that predicting them took."""

    by_case: dict[str, dict[str, float]]  # case -> label -> Dice, NaN where both masks are empty
    prediction_s: float

    def by_label(self) -> dict[str, float]:
        """Mean over the cases, NaN skipped; NaN for a label that no case has."""
        labels = next(iter(self.by_case.values()))
        return {label: mean_of_numbers([case[label] for case in self.by_case.values()]) for label in labels}

    def foreground(self) -> float:
        """Mean over the labels of the means over the cases."""
        return mean_of_numbers(list(self.by_label().values()))


def mean_of_numbers(values: list[float]) -> float:
    """Mean of the values that are numbers; NaN when there is none.

    >>> mean_of_numbers([0.5, math.nan, 1.0])
    0.75
    """
    numbers = [value for value in values if not math.isnan(value)]
    return statistics.fmean(numbers) if numbers else math.nan


def dice(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Overlap of two boolean masks on one grid, 0 (disjoint) to 1 (equal); NaN when both are empty.

    >>> import numpy as np
    >>> round(dice(np.array([1, 1, 0], bool), np.array([1, 0, 0], bool)), 3)
    0.667
    """
    voxels = int(reference.sum()) + int(prediction.sum())
    return 2 * int((reference & prediction).sum()) / voxels if voxels else math.nan


# --- the data list -------------------------------------------------------------------------------------------------


def read_datalist(path: Path) -> DataList:
    """The data list at `path`, with its paths made absolute. Raises RunnerError for one that cannot be used here."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunnerError(f"{path}: cannot be read ({error.strerror}). Check --datalist.") from error
    except json.JSONDecodeError as error:
        raise RunnerError(f"{path}: not JSON ({error}). Check --datalist.") from error
    try:
        cases = tuple(_read_case(entry, path.parent) for entry in content["training"])
        labels = {name: int(label_id) for name, label_id in content["labels"].items() if int(label_id) != 0}
    except KeyError as error:
        raise RunnerError(
            f"{path}: no {error} where one is needed. A split data list has labels {{name: id}} and, "
            "for every training case, case, image, label and fold: see `medseg3d datalist split`."
        ) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise RunnerError(f"{path}: {error}. Labels are {{name: id}} with whole numbers, and so are folds.") from error
    _check_labels(labels, path)
    _check_cases(cases, path)
    channels = tuple(content.get("channels", [])) or tuple(f"channel{i}" for i in range(len(cases[0].images)))
    return DataList(labels=labels, channels=channels, cases=cases)


def _read_case(entry: dict[str, Any], folder: Path) -> Case:
    images = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    return Case(
        name=entry["case"],
        images=tuple((folder / image).resolve() for image in images),
        label=(folder / entry["label"]).resolve(),
        fold=int(entry["fold"]),
    )


def _check_labels(labels: dict[str, int], path: Path) -> None:
    if sorted(labels.values()) != list(range(1, len(labels) + 1)):
        raise RunnerError(
            f"{path}: the label ids are {sorted(labels.values())}, and nnU-Net needs 1, 2, 3, ... without gaps."
        )


def _check_cases(cases: tuple[Case, ...], path: Path) -> None:
    if not cases:
        raise RunnerError(f"{path}: no training cases.")
    repeated = [name for name, times in Counter(case.name for case in cases).items() if times > 1]
    if repeated:
        raise RunnerError(f"{path}: {len(repeated)} case names stand more than once, the first {repeated[0]!r}.")
    files = [file for case in cases for file in (*case.images, case.label)]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise RunnerError(f"{path}: {len(missing)} of {len(files)} files are missing, the first {missing[0]}.")
    other = [file for file in files if not file.name.endswith(FILE_ENDING)]
    if other:
        raise RunnerError(f"{path}: {len(other)} files are not {FILE_ENDING}, the first {other[0]}.")


# --- nnU-Net's folders ---------------------------------------------------------------------------------------------


def set_environment(work: Path, *, threads: int) -> None:
    """Tell nnU-Net its folders and process counts; to be called before the first import of it."""
    folders = {f"nnUNet_{name}": work / name for name in ("raw", "preprocessed", "results")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    os.environ.update({name: str(folder) for name, folder in folders.items()})
    # OpenMP's one thread is for the worker processes, as in nnU-Net's own entry point; torch gets its threads later.
    os.environ.update({"nnUNet_def_n_proc": str(threads), "OMP_NUM_THREADS": "1"})
    set_augmentation_workers(threads)


def set_augmentation_workers(workers: int) -> None:
    """nnU-Net's number of augmenting processes, for the trainers from here on.

    The planner takes the same number for its torch threads and cannot do with 0: set that after planning.
    """
    os.environ.update({"nnUNet_n_proc_DA": str(workers)})


def write_raw_dataset(raw: Path, data: DataList) -> None:
    """nnU-Net's raw data set in `raw`: images by their absolute path, label maps copied as whole numbers."""
    labels_folder = raw / DATASET_NAME / "labelsTr"
    labels_folder.mkdir(parents=True)
    dataset: dict[str, dict[str, Any]] = {}
    for case in data.cases:
        label = labels_folder / f"{case.name}{FILE_ENDING}"
        copy_label_map(case.label, label)
        dataset[case.name] = {"images": [str(image) for image in case.images], "label": str(label)}
    write_json(
        raw / DATASET_NAME / "dataset.json",
        {
            "channel_names": {str(i): name for i, name in enumerate(data.channels)},
            "labels": {"background": 0, **data.labels},
            "numTraining": len(data.cases),
            "file_ending": FILE_ENDING,
            "dataset": dataset,
        },
    )


def copy_label_map(source: Path, target: Path) -> None:
    """Copy a label map as uint8: some public ones are stored as float, which nnU-Net's reader takes as it is."""
    import nibabel as nib

    image = nib.load(source)
    voxels = read_label_map(source)
    copy = nib.Nifti1Image(voxels, image.affine, image.header)
    copy.header.set_data_dtype("uint8")
    copy.header.set_slope_inter(1, 0)
    nib.save(copy, target)


def read_label_map(path: Path) -> np.ndarray:
    """Voxels of a label map as uint8. Raises RunnerError where they are not whole numbers from 0 to 255."""
    import nibabel as nib
    import numpy as np

    stored = np.asanyarray(nib.load(path).dataobj)
    voxels = np.rint(stored)
    if not np.array_equal(voxels, stored) or voxels.min() < 0 or voxels.max() > 255:
        raise RunnerError(f"{path}: label values {stored.min()} to {stored.max()} are not whole numbers in 0..255.")
    return voxels.astype(np.uint8)


def prepare(work: Path, data: DataList, *, fold: int, threads: int) -> float:
    """Run fingerprint, plan and preprocessing, and write the split; the seconds of the first three."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
        preprocess_dataset,
    )

    write_raw_dataset(work / "raw", data)
    start = time.perf_counter()
    extract_fingerprint_dataset(DATASET_ID, num_processes=threads, show_progress_bar=False, verbose=False)
    plan_experiment_dataset(DATASET_ID)
    preprocess_dataset(DATASET_ID, configurations=(CONFIGURATION,), num_processes=(threads,), show_progress_bar=False)
    seconds = time.perf_counter() - start
    split = {
        "train": [case.name for case in data.kept(fold)],
        "val": [case.name for case in data.held_out(fold)],
    }
    write_json(work / "preprocessed" / DATASET_NAME / "splits_final.json", [split])
    return seconds


def read_plans(work: Path) -> dict[str, Any]:
    """The plan that nnU-Net made of this data set."""
    return json.loads((work / "preprocessed" / DATASET_NAME / "nnUNetPlans.json").read_text(encoding="utf-8"))


# --- training ------------------------------------------------------------------------------------------------------


def epoch_lengths(iterations: int, per_epoch: int) -> list[int]:
    """Training iterations of each epoch; the last one takes what is left.

    >>> epoch_lengths(120, 50)
    [50, 50, 20]
    """
    full, rest = divmod(iterations, per_epoch)
    return [per_epoch] * full + ([rest] if rest else [])


def make_trainer(work: Path, *, batch_size: int, epochs: int, device: str) -> nnUNetTrainer:
    """nnU-Net's default trainer, with the plan's batch size and the number of epochs replaced."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plans = read_plans(work)
    plans["configurations"][CONFIGURATION]["batch_size"] = batch_size
    plans["continue_training"] = False  # the trainer takes this out of the plans again
    dataset = json.loads((work / "preprocessed" / DATASET_NAME / "dataset.json").read_text(encoding="utf-8"))
    # Fold 0 is nnU-Net's number of the one split that splits_final.json holds.
    trainer = nnUNetTrainer(plans, CONFIGURATION, 0, dataset, device=torch.device(device))
    trainer.num_epochs = epochs  # before initialize(), which gives it to the learning rate's schedule
    return trainer


def train(trainer: nnUNetTrainer, lengths: list[int]) -> TrainingClock:
    """`nnUNetTrainer.run_training`, line by line, with epochs of the given lengths and a clock."""
    import torch

    clock = TrainingClock()
    start = time.perf_counter()
    trainer.on_train_start()
    clock.setup_s = time.perf_counter() - start
    for length in lengths:
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        outputs = [timed_iteration(trainer, clock, total=sum(lengths)) for _ in range(length)]
        trainer.on_train_epoch_end(outputs)

        start = time.perf_counter()
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            batches = max(1, round(length / TRAINING_ITERATIONS_PER_VALIDATION_ITERATION))
            trainer.on_validation_epoch_end(
                [trainer.validation_step(next(trainer.dataloader_val)) for _ in range(batches)]
            )
        clock.validation_s += time.perf_counter() - start

        start = time.perf_counter()
        trainer.on_epoch_end()
        clock.bookkeeping_s += time.perf_counter() - start
    trainer.on_train_end()
    return clock


def timed_iteration(trainer: nnUNetTrainer, clock: TrainingClock, *, total: int) -> dict[str, Any]:
    """One training iteration, its wait for the batch included; a progress line every tenth time."""
    start = time.perf_counter()
    batch = next(trainer.dataloader_train)
    clock.waits_s.append(time.perf_counter() - start)
    output = trainer.train_step(batch)  # ends with the loss on the CPU, so a GPU has finished
    clock.iterations_s.append(time.perf_counter() - start)
    done, loss = len(clock.iterations_s), float(output["loss"])
    if not math.isfinite(loss):
        raise RunnerError(f"the loss of iteration {done} of {total} is {loss}: the training has diverged.")
    if done % 10 == 0 or done == total:
        median_s = statistics.median(clock.iterations_s)
        report(
            f"iteration {done}/{total}, loss {loss:.3f}, {median_s:.2f} s each, {median_s * (total - done):.0f} s left"
        )
    return output


# --- prediction and scores -----------------------------------------------------------------------------------------


def predict_and_score(
    model: Path, cases: list[Case], output: Path, *, labels: dict[str, int], mirroring: bool, device: str
) -> Scores:
    """Predict `cases` with the final checkpoint in `model`, and score them on the grid of their own label maps.

    The predictor is the one of `nnUNetv2_predict -npp 0 -nps 0`: one case after the other, in this process.
    """
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    output.mkdir(parents=True)
    predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device(device), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), use_folds=(0,))
    start = time.perf_counter()
    predictor.predict_from_files_sequential(
        [[str(image) for image in case.images] for case in cases], [str(output / case.name) for case in cases]
    )
    seconds = time.perf_counter() - start
    by_case = {case.name: score_case(case, output / f"{case.name}{FILE_ENDING}", labels=labels) for case in cases}
    return Scores(by_case=by_case, prediction_s=seconds)


def score_case(case: Case, prediction_path: Path, *, labels: dict[str, int]) -> dict[str, float]:
    """Dice of each label. Raises RunnerError when the prediction has another grid than the label map."""
    import nibabel as nib
    import numpy as np

    reference, prediction = read_label_map(case.label), read_label_map(prediction_path)
    affines = [nib.load(path).affine for path in (case.label, prediction_path)]
    if reference.shape != prediction.shape or not np.allclose(*affines, atol=1e-3):
        raise RunnerError(
            f"{case.name}: the prediction has shape {prediction.shape} and the label map {reference.shape}, "
            f"or their affines differ by more than 0.001: {affines[1].tolist()} and {affines[0].tolist()}."
        )
    return {name: dice(reference == label_id, prediction == label_id) for name, label_id in labels.items()}


# --- the run -------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prepare, train, predict and score as the options say; the content of the result file."""
    data = read_datalist(options.datalist)
    held_out = data.held_out(options.fold)
    if not held_out or not data.kept(options.fold):
        folds = sorted({case.fold for case in data.cases})
        raise RunnerError(f"fold {options.fold} leaves nothing to score or to train on: the data list has {folds}.")
    if options.work.exists() and any(options.work.iterdir()):
        raise RunnerError(f"{options.work}: not empty, and reused preprocessing would not be timed. Name a new folder.")
    if options.out.is_dir():
        raise RunnerError(f"{options.out}: a folder. Name a JSON file with --out.")
    options.out.parent.mkdir(parents=True, exist_ok=True)  # now, and not after half an hour of training
    scored = held_out[: options.limit_cases]

    work = options.work.resolve()
    set_environment(work, threads=options.threads)
    report(f"{len(data.cases)} cases: {len(data.kept(options.fold))} to train on, {len(scored)} to score")
    preprocessing_s = prepare(work, data, fold=options.fold, threads=options.threads)
    report(f"fingerprint, plan and preprocessing took {preprocessing_s:.0f} s")

    set_augmentation_workers(options.augmentation_workers)
    seed_everything(options.seed, threads=options.threads)
    lengths = epoch_lengths(options.iterations, options.iterations_per_epoch)
    trainer = make_trainer(work, batch_size=options.batch_size, epochs=len(lengths), device=options.device)
    clock = train(trainer, lengths)
    report(f"{len(clock.iterations_s)} iterations took {clock.training_s:.0f} s")
    memory_mb = peak_memory_mb(options.device)

    model, predictions = Path(trainer.output_folder_base), work / "predictions"
    common = {"labels": data.labels, "device": options.device}
    mirrored = predict_and_score(model, scored, predictions / "mirrored", mirroring=True, **common)
    plain = predict_and_score(model, scored, predictions / "plain", mirroring=False, **common)
    planned = read_plans(work)["configurations"][CONFIGURATION]
    return {
        "method": "nnU-Net v2",
        "configuration": CONFIGURATION,
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in REPORTED_PACKAGES},
        "iterations": len(clock.iterations_s),
        "epoch_lengths": lengths,
        "batch_size": options.batch_size,
        "batch_size_planned": planned["batch_size"],
        "patch_size": planned["patch_size"],
        "architecture": planned["architecture"]["arch_kwargs"],
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
        "seconds_preprocessing": preprocessing_s,
        "seconds_training_setup": clock.setup_s,
        "seconds_training_wall": clock.training_s,
        "seconds_per_iteration_median": statistics.median(clock.iterations_s),
        "seconds_waiting_median": statistics.median(clock.waits_s),
        "peak_memory_mb": memory_mb,
        "device": options.device,
        "seconds_epoch_validation": clock.validation_s,
        "seconds_epoch_bookkeeping": clock.bookkeeping_s,
        "seconds_prediction": mirrored.prediction_s,
        "mirroring": True,
        "dice": numbers_or_null(mirrored.by_label()),
        "dice_mean_foreground": number_or_null(mirrored.foreground()),
        "dice_cases": {case: numbers_or_null(scores) for case, scores in mirrored.by_case.items()},
        "without_mirroring": {
            "seconds_prediction": plain.prediction_s,
            "dice": numbers_or_null(plain.by_label()),
            "dice_mean_foreground": number_or_null(plain.foreground()),
        },
        "seed": options.seed,
        # Worker processes draw from unseeded generators, as shipped, and hand over batches in the order they finish.
        "repeatable": options.augmentation_workers == 0,
        "threads": options.threads,
        "augmentation_workers": options.augmentation_workers,
        "cores_available": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_compile": trainer._do_i_compile(),
        "precision": "float32" if options.device == "cpu" else "float16",
        "fold": options.fold,
        "cases_train": len(data.kept(options.fold)),
        "cases_val": len(held_out),
        "cases_scored": len(scored),
    }


def seed_everything(seed: int, *, threads: int) -> None:
    """Seed Python, NumPy and torch, and give torch its threads."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - batchgenerators draws from NumPy's global generator
    torch.manual_seed(seed)
    torch.set_num_threads(threads)


def peak_memory_mb(device: str) -> float:
    """Most memory that this process held so far: of the GPU, else of the machine (without its worker processes)."""
    import torch

    if device != "cpu":
        return torch.cuda.max_memory_reserved(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # kilobytes on Linux


def number_or_null(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def numbers_or_null(values: dict[str, float]) -> dict[str, float | None]:
    """The same for the values of a dictionary."""
    return {name: number_or_null(value) for name, value in values.items()}


def write_json(path: Path, content: Any) -> None:
    """Write beside and rename, so that the file is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def report(line: str) -> None:
    """One line of progress, at once: the caller reads them through a pipe, among nnU-Net's own."""
    print(f"[nnunet_runner] {line}", flush=True)


def at_least(smallest: int) -> Any:
    """An argparse type: a whole number that is not below `smallest`."""

    def parse(text: str) -> int:
        number = int(text)
        if number < smallest:
            raise argparse.ArgumentTypeError(f"{number} is below {smallest}")
        return number

    return parse


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; argparse exits with status 2 for wrong usage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--datalist", type=Path, required=True, help="data list whose training cases have folds")
    parser.add_argument("--fold", type=at_least(0), required=True, help="fold to hold out")
    parser.add_argument("--work", type=Path, required=True, help="new or empty folder for nnU-Net's files")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--iterations", type=at_least(1), default=300)
    parser.add_argument("--iterations-per-epoch", type=at_least(1), default=50)
    parser.add_argument("--batch-size", type=at_least(1), default=9)
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--threads", type=at_least(1), default=2, help="torch threads, and preprocessing workers")
    parser.add_argument(
        "--device", default="cpu", help="cpu, or cuda:0: there nnU-Net's own float16 autocast and compile"
    )
    parser.add_argument(
        "--augmentation-workers",
        type=at_least(0),
        default=0,
        # On 2 cores a batch of 9 takes 0.05-0.15 s to augment and 5 s to train on: workers could save 3 % at most,
        # would take that from torch's threads, and would make the run unrepeatable.
        help="processes that augment; 0, the default, does it between the iterations",
    )
    parser.add_argument("--limit-cases", type=at_least(1), help="score only so many held-out cases (to try it out)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run, write the result and give the exit status."""
    options = parse_arguments(arguments)
    if importlib.util.find_spec("nnunetv2") is None:
        print(
            f"nnunetv2 is not installed for {sys.executable}. Run `{sys.executable} -m pip install nnunetv2`, "
            "or run this script with the interpreter of an environment that has it.",
            file=sys.stderr,
        )
        return EXIT_NOT_INSTALLED
    try:
        result = run(options)
    except RunnerError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    write_json(options.out, result)
    report(f"mean foreground Dice {result['dice_mean_foreground']} on {result['cases_scored']} cases: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
