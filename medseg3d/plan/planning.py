"""From a fingerprint to a plan: every value by a stated rule.

The rules are nnU-Net's (Isensee et al. 2021), but for the memory, which is measured on the network that is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medseg3d.errors import UsageError
from medseg3d.plan import anatomy, normalisation
from medseg3d.plan.advice import advise, recommend
from medseg3d.plan.budget import Budget, MeasuredBudget, NnunetBudget, batch_size
from medseg3d.plan.cascade import has_cascade, second_stage
from medseg3d.plan.fingerprint import Fingerprint
from medseg3d.plan.grids import ANISOTROPY, LOWRES_BELOW, Grid, coarse_axis, low_resolution, planning_order, target_grid
from medseg3d.plan.model import Configuration, ConfigurationName, Plan, Value
from medseg3d.plan.overrides import Overrides
from medseg3d.plan.template import Template, network_2d, network_3d, numbers_of, regions_of
from medseg3d.plan.topology import MIN_EDGE, Topology, fit_patch, topology

__all__ = ["make_plan"]

FILES: dict[ConfigurationName, str] = {
    "3d": "plan.yaml",
    "2d": "plan_2d.yaml",
    "lowres": "plan_lowres.yaml",
    "cascade": "plan_cascade.yaml",
}


def make_plan(
    fingerprint: Fingerprint,
    template: Template,
    *,
    memory_gib: float = 8.0,
    overrides: Overrides | None = None,
    budget: Budget | None = None,
) -> Plan:
    """Work out how to train a bundle on a data set.

    Args:
        fingerprint: of the data set.
        template: the bundle.
        memory_gib: of the device that trains.
        overrides: what the user set; it wins, and what follows from it is planned anew.
        budget: what fits into the memory; measured on the network by default.

    Raises:
        UsageError: nothing fits into the memory, or an override that is impossible.
    """
    planner = _Planner(fingerprint, template, memory_gib, overrides or Overrides({}), budget)
    return planner.plan()


@dataclass
class _Planner:
    fingerprint: Fingerprint
    template: Template
    memory_gib: float
    overrides: Overrides
    budget: Budget | None

    def __post_init__(self) -> None:
        self.regions = regions_of(self.template, self.fingerprint)
        self.classes = len(self.regions) or 1 + max(self.fingerprint.labels.values())
        self.in_channels = len(self.fingerprint.channels)
        if self.budget is None:
            self.budget = MeasuredBudget(self.memory_gib, in_channels=self.in_channels, classes=self.classes)
        self.nnunet = NnunetBudget(self.memory_gib, classes=self.classes)
        self.grid, self.grid_value = self._grid()
        self.order = planning_order(self.grid.spacing_mm)

    def plan(self) -> Plan:
        is_flat = self.grid.median_shape[self.order[0]] < 2
        found: dict[ConfigurationName, Configuration] = {}
        coarser = None
        if not is_flat:
            full = self._patch_3d(self.grid, "3d")
            coarser = low_resolution(self.grid, lambda grid: self._fitted(grid, self.order))
            found["3d"] = self._configuration("3d", self.grid, full, batch_dice=coarser is not None)
        found["2d"] = self._slices(file=FILES["3d"] if is_flat else FILES["2d"])
        if coarser is not None:
            found["lowres"] = self._configuration("lowres", *coarser, batch_dice=False)
            if has_cascade(self.template):
                own = self.overrides.own("cascade")
                found["cascade"] = second_stage(found["3d"], file=FILES["cascade"], own=own)
        recommended, why = recommend(found, slices=self.grid.median_shape[self.order[0]])
        return Plan(
            bundle=self.template.name,
            memory_gib=self.memory_gib,
            recommended=recommended,
            why_recommended=why,
            configurations=found,
            advice=advise(found, self.fingerprint, spacing_mm=self.grid.spacing_mm),
        )

    # Grid and patch -------------------------------------------------------------------------------------------------

    def _grid(self) -> tuple[Grid, Value]:
        grid = target_grid(self.fingerprint)
        chosen = self.overrides.get("3d", "spacing")
        if chosen is None:
            return grid, Value(list(grid.spacing_mm), f"Millimetres: {grid.reason}")
        spacing = _numbers(chosen.value, "spacing")
        shape = [n * mm / to for n, mm, to in zip(grid.median_shape, grid.spacing_mm, spacing, strict=True)]
        return Grid(spacing, tuple(float(round(n)) for n in shape), "set by the user"), chosen

    def _fitted(self, grid: Grid, axes: Sequence[int]) -> Topology:
        """The patch that fits, with axes of the patient: two of them for slices."""
        budget = self.budget or self.nnunet

        def fits(found: Topology) -> bool:
            return budget.fits(self._network(found), found)

        spacing = [grid.spacing_mm[axis] for axis in axes]
        found = fit_patch(spacing, [grid.median_shape[axis] for axis in axes], fits=fits)
        # Back from the order of planning to that of the patient.
        return found.reordered([axes.index(axis) for axis in sorted(axes)])

    def _network(self, found: Topology) -> dict[str, Any]:
        # The order of axes changes neither the memory nor the answer; one order makes one measurement of equal ones.
        network = network_3d(self.template, found)
        return numbers_of(network, in_channels=self.in_channels, out_channels=self.classes)

    def _patch_3d(self, grid: Grid, name: ConfigurationName) -> Topology:
        chosen = self.overrides.get(name, "patch_size")
        if chosen is None:
            return self._fitted(grid, self.order)
        wanted = tuple(int(n) for n in _numbers(chosen.value, "patch_size"))
        found = topology(grid.spacing_mm, wanted)
        if found.patch_size != wanted:
            raise UsageError(
                f"--set patch_size={list(wanted)}: the network halves the axes so that they must be divisible by "
                f"{list(found.divisor)}. The nearest that fits is {list(found.patch_size)}."
            )
        return found

    # Configurations -------------------------------------------------------------------------------------------------

    def _configuration(
        self, name: ConfigurationName, grid: Grid, found: Topology, *, batch_dice: bool
    ) -> Configuration:
        values = self._shared(name) | {
            "spacing": self.grid_value if name == "3d" else self._lowres_spacing(grid),
            "patch_size": Value(list(found.patch_size), self._why_patch(found, grid)),
            "batch_size": self._batch(found, grid, voxels=grid.voxels * len(self.fingerprint.cases)),
            "network_def": Value(network_3d(self.template, found), self._why_network(found)),
            "flip_axes": anatomy.flip_axes(list(self.fingerprint.labels)),
            "batch_dice": Value(batch_dice, _why_batch_dice(batch_dice)),
        }
        flat = self._in_plane(found)
        if flat is not None:
            values["rotate_range"] = flat
        return self._finished(name, FILES[name], values, grid, found)

    def _slices(self, *, file: str) -> Configuration:
        axis = coarse_axis(self.grid.spacing_mm)
        found = self._fitted(self.grid, [other for other in self.order if other != axis])
        patch = list(found.patch_size)
        patch.insert(axis, 1)
        plane = "×".join(str(n) for n in found.patch_size)
        values = self._shared("2d") | {
            "spacing": self.grid_value,
            "patch_size": Value(
                patch,
                f"Slices of {plane} voxels across the {anatomy.AXES[axis]} axis, the coarsest. "
                f"{self._why_patch(found, self.grid, axis)}",
            ),
            "batch_size": self._batch(found, self.grid, voxels=self.grid.voxels * len(self.fingerprint.cases)),
            "network_def": Value(
                network_2d(self.template, found, slice_axis=axis), f"Slice by slice. {self._why_network(found)}"
            ),
            "flip_axes": anatomy.flip_axes(list(self.fingerprint.labels), without=[axis]),
            "batch_dice": Value(True, "Slices of one case are alike: the Dice loss sums over the batch."),
        }
        return self._finished("2d", file, values, self.grid, found)

    def _shared(self, name: ConfigurationName) -> dict[str, Value]:
        """Values that are the same in every configuration."""
        fingerprint = self.fingerprint
        values = {
            "labels": Value(dict(fingerprint.labels), "As the data list names them."),
            "channels": Value(list(fingerprint.channels), "As the data list names them, in its order."),
            "normalize": normalisation.normalize(fingerprint),
            "background": normalisation.background(fingerprint),
            "absent": Value(0.0, "A channel that a case lacks is 0 everywhere, and normalised it still is."),
        }
        if self.regions:
            by = "data list" if fingerprint.regions else "bundle"
            values["regions"] = Value(self.regions, f"A sigmoid each, as the {by} names them.")
        if fingerprint.ignore_label is not None:
            values["ignore_label"] = Value(
                fingerprint.ignore_label, "The data list's id of voxels whose truth is not known."
            )
        for id_ in ("iterations_per_epoch", "max_epochs"):
            if id_ in self.template.config:
                values[id_] = Value(
                    self.template.config[id_],
                    "As the bundle has it: how long to train depends on the machine, not on the data. nnU-Net takes "
                    "250 iterations an epoch and 1,000 epochs.",
                    "bundle",
                )
        weights = anatomy.repeat_weights(fingerprint)
        if weights and "train" in self.template.config:
            rare = ", ".join(f"{label} ({share:.0%})" for label, share in anatomy.rare_labels(fingerprint).items())
            values["train::dataloader::weights"] = Value(
                f"$medseg3d.plan.case_weights(@train#dataset#data, {weights!r})",
                f"Cases with a label that fewer than a quarter of the cases have are drawn more often: {rare}.",
            )
        return values

    def _finished(
        self, name: ConfigurationName, file: str, values: dict[str, Value], grid: Grid, found: Topology
    ) -> Configuration:
        """Without ids that the bundle lacks, and with what the user set."""
        known = {id_: value for id_, value in values.items() if id_.partition("::")[0] in self.template.config}
        for id_ in self.overrides.ids(name):
            if not (id_ == "spacing" and name == "lowres"):
                known[id_] = self.overrides.get(name, id_) or known[id_]
        return Configuration(name, file, known, self._facts(known, grid, found))

    # Reasons --------------------------------------------------------------------------------------------------------

    def _batch(self, found: Topology, grid: Grid, *, voxels: float) -> Value:
        fitting = (self.budget or self.nnunet).largest_batch(self._network(found), found)
        size, why = batch_size(fitting, voxels=voxels, patch_voxels=math.prod(found.patch_size))
        return Value(size, f"Patches a step: {why}.")

    def _why_patch(self, found: Topology, grid: Grid, without: int | None = None) -> str:
        shape = [n for axis, n in enumerate(grid.median_shape) if axis != without]
        whole = all(n >= median for n, median in zip(found.patch_size, shape, strict=True))
        median = "×".join(f"{n:g}" for n in shape)
        if whole:
            return f"The whole median image ({median} voxels), rounded up to what the network divides."
        share = math.prod(found.patch_size) / math.prod(shape)
        return (
            f"The largest in the proportions of the median image ({median} voxels) of which two fit into the memory; "
            f"it covers {share:.0%} of that image."
        )

    def _why_network(self, found: Topology) -> str:
        own = "of the bundle's kind" if self.template.keeps_network else "DynUNet in place of the bundle's network"
        halved = [sum(step > 1 for step in column) for column in zip(*found.strides, strict=True)]
        times = f"{halved[0]} times" if len(set(halved)) == 1 else f"{', '.join(map(str, halved))} times"
        return (
            f"A U-Net {own} with {found.stages} stages: axes are halved {times}, while an axis has at least "
            f"{2 * MIN_EDGE} voxels and is less than twice as coarse as the finest; kernels are 1 across thick slices."
        )

    def _lowres_spacing(self, grid: Grid) -> Value:
        return Value(
            list(grid.spacing_mm),
            f"Millimetres: the finest spacing at which a patch covers {LOWRES_BELOW:.0%} of the median image.",
        )

    def _in_plane(self, found: Topology) -> Value | None:
        """Rotation about the coarse axis alone, where patches are thin along it."""
        axis = self.order[0]
        old = self.template.config.get("rotate_range")
        if not isinstance(old, list) or max(found.patch_size) / found.patch_size[axis] <= ANISOTROPY:
            return None
        angles = [max(old) if other == axis else 0.0 for other in range(3)]
        return Value(
            angles,
            f"Radians: thin patches are turned in their plane alone, about the {anatomy.AXES[axis]} axis, since they "
            f"are more than {ANISOTROPY:g} times as wide as thick.",
        )

    def _facts(self, values: dict[str, Value], grid: Grid, found: Topology) -> dict[str, Value]:
        size = values["batch_size"].value
        network = self._network(found)
        covered = math.prod(values["patch_size"].value) / grid.voxels
        facts = {
            "median_shape": Value(list(grid.median_shape), "Voxels of the median image at this spacing, cropped."),
            "patch_covers": Value(float(f"{covered:.3g}"), "Share of the median image that a patch holds."),
            "divisor": Value(list(found.divisor), "By what each axis of a patch must be divisible."),
            "nnunet_memory": Value(
                self.nnunet.largest_batch(network, found), self.nnunet.explain(network, found, batch_size=size)
            ),
        }
        if isinstance(size, int) and values.get("network_def", Value(None, "")).source != "user":
            explained = (self.budget or self.nnunet).explain(network, found, batch_size=size)
            facts["memory"] = Value(self.memory_gib, explained)
        return facts


def _why_batch_dice(batch_dice: bool) -> str:
    if batch_dice:
        return "A patch is a small part of its image, so the Dice loss sums over the batch."
    return "A patch holds much of its image, so each has a Dice loss of its own."


def _numbers(values: Any, id_: str) -> tuple[float, ...]:
    three = isinstance(values, list) and len(values) == 3
    if not three or not all(isinstance(n, (int, float)) and n > 0 for n in values):
        raise UsageError(f"--set {id_}={values!r}: give three positive numbers, as in --set {id_}=[2,2,3].")
    return tuple(values)
