"""Write a study: the data list with folds, the fingerprint, the plan as files for a bundle and as a page."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from medseg3d.datalist import DataList, split, write_datalist
from medseg3d.errors import UsageError
from medseg3d.files import whole_or_not_at_all, write_json
from medseg3d.plan.fingerprint import Fingerprint
from medseg3d.plan.model import Configuration, Plan
from medseg3d.plan.template import Template

__all__ = ["CACHE", "check_study", "configuration_text", "write_study"]

CACHE = ".fingerprint.json"
"""What was read of each case, so that an unchanged data set is read once."""

RUNS = ("3d", "2d", "lowres", "cascade", "crossval", "bundle")
FOLDS = 5


def check_study(study: Path, *, overwrite: bool = False) -> None:
    """Refuse a folder with runs of an earlier plan: what they were trained with would no longer be told.

    Raises:
        UsageError: there are runs, and they are not to be kept beside a new plan.
    """
    runs = [name for name in RUNS if (study / name).exists()]
    if runs and not overwrite:
        raise UsageError(
            f"{study} has runs of an earlier plan ({', '.join(runs)}), which a new plan would no longer describe: "
            "choose another folder, or pass --overwrite."
        )


def write_study(study: Path, datalist: DataList, fingerprint: Fingerprint, plan: Plan, template: Template) -> None:
    """Write ``dataset.json``, ``fingerprint.json``, a YAML file a configuration, ``plan.json`` and ``plan.html``.

    The same data, bundle and arguments give the same bytes.

    Raises:
        OutputError: a file cannot be written.
    """
    from medseg3d.plan.page import plan_page
    from medseg3d.report.page import write_page

    write_datalist(_with_folds(datalist, fingerprint), study / "dataset.json")
    write_json(study / "fingerprint.json", fingerprint.to_json())
    for configuration in plan.configurations.values():
        with whole_or_not_at_all(study / configuration.file) as temporary:
            temporary.write_text(configuration_text(configuration, plan), encoding="utf-8")
    _remove_others(study, plan)
    write_json(study / "plan.json", plan.to_json())
    write_page(study / "plan.html", plan_page(fingerprint, plan, template))


def configuration_text(configuration: Configuration, plan: Plan) -> str:
    """A configuration as YAML, with the reason above each value."""
    import yaml

    masks = " --previous_dir MASKS" if configuration.name == "cascade" else ""
    lines = [
        f"# {configuration.name}: planned by medseg3d for {plan.bundle} and {plan.memory_gib:g} GB. Lay it over "
        "train.yaml:",
        f"#   --config_file \"['BUNDLE/configs/train.yaml','STUDY/{configuration.file}']\" "
        f"--datalist STUDY/dataset.json{masks}",
    ]
    for id_, value in configuration.values.items():
        lines += ["", *textwrap.wrap(value.reason, 116, initial_indent="# ", subsequent_indent="# ")]
        dumped = yaml.dump({id_: value.value}, Dumper=_dumper(), sort_keys=False, width=116, allow_unicode=True)
        lines.append(dumped.rstrip("\n"))
    return "\n".join(lines) + "\n"


def _dumper() -> Any:
    """Lists of numbers in one line, mappings in several; no anchors for values that are equal."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def in_one_line(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
        flow = not any(isinstance(value, dict) for value in values)
        return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=flow)

    Dumper.add_representer(list, in_one_line)
    return Dumper


def _with_folds(datalist: DataList, fingerprint: Fingerprint) -> DataList:
    """The list with folds by patient, each with its share of every label; as it is with one patient alone."""
    patients = len({case.patient for case in datalist.training})
    if datalist.folds or patients < 2:
        return datalist
    presence = {case.case: frozenset(case.volume_ml) for case in fingerprint.cases}
    return split(datalist, folds=min(FOLDS, patients), presence=presence)


def _remove_others(study: Path, plan: Plan) -> None:
    """Files of configurations that an earlier plan of this folder had."""
    from medseg3d.plan.planning import FILES

    written = {configuration.file for configuration in plan.configurations.values()}
    for name in FILES.values():
        if name not in written:
            (study / name).unlink(missing_ok=True)
