"""Capture the launches of Triton kernels on the host, and compile them for an absent device."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.jit import JITFunction, mangle_type

OPTIONS = {"num_warps", "num_stages", "num_ctas"}


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel: its arguments by name, and the options of the compiler."""

    kernel: JITFunction[Any]
    arguments: dict[str, Any]
    options: dict[str, Any]

    def compile(self, capability: int) -> CompiledKernel:
        """Build it as the launch would: a whole number 1 is a constant, and what 16 divides is said to be so."""
        signature: dict[str, str] = {}
        constants: dict[str, Any] = {}
        attributes: dict[tuple[int, ...], list[list[Any]]] = {}
        for at, (name, value) in enumerate(self.arguments.items()):
            constant = self.kernel.params[at].is_constexpr
            signature[name] = "constexpr" if constant else mangle_type(value, specialize=True)
            if signature[name] == "constexpr":
                constants[name] = value
            elif not isinstance(value, int) or value % 16 == 0:
                attributes[at,] = [["tt.divisibility", 16]]
        source = ASTSource(fn=self.kernel, signature=signature, constexprs=constants, attrs=attributes)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=self.options)


class _Catcher:
    def __init__(self, kernel: JITFunction[Any], seen: list[Launch]) -> None:
        self.kernel, self.seen = kernel, seen

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **kwargs: Any) -> None:
            options = {key: value for key, value in kwargs.items() if key in OPTIONS}
            rest = {key: value for key, value in kwargs.items() if key not in OPTIONS}
            assert all(isinstance(size, int) and size > 0 for size in grid)
            assert all(size < 2**16 for size in grid[1:]), "only the first axis of a grid is long"
            arguments = {**dict(zip(self.kernel.arg_names, args, strict=False)), **rest}
            assert list(arguments) == self.kernel.arg_names
            self.seen.append(Launch(self.kernel, arguments, options))

        return launch


@contextmanager
def caught(module: Any, patch: pytest.MonkeyPatch) -> Iterator[list[Launch]]:
    """Launches of a module inside the block are recorded, not run. Tensors may be on the host."""
    seen: list[Launch] = []
    with patch.context() as inside:
        inside.setattr(triton.knobs.runtime, "interpret", True)  # after import it only opens the door to host tensors
        for name, value in vars(module).items():
            if isinstance(value, JITFunction):
                inside.setattr(module, name, _Catcher(value, seen))
        yield seen


def narrow_addresses(ttir: str) -> list[str]:
    """Lines of a kernel's intermediate code that could leave the 32-bit range before they become an address.

    Every offset is to be 64 bits wide, and a product must not be widened after it was taken.
    """
    made = dict(re.findall(r"(%\S+) = (\S+)", ttir))
    offsets = [line for line in ttir.splitlines() if "tt.addptr" in line and not re.search(r"i64>?( loc|$)", line)]
    late = [
        line
        for line in ttir.splitlines()
        if (widened := re.search(r"arith\.extsi (%\S+) :", line)) and made.get(widened[1]) == "arith.muli"
    ]
    return [line.strip() for line in offsets + late]


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor of any size without memory behind it."""
    return torch.zeros((), dtype=dtype).expand(shape)
