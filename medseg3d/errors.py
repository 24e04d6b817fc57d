"""Errors that a user can act on.

Each message says what is wrong, where, and what to do next. The command line prints the message without a traceback
and ends with ``exit_status``; everything else that is raised is a defect of medseg3d.

::

    MedsegError                 exit 1
    ├── UsageError              exit 2: the command cannot mean anything as typed
    │   └── ConfigError         a bundle's configuration: misspelt ids, undefined references, missing properties
    ├── DataListError           a data list that training or evaluation must not start from
    ├── CaseError               one case cannot be read or segmented; the others can
    │   ├── GeometryError       an affine, spacing or grid that no image can have, or that does not match
    │   └── DicomError          a series, annotation or file of DICOM that cannot be read or written rightly
    ├── CheckpointError         a checkpoint or weights file that does not fit what is to be run
    └── OutputError             a file or folder that cannot be written (also an OSError)
"""

from __future__ import annotations

__all__ = [
    "CaseError",
    "CheckpointError",
    "ConfigError",
    "DataListError",
    "DicomError",
    "GeometryError",
    "MedsegError",
    "OutputError",
    "UsageError",
]


class MedsegError(Exception):
    """Base of every error that is meant for the user."""

    exit_status = 1


class UsageError(MedsegError):
    """The command or call cannot mean anything as it was typed."""

    exit_status = 2


class ConfigError(UsageError):
    """A bundle's configuration, or an override of it, is wrong."""


class DataListError(MedsegError):
    """A data list is malformed, or its data must not be trained or evaluated on."""


class CaseError(MedsegError):
    """One case cannot be read or segmented; others are not affected."""


class GeometryError(CaseError):
    """An affine, a spacing or a grid is impossible, or two that must match do not."""


class DicomError(CaseError):
    """A DICOM series, annotation or file cannot be read or written rightly; its findings say why."""


class CheckpointError(MedsegError):
    """A checkpoint or weights file is missing, damaged, or of another network."""


class OutputError(MedsegError, OSError):
    """A file or folder cannot be written: no permission, no space, or a file where a folder is needed."""
