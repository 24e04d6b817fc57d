"""``medseg3d dicom deidentify``: copies of DICOM files in which nobody is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from medseg3d.cli.progress import progress_bar

if TYPE_CHECKING:
    from medseg3d.dicom.deidentifying import Deidentified

__all__ = ["deidentify"]

SHOWN_FILES = 5
"""Files that are named for each reason."""


def deidentify(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", help="A folder with DICOM files, a file or a zip archive.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder of the copies; made if absent.", show_default=False)
    ],
    key_file: Annotated[
        Path | None,
        typer.Option(help="File with the secret key: the same key, the same pseudonyms.", show_default="a new key"),
    ] = None,
    key: Annotated[
        str,
        typer.Option(help="The key itself. It stays in the history of the shell: prefer a file.", show_default=False),
    ] = "",
    keep_dates_shifted: Annotated[
        bool,
        typer.Option(
            "--keep-dates-shifted", help="Move a patient's dates by one number of days, keep times: SUV needs them."
        ),
    ] = False,
    keep_characteristics: Annotated[
        bool, typer.Option("--keep-characteristics", help="Keep sex, age (up to 90), size and weight: SUV needs them.")
    ] = False,
    keep_descriptions: Annotated[
        bool,
        typer.Option("--keep-descriptions", help="Keep series, study and ROI names in which no identifier is found."),
    ] = False,
    keep_safe_private: Annotated[
        bool,
        typer.Option("--keep-safe-private", help="Keep b-values, gradients and scale factors in private attributes."),
    ] = False,
    allow_burned_in: Annotated[
        bool, typer.Option("--allow-burned-in", help="Take images that may show a name in their pixels.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="JSON of what was changed, by attribute; no original value is in it.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 takes one a CPU core.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Add to a folder that is not empty.")] = False,
) -> None:
    """Copy DICOM files without what identifies the patient (PS3.15, Basic Profile).

    Names and ids become pseudonyms and UIDs new ones, the same in all files and in every run with the same key, so
    that series, contours and segmentations still fit each other. Dates go or are shifted; private attributes,
    overlays, icons, comments and descriptions go. Refused, with exit status 1, are images that may have a name burned
    in, reports, documents and presentation states. Faces stay recognisable in the pixels of head images.

    ROI names are removed too: keep them with --keep-descriptions where contours shall become labels.

    [bold]Examples[/]

      openssl rand -hex 32 > study.key

      medseg3d dicom deidentify incoming/ shared/ --key-file study.key --report shared.json

      medseg3d dicom deidentify pet_ct.zip shared/ --key-file study.key --keep-dates-shifted --keep-characteristics
    """
    from medseg3d.dicom.deidentifying import deidentify as run
    from medseg3d.dicom.profile import Options
    from medseg3d.files import write_json

    console = Console(highlight=False, soft_wrap=True)
    options = Options(
        dates="shift" if keep_dates_shifted else "remove",
        characteristics=keep_characteristics,
        descriptions=keep_descriptions,
        safe_private=keep_safe_private,
    )
    with progress_bar(console, "De-identifying") as show:
        result = run(
            source,
            out,
            key=_secret(key_file, key, console),
            options=options,
            allow_burned_in=allow_burned_in,
            overwrite=overwrite,
            workers=workers or None,
            on_file=show,
        )
    _print(console, result, out)
    if report is not None:
        write_json(report, result.as_json())
        console.print(f"What was changed: {report}", markup=False)
    if result.refused:
        raise typer.Exit(1)


def _secret(key_file: Path | None, key: str, console: Console) -> bytes:
    from secrets import token_bytes

    from medseg3d.dicom.pseudonyms import read_key
    from medseg3d.errors import UsageError

    if key_file is not None and key:
        raise UsageError("Give --key-file or --key, not both.")
    if key_file is not None:
        return read_key(key_file)
    if key:
        return key.encode()
    console.print("No key given: these pseudonyms cannot be made again, and files added later will not fit them.")
    return token_bytes(32)


def _print(console: Console, result: Deidentified, out: Path) -> None:
    console.print(f"Wrote {len(result.written)} files to {out}", markup=False)
    if result.duplicates:
        console.print(f"Left out {result.duplicates} files whose content is in another one")
    if result.skipped:
        console.print(f"Left out {result.skipped} files that are no DICOM objects")
    if not result.refused:
        return
    console.print(f"Refused {len(result.refused)} files, which are not copied.")
    for reason in dict.fromkeys(reason for _, reason in result.refused):
        files = [str(file) for file, why in result.refused if why == reason]
        console.print(f"{len(files)} files: {reason}", markup=False)
        for file in files[:SHOWN_FILES]:
            console.print(f"  {file}", markup=False)
        if len(files) > SHOWN_FILES:
            console.print(f"  … and {len(files) - SHOWN_FILES} more")
