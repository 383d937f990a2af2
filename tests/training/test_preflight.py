from __future__ import annotations

import pytest

from pxr_agents.random_checkpoint import build_random
from training.config import EngineRecipe, EnvRecipe
from training.preflight import check_start

ENV_ID = "pxr_env:pxr/SyntheticSearch-v0"


def test_a_recipe_that_fits_passes(make_recipe):
    check_start(make_recipe())


@pytest.mark.parametrize("model", ["/nowhere", "no such thing", ""])
def test_a_missing_model_is_named(make_recipe, model):
    with pytest.raises(FileNotFoundError, match=r"got model='.*', expected the directory of a Qwen"):
        check_start(make_recipe(model=model))


def test_a_model_without_vision_is_named(make_recipe, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ValueError, match="is a qwen2; expected one of qwen2_5_vl"):
        check_start(make_recipe(model=str(tmp_path)))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size_multiple": 32}, r"96x96 pixels.*multiples of 28. Set env.kwargs.size_multiple=28"),
        ({"num_samples": 3}, "got groups_per_iteration=4 for 3 samples"),
        ({"coordinates": "metres"}, 'got coordinates="metres"; expected one of unit, pixel, permille'),
    ],
)
def test_an_environment_that_does_not_fit_is_named(make_recipe, kwargs, message):
    with pytest.raises(ValueError, match=message):
        check_start(make_recipe(env=EnvRecipe(id=ENV_ID, kwargs=kwargs)))


def test_experts_that_the_engine_cannot_get_are_named(make_recipe, tmp_path):
    build_random(tmp_path / "model", "qwen3-vl-moe")
    recipe = make_recipe(model=str(tmp_path / "model"), engine=EngineRecipe(kind="vllm"))
    with pytest.raises(ValueError, match=r'mixture of experts.*engine\.kind="transformers"'):
        check_start(recipe)


def test_rows_that_are_left_out_are_counted(make_recipe, tmp_path):
    from PIL import Image

    Image.new("RGB", (84, 84)).save(tmp_path / "a.png")
    good = '{"id": "%d", "question": "What?", "images": ["a.png"], "answers": ["x"]}'
    rows = [good % number for number in range(4)] + ['{"id": "no question"}']
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    kwargs = {"data": str(tmp_path), "skip_bad_rows": True, "min_pixels": 784, "max_pixels": 84 * 84}
    recipe = make_recipe(env=EnvRecipe(id="pxr_env:pxr/JSONL-v0", kwargs=kwargs))
    with pytest.warns(UserWarning, match=r'1 bad rows of .* are left out, 4 are used: line 5 \(id "no question"\)'):
        check_start(recipe)
