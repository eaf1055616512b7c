from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from zoo import options
from zoo.errors import OptionError
from zoo.plugin import Input, Output, Paper, Plugin

CARD = Plugin(
    name="toy",
    title="t",
    summary="s",
    paper=Paper("T", ("A B",), "ISIC"),
    task="classification",
    modality="any",
    inputs=(
        Input("image", "image", "a picture", required=True),
        Input("threshold", "number", "cut", default=0.5, minimum=0, maximum=1),
        Input("top_k", "integer", "how many", minimum=1),
        Input("pruned", "flag", "fewer prototypes"),
        Input("mode", "choice", "how", choices=("fast", "exact")),
        Input("site", "choice", "where", choices=("arm", "leg"), many=True),
        Input("box", "box", "a box", many=True),
        Input("masks", "folder", "a folder"),
        Input("click", "click", "a click", many=True),
    ),
    outputs=(Output("p", "probability"),),
    model="a.b:C",
)


def test_values_arrive_with_their_types() -> None:
    given = ["threshold=0.25", "top-k=3", "pruned=yes", "mode=exact", "site=arm,leg", "box=1,2,3,4", "box=5,6,7,8"]
    assert options.parse(CARD, given) == {
        "threshold": 0.25,
        "top_k": 3,
        "pruned": True,
        "mode": "exact",
        "site": ("arm", "leg"),
        "box": ((1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)),
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("threshold=high", "threshold must be a number from 0 to 1, not 'high'"),
        ("threshold=1.5", "threshold must be a number from 0 to 1, not 1.5"),
        ("threshold=nan", "threshold must be a number from 0 to 1"),
        ("top_k=2.5", "top_k must be a whole number of at least 1"),
        ("top_k=0", "top_k must be a whole number of at least 1, not 0"),
        ("pruned=maybe", "pruned must be true or false"),
        ("mode=slow", "mode must be one of fast, exact"),
        ("site=arm,nose", "site must be one of arm, leg, not 'nose'"),
        ("box=1,2,3", "box must be 4 numbers"),
        ("box=1,2,3,inf", "box must be 4 numbers"),
        ("masks=/no/such/folder", "masks names /no/such/folder, which does not exist"),
        ("treshold=0.5", "no option 'treshold'; did you mean threshold"),
        ("threshold", "has no value"),
    ],
)
def test_wrong_values_are_refused_by_name(given: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        options.parse(CARD, [given])


def test_one_value_given_twice_is_refused() -> None:
    with pytest.raises(OptionError, match="given 2 times"):
        options.parse(CARD, ["mode=fast", "mode=exact"])


def test_python_callers_are_checked_too() -> None:
    assert options.check(CARD, {"pruned": False, "threshold": 1}) == {"pruned": False, "threshold": 1}
    with pytest.raises(OptionError, match="pruned must be true or false, not 1"):
        options.check(CARD, {"pruned": 1})
    with pytest.raises(OptionError, match="top_k must be a whole number"):
        options.check(CARD, {"top_k": True})


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"threshold": np.float32(0.5)}, {"threshold": 0.5}),
        ({"threshold": np.array(0.25)}, {"threshold": 0.25}),
        ({"threshold": torch.tensor(0.25)}, {"threshold": 0.25}),
        ({"top_k": np.int64(3)}, {"top_k": 3}),
        ({"pruned": np.bool_(True)}, {"pruned": True}),
        ({"box": (1, 2, 3, 4)}, {"box": ((1, 2, 3, 4),)}),
        ({"box": [1, 2, 3, 4]}, {"box": ((1, 2, 3, 4),)}),
        ({"box": np.array([1.5, 2, 3, 4])}, {"box": ((1.5, 2.0, 3.0, 4.0),)}),
        ({"box": np.array([[1, 2, 3, 4], [5, 6, 7, 8]])}, {"box": ((1, 2, 3, 4), (5, 6, 7, 8))}),
        ({"box": [(1, 2, 3, 4), np.array([5, 6, 7, 8])]}, {"box": ((1, 2, 3, 4), (5, 6, 7, 8))}),
        ({"box": tuple(np.float32(x) for x in (1, 2, 3, 4))}, {"box": ((1.0, 2.0, 3.0, 4.0),)}),
        ({"site": np.array(["arm", "leg"])}, {"site": ("arm", "leg")}),
    ],
)
def test_numbers_of_other_libraries_are_numbers(given: dict, plain: dict) -> None:
    assert options.check(CARD, given) == plain


@pytest.mark.parametrize("box", ["30,10,10,20", "10,20,30,10", "10,10,10,20"])
def test_an_inverted_box_is_refused_before_anything_is_loaded(box: str) -> None:
    with pytest.raises(OptionError, match=f"option box {box} is empty or inverted; write x0,y0,x1,y1 with x0 < x1"):
        options.parse(CARD, [f"box={box}"])


def test_clicks_keep_their_order_and_have_a_label() -> None:
    assert options.parse(CARD, ["click=4,5,1", "click=2,3,0"]) == {"click": ((4.0, 5.0, 1.0), (2.0, 3.0, 0.0))}
    assert options.check(CARD, {"click": (4, 5, 1)}) == {"click": ((4, 5, 1),)}
    with pytest.raises(OptionError, match="click must be 3 numbers separated by commas"):
        options.parse(CARD, ["click=4,5"])


def test_what_is_required_may_be_replaced_by_another_input() -> None:
    needed = Input("box", "box", "a box", required=True, unless="masks")
    card = replace(CARD, inputs=(CARD.inputs[0], needed, Input("masks", "folder", "a folder")))
    with pytest.raises(
        OptionError, match=r"toy needs box \(a box\); add --with box=x0,y0,x1,y1 or --with masks=\.\.\."
    ):
        options.check(card, {})
    assert options.check(card, {"masks": "."})["masks"] == "."
