"""Kernels of chapters that start in a moment, as forks of one process that has
imported what every chapter imports (see warm.py).
"""

import os
import resource
from types import TracebackType
from typing import Any

from jupyter_client import AsyncKernelManager
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner
from warm import AVAILABLE, SLOW, Program, Warm

MODULES = (*SLOW, "ipykernel.kernelapp")
INLINE = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
"""matplotlib reads it as it is imported; a kernel would set it itself."""


class Kernels:
    """The process whose forks the kernels are; it is started for the first.

    Where there is no warm start, kernels are started as they always are.
    """

    def __init__(self) -> None:
        self._warm: Warm | None = None
        self._last: Program | None = None

    def start(self, command: list[str], **options: Any) -> Program:
        """Start a kernel by the command of its specification."""
        self._warm = self._warm or Warm(MODULES, INLINE)
        arguments = command[command.index("-m") :]
        # it ends with the process that it is a fork of
        parent = f"--IPKernelApp.parent_handle={self._warm.pid}"
        self._last = self._warm.start(
            [*arguments, parent],
            cwd=options.get("cwd"),
            env=options.get("env", os.environ),
        )
        return self._last

    def manager(self) -> type[AsyncKernelManager]:
        """What starts the kernels of papermill."""
        if not AVAILABLE:
            return AsyncKernelManager
        kernels = self

        class Provisioner(LocalProvisioner):
            async def launch_kernel(
                self, cmd: list[str], **kwargs: Any
            ) -> KernelConnectionInfo:
                process: Any = kernels.start(cmd, **kwargs)
                self.process = process
                self.pid = self.pgid = process.pid
                return self.connection_info

        class Manager(AsyncKernelManager):
            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                self.provisioner = Provisioner(
                    kernel_id=self.kernel_id,
                    kernel_spec=self.kernel_spec,
                    parent=self,
                )

        return Manager

    def peak_memory(self) -> int:
        """The largest size in kB of the last kernel, or of all so far where
        there is no warm start (on Linux; elsewhere in other units).
        """
        if self._last is not None:
            return self._last.peak_memory
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss

    def __enter__(self) -> "Kernels":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all kernels."""
        if self._warm is not None:
            self._warm.close()
