"""The build of the wheel: with the kernels for this machine, where it has a C compiler.

Without one the wheel is of Python alone, and compiles them where it is installed and a compiler
is. ``LMWRIGHT_KERNELS=off`` builds it so on purpose.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Kernels(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the kernels, and names the platform in the wheel's tag."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the library to a wheel; an editable install compiles at its first use."""
        if version == "editable" or os.environ.get("LMWRIGHT_KERNELS") == "off":
            return
        sys.path.insert(0, str(Path(self.root, "src")))
        from lmwright.core.errors import MissingPart
        from lmwright.kernels.compile import SHIPPED, compile_library, shipped_name

        self.beside = tempfile.TemporaryDirectory()
        try:
            made = compile_library(Path(self.beside.name))
        except MissingPart as error:
            self.app.display_warning(f"the wheel has no kernels: {error}")
            return
        place = SHIPPED.relative_to(Path(self.root, "src").resolve()) / shipped_name()
        build_data["force_include"][str(made)] = str(place)
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled."""
        if hasattr(self, "beside"):
            self.beside.cleanup()
