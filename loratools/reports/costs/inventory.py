"""`Inventory`: how a family of models writes down its parameters, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

from loratools.reports.costs.architecture import Parts, Role

Numbers = tuple[range, ...]


class Inventory:
    """Collects the parameters of a model; every method adds some, biases included."""

    def __init__(self) -> None:
        self.parts: list[Parts] = []

    def matrix(
        self,
        module: str,
        out: int,
        into: int,
        over: Numbers = (),
        *,
        bias: bool = False,
        slices: Sequence[tuple[str, int]] = (),
    ) -> None:
        """The weight of a linear layer inside a block, (out, in), and its bias."""
        self.add(module, Role.MATRIX, (out, into), over, slices=tuple(slices))
        if bias:
            self.add(module, Role.BIAS, (out,), over)

    def head(self, module: str, out: int, into: int, *, bias: bool = False) -> None:
        """A linear layer outside of the blocks: an output head, or a pooler below one."""
        self.add(module, Role.HEAD, (out, into))
        if bias:
            self.add(module, Role.BIAS, (out,))

    def output_head(self, module: str, out: int, into: int, *, tied: bool, bias: bool = False) -> None:
        """The head of a language model: tied, its weight is the embedding's, and only a bias is its own."""
        if not tied:
            self.head(module, out, into, bias=bias)
        elif bias:
            self.add(module, Role.BIAS, (out,))

    def norm(self, module: str, width: int, over: Numbers = (), *, bias: bool) -> None:
        """The weight of a norm, and a LayerNorm's bias."""
        self.add(module, Role.NORM, (width,), over)
        if bias:
            self.add(module, Role.NORM_BIAS, (width,), over)

    def embedding(self, module: str, rows: int, width: int) -> None:
        self.add(module, Role.EMBEDDING, (rows, width))

    def add(
        self,
        module: str,
        role: Role,
        shape: tuple[int, ...],
        over: Numbers = (),
        *,
        slices: tuple[tuple[str, int], ...] = (),
    ) -> None:
        """Any parameter; what is empty (a layer of no rows, no layers at all) is passed over."""
        part = Parts(module, role, shape, over, slices)
        if part.parameters:
            self.parts.append(part)
