"""Which failures concern one case alone, and how they are told."""

from __future__ import annotations

from medseg3d.errors import CaseError, MedsegError, OutputError

__all__ = ["CASE_ERRORS", "reason", "reraise_if_general"]

# What reading, transforming and predicting one case may raise; MONAI wraps most of it in RuntimeError.
CASE_ERRORS = (CaseError, RuntimeError, ValueError, OSError, EOFError, IndexError)


def reason(error: BaseException) -> str:
    """Why a case failed, from an exception that libraries have wrapped: the innermost one, or ours.

    >>> try:
    ...     raise RuntimeError("applying transform LoadImaged") from EOFError("Compressed file ended early")
    ... except RuntimeError as wrapped:
    ...     reason(wrapped)
    'Compressed file ended early (EOFError)'
    """
    while not isinstance(error, MedsegError) and (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    if isinstance(error, MedsegError):
        return str(error)
    return f"{' '.join(str(error).split()) or 'no message'} ({type(error).__name__})"


def reraise_if_general(error: BaseException) -> None:
    """Let through, from under MONAI's wrapping, an error of ours that concerns every case and not this one.

    A mask that cannot be written fails its own case: the next may be smaller, or the disk be freed.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MedsegError) and not isinstance(cause, CaseError | OutputError):
            raise cause
        cause = cause.__cause__
