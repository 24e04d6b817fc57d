"""Training again and again in one bundle, as MONAI Label does: the run before is kept, the new weights are offered.

Packed bundles call these in ``run``, which other programs start without naming a folder. Their ``training`` refuses one
that holds a run, as that of every bundle.
"""

from __future__ import annotations

import logging
from itertools import count
from pathlib import Path

import torch
from torch import distributed

from medseg3d.engines.training import BEST, LAST
from medseg3d.errors import OutputError
from medseg3d.files import whole_or_not_at_all
from medseg3d.options import flag
from medseg3d.processes import process_count, process_rank

__all__ = ["OFFERED", "offer_weights", "set_aside"]

OFFERED = "trained.pt"

logger = logging.getLogger("medseg3d")


def set_aside(output_dir: str | Path, *, resume: bool | str = False) -> None:
    """Rename a run that lies at ``output_dir`` to the first of ``<output_dir>_1``, ``_2``, … that is free.

    Nothing is done where there is none, or where it is to be resumed. Of several processes the first one renames.

    Raises:
        OutputError: the run lies in the current folder, or around it.
    """
    folder = Path(output_dir)
    if process_rank() == 0 and (folder / LAST).exists() and not flag(resume, "resume"):
        if Path.cwd().is_relative_to(folder.resolve()):
            raise OutputError(
                f"{folder.resolve()} holds a run and is where this program runs, so that it cannot be set aside: name "
                "another --output_dir, or continue the run with --resume true."
            )
        names = (folder.with_name(f"{folder.name}_{number}") for number in count(1))
        target = next(path for path in names if not path.exists())
        folder.rename(target)
        logger.info("%s held a run, which is kept as %s.", folder, target)
    if process_count() > 1:
        distributed.barrier()


def offer_weights(output_dir: str | Path, bundle_root: str | Path) -> Path:
    """Write a run's best weights to the bundle's ``models/trained.pt``, as a bare state dict, and return its path.

    ``models/model.pt``, with its hash and its scores, stays as it was packed: MONAI Label lists every ``models/*.pt``,
    and a person chooses. Pack the run to make a bundle of it.

    Raises:
        CheckpointError: the run has no ``best.pt``.
        OutputError: the bundle's folder cannot be written to.
    """
    from medseg3d.inference.weights import read_state  # inference imports the engines

    path = Path(bundle_root) / "models" / OFFERED
    if process_rank() == 0:
        state = read_state(Path(output_dir) / BEST)
        with whole_or_not_at_all(path) as temporary:
            torch.save(dict(state), temporary)
        logger.info("The best weights of %s are offered as %s.", output_dir, path)
    return path
