from __future__ import annotations

import pkgutil
import tomllib
from pathlib import Path

import pytest

from tests.training.conftest import ENV
from training.__main__ import main
from training.demonstrations import read_traces

PYPROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())
pxr = pkgutil.resolve_name(PYPROJECT["project"]["scripts"]["pxr"])


@pytest.mark.parametrize(
    ("command", "typo", "nearest"),
    [
        ("ppo", "groups_per_iteraton=4", "groups_per_iteration"),
        ("ppo", "curiosity.presett=off", "curiosity.preset"),
        ("sft", "batchsize=4", "batch_size"),
        ("traces", "cuont=4", "count"),
        ("quickstart", "sed=1", "seed"),
    ],
)
def test_a_typo_names_the_key_and_the_nearest(capsys, command, typo, nearest):
    required = {
        "ppo": ["model=m", "env.id=e"],
        "sft": ["model=m", "traces=t"],
        "traces": ["env.id=e"],
        "quickstart": [],
    }
    assert main([command, *required[command], typo]) == 2
    errors = capsys.readouterr().err
    assert typo.split("=")[0] in errors
    assert f'"{nearest}"' in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("words", ["--plain ppo_tiny sed=1", "ppo_tiny --plain sed=1", "sed=1 --plain x=1"])
def test_options_may_stand_anywhere(capsys, words):
    assert main(["ppo", *words.split()]) == 2
    assert 'Did you mean "seed"?' in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit:
        main(["ppo", *words.split(), "--plane"])
    assert exit.value.code == 2


def test_missing_files_are_errors_not_tracebacks(capsys, tmp_path):
    assert main(["ppo", str(tmp_path / "absent.toml")]) == 2
    assert "absent.toml" in capsys.readouterr().err
    assert main(["sft", "model=m", f"traces={tmp_path}/absent", f"out={tmp_path}/out", "wandb=false"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_traceback_on_demand(tmp_path):
    with pytest.raises(ValueError, match="absent"):
        main(["--traceback", "ppo", str(tmp_path / "absent.toml")])


def test_keys_are_listed_with_their_meaning_by_the_console_command_too(capsys):
    assert pxr(["train", "ppo", "--keys"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("clip_coef_high") and "1 + clip_coef_high" in line for line in lines)
    assert any(line.startswith("env.kwargs") for line in lines)


def test_an_unknown_command_exits_with_2(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["pro"])
    assert exit.value.code == 2
    assert [pxr(["--help"]), pxr([]), pxr(["trian"]), pxr(["env", "list"])] == [0, 2, 2, 0]
    assert "usage: pxr env|train|eval" in capsys.readouterr().out


def test_traces_and_supervised_training_from_the_command_line(capsys, speaker, tmp_path):
    traces, out = tmp_path / "traces.jsonl", tmp_path / "run"
    kwargs = [f"env.kwargs.{key}={value}" for key, value in ENV.kwargs.items()]
    assert main(["traces", f"env.id={ENV.id}", *kwargs, f"out={traces}", "count=4"]) == 0
    assert [trace.env for trace in read_traces(traces)] == [ENV] * 4
    train = ["sft", f"model={speaker}", f"traces={traces}", f"out={out}", "steps=2", "batch_size=2", "wandb=false"]
    assert main(train) == 0
    assert (out / "model" / "config.json").exists()
    capsys.readouterr()
    assert main(train) == 2
    assert "holds a finished run" in capsys.readouterr().err
