"""Scripts that complete commands, options and values in a shell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from prefopt.cli import all_commands
from prefopt.cli.completion import bash, fish, tables, zsh
from tests.helpers.commands import error_of, run


@pytest.fixture(scope="module")
def table() -> dict:
    return {" ".join(words): options for words, options in tables()}


ASKED = {
    ("d",): {"dpo", "doctor", "data"},
    ("dpo", "--bet"): {"--beta"},
    ("dpo", "--bnb_4bit_quant_type", ""): {"fp4", "nf4"},
    ("dpo", "--use_peft", "f"): {"false"},
    ("ppo", "--preset"): {"--preset"},
    ("dpo", "--model_name_or_path", "x"): set(),
    ("data", ""): {"check", "formats"},
    ("data", "check", "--tok"): {"--tokenizer"},
    ("evaluate", "--lang", ""): {"en", "zh"},
    ("completion", "f"): {"fish"},
    ("no-such-command", "--x"): set(),
}


def test_bash_completes_by_the_tables(table: dict, tmp_path: Path) -> None:
    script = tmp_path / "completion.sh"
    script.write_text(bash(table))
    lines = [f"source {script}"]
    for words in ASKED:
        named = " ".join(f"'{word}'" for word in ("prefopt", *words))
        lines += [f"COMP_WORDS=({named}); COMP_CWORD={len(words)}; _prefopt; echo ${{COMPREPLY[@]}}"]
    done = subprocess.run(["bash", "-u", "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert [set(line.split()) for line in done.stdout.splitlines()] == list(ASKED.values())


def test_every_command_and_option_is_there(table: dict) -> None:
    assert {name.split()[0] for name in table} == set(all_commands())
    assert {"--beta", "--ddp_backend", "--config", "--help-all"} <= table["dpo"].keys()
    assert table["dpo"]["--no_gradient_checkpointing"] == ()
    assert {"--prompt", "--system"} <= table["chat"].keys() and "--markdown" in table["data formats"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_their_scripts(shell: str, table: dict, tmp_path: Path) -> None:
    text = {"zsh": zsh, "fish": fish}[shell](table)
    assert "beta" in text and "rejection-sampling" in text and "nf4" in text
    if shell == "fish":
        assert "-n '__fish_seen_subcommand_from dpo' -l bnb_4bit_quant_type -x -a 'fp4 nf4'" in text
    if shutil.which(shell):
        script = tmp_path / "completion"
        script.write_text(text)
        subprocess.run([shell, "-n", str(script)], check=True, capture_output=True)


def test_the_command_prints_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("completion", "bash") == 0
    assert "complete -o default -F _prefopt prefopt" in capsys.readouterr().out
    assert "invalid choice: 'tcsh'" in error_of(capsys, "completion", "tcsh")
