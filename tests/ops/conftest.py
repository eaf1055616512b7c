from __future__ import annotations

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # Bad input has to reach the refusal, and a graph holds the operator alone.
        if item.name.startswith(("test_bad_input_is_refused", "test_a_tree_refuses", "test_compiles")):
            item.add_marker(pytest.mark.wrong_types)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
