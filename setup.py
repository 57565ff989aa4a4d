"""Puts the walkthroughs into the wheel, so that `modbp run` and `modbp audit` work without a clone."""

import json
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class WithWalkthroughs(build_py):
    """Copies `notebooks/` to `modbp/walkthroughs`; an editable installation finds them where they are."""

    def run(self) -> None:
        """Build, then copy each walkthrough without its outputs, which are most of its size."""
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib, "modbp", "walkthroughs")
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(ROOT.glob("notebooks/*.ipynb")):
            notebook = json.loads(path.read_text(encoding="utf-8"))
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code":
                    cell["outputs"], cell["execution_count"] = [], None
            (folder / path.name).write_text(json.dumps(notebook, ensure_ascii=False), encoding="utf-8")


setup(cmdclass={"build_py": WithWalkthroughs})
