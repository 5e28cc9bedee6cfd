"""What was saved by earlier versions is read, and gives the answers of then."""

import importlib.util
import json
import pickle
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "files" / "saved-v1"
ANSWERS = json.loads((FOLDER / "answers.json").read_text("ascii"))


def _maker():
    path = FOLDER.parent / "make_saved_v1.py"
    spec = importlib.util.spec_from_file_location("make_saved_v1", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = _maker()


def test_every_file_has_its_answers():
    assert {path.stem for path in FOLDER.glob("*.lw")} == set(ANSWERS) == set(MAKER.INDEXES)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("name", ANSWERS)
def test_what_was_saved_is_read_with_the_same_bits(name, mmap):
    index = MAKER.kind(name).load(FOLDER / f"{name}.lw", mmap=mmap)
    assert MAKER.answer(index) == ANSWERS[name]


@pytest.mark.parametrize("name", ANSWERS)
def test_and_can_be_saved_again(name, tmp_path):
    index = MAKER.kind(name).load(FOLDER / f"{name}.lw")
    index.save(tmp_path / "again.lw")
    again = type(index).load(tmp_path / "again.lw")
    assert MAKER.answer(again) == MAKER.answer(pickle.loads(pickle.dumps(index))) == ANSWERS[name]
