from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("tests_simt_build", Path(__file__).with_name("build.py"))
assert spec is not None
assert spec.loader is not None
module = importlib.util.module_from_spec(spec)
sys.modules["tests_simt_build"] = module
spec.loader.exec_module(module)
