"""The names in a pickle that unpickling would look up, read from its opcodes. Nothing is unpickled."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import IO

__all__ = ["names_in"]

OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
# Other ways to name what is called: torch.save uses none of them, and weights_only=True refuses them.
OTHER_CALLS = frozenset({"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"})
PUT = frozenset({"MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"})
GET = frozenset({"BINGET", "LONG_BINGET", "GET"})
LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
KEPT_BYTES = 4096  # of an argument: names are shorter


def names_in(file: IO[bytes]) -> tuple[list[str], str]:
    """The names in a pickle that may be called, sorted, and why it has no end ("" if it has one)."""
    seen: set[str] = set()
    texts: list[str] = []
    memo: dict[str, str] = {}  # a name that was used before may be fetched from there
    last, opcode = "", ""
    for opcode, argument in _operations(file):
        if opcode == "GLOBAL":
            seen.add(argument)
        elif opcode in OTHER_CALLS:
            seen.add(f"{argument or '.'.join(texts[-2:])} (by {opcode})")
        elif opcode in PUT:
            memo[argument or str(len(memo))] = last
            continue
        last = memo.get(argument, "") if opcode in GET else argument
        if last:
            texts.append(last)
    return sorted(seen), "" if opcode == "STOP" else f"it breaks off at byte {file.tell()}"


def _operations(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Every opcode with its argument as text, up to STOP or to where unpickling cannot go on either.

    Arguments are not interpreted: ``pickletools.genops`` stops at some that unpickling takes (text that is not ASCII,
    whole numbers in base 16), and what stands behind them would go unseen.
    """
    while opcode := OPCODES.get(file.read(1).decode("latin-1")):
        yield opcode.name, _argument(opcode, file)
        if opcode.name == "STOP":
            return


def _argument(opcode: pickletools.OpcodeInfo, file: IO[bytes]) -> str:
    if opcode.arg is None:
        return ""
    size = opcode.arg.n
    if size == pickletools.UP_TO_NEWLINE:
        is_pair = opcode.arg is pickletools.stringnl_noescape_pair
        return ".".join([_line(file) for _ in range(2 if is_pair else 1)])
    if size >= 0:  # a number, or what it stands for in the memo
        return str(int.from_bytes(file.read(size), "little"))
    return _text(file, int.from_bytes(file.read(LENGTH_BYTES[size]), "little"))


def _line(file: IO[bytes]) -> str:
    kept = line = file.readline(KEPT_BYTES)
    while line and not line.endswith(b"\n"):
        line = file.readline(KEPT_BYTES)
    return kept.removesuffix(b"\n").decode("utf-8", "replace")


def _text(file: IO[bytes], size: int) -> str:
    kept = file.read(min(size, KEPT_BYTES))
    behind, end = file.tell() + size - len(kept), file.seek(0, 2)
    file.seek(min(behind, end))  # without reading what may be as large as memory, or say that it is larger
    return kept.decode("utf-8", "replace")
