"""What pyproject.toml cannot say: a wheel carries the configurations inside the package, as hippo/configs."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithConfigurations(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # which reads those of the checkout
            shutil.copytree("configs", Path(self.build_lib, "hippo", "configs"), dirs_exist_ok=True)


setup(cmdclass={"build_py": WithConfigurations})
