"""Compile the CUDA kernel; print how many numbers a thread loads and stores, and its spills."""

from __future__ import annotations

import re
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from evomal.losses.fused_kernel import launch_options, row_kernel

POINTERS = {"logits": "*fp32", "targets": "*i64", "divisor": "*fp32", "losses": "*fp32"}
POINTERS["gradient"] = "*fp32"
INTEGERS = ("stride", "C", "ignore_index")


def main() -> None:
    """For the number of classes given, single precision and sparse label smoothing."""
    options = launch_options(int(sys.argv[1]))
    constants: dict[str, Any] = {"weights": None, "ABSOLUTE": False, "FOCUSED": False}
    constants |= {"SMOOTHED": True, "BLOCK": options.pop("BLOCK")}
    signature = {}
    for name in row_kernel.arg_names:
        number = "i32" if name in INTEGERS else "fp32"
        signature[name] = "constexpr" if name in constants else POINTERS.get(name, number)
    place = {name: (i,) for i, name in enumerate(signature)}
    aligned = {place[name]: [["tt.divisibility", 16]] for name in (*POINTERS, "stride", "C")}
    source = ASTSource(
        fn=row_kernel,
        signature=signature,
        constexprs={place[name]: value for name, value in constants.items()},
        attrs=aligned,
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    code = compiled.asm["ptx"]
    moved = [numbers(code, f"{way}.global") for way in ("ld", "st")]
    print(*moved, compiled.asm["sass"].count("STL"))  # noqa: T201


def numbers(code: str, instruction: str) -> int:
    """What all these instructions move, in numbers."""
    found = re.findall(rf"{re.escape(instruction)}\S*", code)
    return sum(int(one[1]) if (one := re.search(r"\.v(\d)", each)) else 1 for each in found)


if __name__ == "__main__":
    main()
