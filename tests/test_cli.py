"""The command line as a whole: help everywhere, one line for an error, and honest exit statuses."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from medseg3d import errors
from medseg3d.cli import app, main
from medseg3d.errors import (
    CaseError,
    CheckpointError,
    ConfigError,
    DataListError,
    DicomError,
    GeometryError,
    MedsegError,
    OutputError,
    UsageError,
)


def walk(command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Every command and group below ``command`` as its words, and whether it is a group."""
    below = getattr(command, "commands", {})
    yield path, bool(below)
    for name, sub in below.items():
        yield from walk(sub, (*path, name))


ALL = list(walk(typer.main.get_command(app)))
COMMANDS = [path for path, group in ALL if not group]
WORDS = {"ids": lambda words: "-".join(words) or "medseg3d"}


@pytest.fixture(autouse=True)
def _plain_process(monkeypatch):
    """No colours that the environment forces, and logging as it was: ``main`` sets it up for a process of its own."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    root, own = logging.getLogger(), logging.getLogger("medseg3d")
    handlers, level = list(root.handlers), own.level
    yield
    root.handlers[:] = handlers
    own.setLevel(level)


def invoke(*words: str) -> tuple[int, str]:
    """Exit status and plain text, in a terminal wide enough that no line is broken."""
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"}, prog_name="medseg3d")
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def test_the_walk_finds_the_commands():
    assert {("segment",), ("phantom",), ("datalist", "check"), ("bundle", "list")} <= set(COMMANDS)


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("words", [path for path, _ in ALL], **WORDS)
def test_help_answers_everywhere(words, flag):
    status, output = invoke(*words, flag)
    assert status == 0, output
    assert "Usage: " + " ".join(["medseg3d", *words]) in output


@pytest.mark.parametrize("words", COMMANDS, **WORDS)
def test_every_command_shows_an_example_of_itself(words):
    _, output = invoke(*words, "--help")
    assert "Example" in output
    example = output.split("Example", 1)[1]
    assert " ".join(["medseg3d", *words]) in example


@pytest.mark.parametrize("words", COMMANDS, **WORDS)
def test_every_option_of_every_command_says_what_it_is_for(words):
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    undocumented = [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]
    assert not undocumented


@pytest.mark.parametrize("words", [path for path, group in ALL if group], **WORDS)
def test_a_group_alone_shows_its_help(words):
    _, output = invoke(*words)
    assert "Usage: " + " ".join(["medseg3d", *words]) in output
    assert "Commands" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("segmnt",), "No such command 'segmnt'"),
        (("datalist", "cheque"), "No such command 'cheque'"),
        (("phantom",), "Missing argument"),
        (("phantom", "out", "--cases", "none"), "Invalid value for '--cases'"),
        (("phantom", "out", "--case", "3"), "No such option"),
    ],
)
def test_wrong_usage_ends_with_2(words, message):
    status, output = invoke(*words)
    assert status == 2
    assert message in output


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MedsegError, 1),
        (DataListError, 1),
        (CaseError, 1),
        (GeometryError, 1),
        (DicomError, 1),
        (CheckpointError, 1),
        (OutputError, 1),
        (UsageError, 2),
        (ConfigError, 2),
    ],
)
def test_an_error_is_one_line_and_its_exit_status(monkeypatch, capsys, error, status):
    # Square brackets are rich's markup: they must reach the reader as they are.
    message = "case [bold]7[/]: labels [1, 2] are not in the list, " + "and that takes a rather long line to say " * 5

    def fail() -> None:
        raise error(message)

    monkeypatch.setattr("medseg3d.cli.app", fail)
    with pytest.raises(SystemExit) as exit_:
        main()
    captured = capsys.readouterr()
    assert exit_.value.code == status
    assert captured.err == f"error: {message}\n"
    assert captured.out == ""


def test_every_error_has_its_status_tested_above():
    assert set(errors.__all__) == {
        e.__name__
        for e in (
            MedsegError,
            DataListError,
            CaseError,
            GeometryError,
            DicomError,
            CheckpointError,
            OutputError,
            UsageError,
            ConfigError,
        )
    }


def test_a_defect_keeps_its_traceback(monkeypatch):
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("medseg3d.cli.app", fail)
    with pytest.raises(ZeroDivisionError):
        main()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("datalist", "check", "absent.json"), 1, "absent.json does not exist"),
        (("bundle", "check", "no_such_bundle"), 2, "There is no bundle 'no_such_bundle'"),
    ],
)
def test_in_a_process_of_its_own(tmp_path, words, status, message):
    command = [sys.executable, "-m", "medseg3d", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
