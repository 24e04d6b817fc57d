"""What a packed bundle says of the command that it was trained by."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.bundles.runs import shown_command


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["run", "training", "--fold", "0"], "run training --fold 0"),
        (["--config_file", "['a.yaml','b.yaml']"], "--config_file \"['a.yaml','b.yaml']\""),
        (["--labels", "{liver: 1}"], '--labels "{liver: 1}"'),
        (["--device", "$torch.device('cpu')"], "--device '$torch.device('\"'\"'cpu'\"'\"')'"),
        # folders of the machine
        (["--datalist", "/home/ann/study/list.json"], "--datalist list.json"),
        (["--datalist=/home/ann/study/list.json"], "--datalist=list.json"),
        (["--dataset_dir", "/mnt/Dr. O'Brien/images/"], "--dataset_dir images/"),
        (["--config_file", "['/home/ann lee/a.yaml','study/b.yaml']"], "--config_file \"['a.yaml','study/b.yaml']\""),
        (["--config_file", "/a/b/c.yaml,/a/b/d.yaml"], "--config_file c.yaml,d.yaml"),
        (["--output_dir", "runs/fold0", "../x/y"], "--output_dir runs/fold0 ../x/y"),
    ],
)
def test_commands_as_they_are_typed(words: list[str], typed: str) -> None:
    assert shown_command(shlex.join(words)) == typed


@given(st.lists(st.text(st.characters(exclude_characters="/\x00", exclude_categories=("Cs",)), max_size=12)))
def test_what_is_shown_is_what_was_run(words: list[str]) -> None:
    """Nothing is lost by quoting it as a person would: the shell takes the same words from it."""
    assert shlex.split(shown_command(shlex.join(words))) == words


def test_a_command_that_no_shell_reads() -> None:
    """Written by something else: its quotes do not end."""
    assert (
        shown_command("run --note it's --a /home/ann/a.json --b /x/y/b.json") == "run --note it's --a a.json --b b.json"
    )
