"""Packs schemas/ into the wheel as reconciler/_schemas; everything else stands in pyproject.toml.

The schemas are a top-level folder, where editors and people find them. An editable install reads them there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithSchemas(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "reconciler" / "_schemas"
        target.mkdir(parents=True, exist_ok=True)
        for schema in Path(__file__).parent.joinpath("schemas").glob("*.schema.json"):
            shutil.copy2(schema, target / schema.name)


setup(cmdclass={"build_py": BuildWithSchemas})
