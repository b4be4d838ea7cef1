"""PyInstaller's hook for `import dinodeploy`; PyInstaller finds it by its name."""  # noqa: N999

from __future__ import annotations

from dinodeploy.standalone.pyinstaller import hook as hook
