"""`kernels.c`, compiled once on each machine and kept; what lies between the matrix products on CPUs with bfloat16 units.

The compiler is the machine's own (`cc`, or what `CC` names), the result lies in the user's cache and is found there by whatever
could change it: the source, the flags, the compiler and the CPU. Compiling takes two seconds, in a thread of its own; until it is
done, and where it can't be done, torch's operators do the work. What was compiled is tried against torch before it is used.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from sightline.embedding.device import cpu_features

log = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("kernels.c")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_SECONDS = 120
WIDTHS = (32, 64, 96, 128)  # of a head
WIDEST = 4096  # row of a layer norm
_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float


class Kernels:
    """The compiled functions. bfloat16 tensors on the CPU, their last dimension contiguous."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.attend.argtypes = [_POINTER] * 8 + [_INT] * 7 + [_FLOAT, _INT]
        library.add_and_rms_norm.argtypes = [_POINTER] * 5 + [_INT] * 2 + [_FLOAT, _INT]
        library.add_and_layer_norm.argtypes = [_POINTER] * 5 + [_INT] * 2 + [_FLOAT, _INT]
        library.norm_and_rotate.argtypes = [_POINTER] * 6 + [_INT, _LONG] + [_INT] * 3 + [_FLOAT, _INT]
        library.linear_int8.argtypes = [_POINTER] * 6 + [_INT] * 5
        library.silu_and_multiply.argtypes = [_POINTER] * 2 + [_INT] * 3

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        starts: Tensor,
        *,
        scale: float,
        causal: bool,
        window: int | None = None,
        prefix: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attention within each text of a pack.

        *Shapes:* query `(tokens, heads, width)`, key and value `(tokens, kv_heads, width)`, starts int32 `(num_texts + 1,)`, a
        prefix's keys and values `(before, kv_heads, width)` -> `(tokens, heads, width)`.
        """
        tokens, heads, width = query.shape
        out = torch.empty((tokens, heads, width), dtype=torch.bfloat16)
        strides = (_LONG * 6)(*(tensor.stride(0) for tensor in (query, key, value)), *(t.stride(1) for t in (query, key, value)))
        before, prefix_key, prefix_value = 0, key, value
        if prefix is not None:
            prefix_key, prefix_value = (tensor.contiguous() for tensor in prefix)
            before = len(prefix_key)
        failed = self._library.attend(
            query.data_ptr(), key.data_ptr(), value.data_ptr(), out.data_ptr(), prefix_key.data_ptr(), prefix_value.data_ptr(),
            starts.data_ptr(), strides, len(starts) - 1, heads, key.shape[1], width, before, causal, window or 0, scale,
            torch.get_num_threads(),
        )  # fmt: skip
        if failed:
            raise MemoryError("out of memory in attention; lower max_batch_tokens or max_length")
        return out

    def add_and_rms_norm(self, rows: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """`(rms norm of the sum, the sum)`. *Shapes:* `(tokens, width)` twice, weight `(width,)` -> `(tokens, width)` twice."""
        out = torch.empty_like(rows)
        total = rows if residual is None else torch.empty_like(rows)
        self._library.add_and_rms_norm(
            rows.data_ptr(), None if residual is None else residual.data_ptr(), weight.data_ptr(), total.data_ptr(),
            out.data_ptr(), *rows.shape, epsilon, torch.get_num_threads(),
        )  # fmt: skip
        return out, total

    def add_and_layer_norm(self, rows: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        """*Shapes:* `(tokens, width)` twice, weight and bias `(width,)` -> `(tokens, width)`."""
        out = torch.empty_like(rows)
        self._library.add_and_layer_norm(
            rows.data_ptr(), residual.data_ptr(), weight.data_ptr(), bias.data_ptr(), out.data_ptr(), *rows.shape, epsilon,
            torch.get_num_threads(),
        )  # fmt: skip
        return out

    def norm_and_rotate(
        self, rows: Tensor, query_weight: Tensor, key_weight: Tensor, cosine: Tensor, sine: Tensor, positions: Tensor,
        *, heads: int, kv_heads: int, epsilon: float,
    ) -> None:  # fmt: skip
        """Norm and rotate the query and key heads at the front of `rows`, in place.

        *Shapes:* rows `(tokens, at least (heads + kv_heads) * width)`, weights `(width,)`, cosine and sine float32
        `(positions, width / 2)`, positions int64 `(tokens,)`.
        """
        self._library.norm_and_rotate(
            rows.data_ptr(), query_weight.data_ptr(), key_weight.data_ptr(), cosine.data_ptr(), sine.data_ptr(),
            positions.data_ptr(), len(rows), rows.stride(0), heads, kv_heads, len(query_weight), epsilon, torch.get_num_threads(),
        )  # fmt: skip

    def silu_and_multiply(self, rows: Tensor) -> Tensor:
        """silu of the first half of the columns times the second. *Shapes:* `(tokens, 2 * width)` -> `(tokens, width)`."""
        count, width = rows.shape[0], rows.shape[1] // 2
        out = torch.empty((count, width), dtype=torch.bfloat16)
        self._library.silu_and_multiply(rows.data_ptr(), out.data_ptr(), count, width, torch.get_num_threads())
        return out


    def linear_int8(
        self, rows: Tensor, weights: Tensor, scales: Tensor, sums: Tensor, bias: Tensor, *, gelu: bool = False
    ) -> Tensor:
        """Rows quantised one by one times int8 weights, plus the bias; gelu of that if wanted.

        *Shapes:* rows `(tokens, depth)`, weights int8 `(width / 64, depth / 4, 64, 4)`, scales and bias float32 and sums int32
        `(width,)` -> `(tokens, width)`. `width` is a multiple of 64, `depth` of 16.
        """
        rows = rows.contiguous()
        out = torch.empty((len(rows), len(scales)), dtype=torch.bfloat16)
        failed = self._library.linear_int8(
            rows.data_ptr(), weights.data_ptr(), scales.data_ptr(), sums.data_ptr(), bias.data_ptr(), out.data_ptr(),
            *rows.shape, len(scales), int(gelu), torch.get_num_threads(),
        )  # fmt: skip
        if failed:
            raise MemoryError("out of memory in a matrix product; lower max_batch_tokens")
        return out


class _Build:
    """The one attempt of this process: started by the first who asks.

    `settled` is set as soon as it is clear whether they are there, or have to be compiled, which takes long; `done` at the end.
    """

    def __init__(self) -> None:
        self.kernels: Kernels | None = None
        self.settled, self.done = threading.Event(), threading.Event()
        self._in_torch, self._leaving = threading.Lock(), False
        atexit.register(self._leave)
        threading.Thread(target=self._run, name="sightline-kernels", daemon=True).start()

    def _run(self) -> None:
        try:
            library = _compiled(self.settled.set)
            with self._in_torch, torch.inference_mode():
                if not self._leaving:
                    kernels = Kernels(ctypes.CDLL(str(library)))
                    _check(kernels)
                    self.kernels = kernels
        except (OSError, subprocess.SubprocessError, RuntimeError, ValueError) as error:
            log.warning(
                "the CPU kernels couldn't be built, torch's own operators are used, which is slower (%s). "
                "They need a C compiler with AVX-512 BF16, such as gcc 10: set CC to one, or SIGHTLINE_KERNELS=off.",
                _first_line(error),
            )
        finally:
            self.done.set()
            self.settled.set()

    def _leave(self) -> None:
        """The interpreter's exit ends this thread wherever it is, and inside torch that aborts the process: so not there."""
        with self._in_torch:
            self._leaving = True


_build: _Build | None = None
_lock = threading.Lock()


def _forget() -> None:
    """In a forked child: the thread that builds isn't there, nor whoever held the lock."""
    global _build, _lock
    _lock = threading.Lock()
    if _build is not None and not _build.done.is_set():
        _build = None


if hasattr(os, "register_at_fork"):  # not on Windows, which doesn't fork
    os.register_at_fork(after_in_child=_forget)


def usable() -> bool:
    """Whether this CPU has what the kernels are written for, and the user hasn't switched them off."""
    return "avx512_bf16" in cpu_features() and os.environ.get("SIGHTLINE_KERNELS", "on") != "off"


def kernels(*, wait: bool = False) -> Kernels | None:
    """The kernels; None while they are being compiled (unless `wait`), and where they can't be had."""
    global _build
    if _build is None:
        if not usable():
            return None
        with _lock:
            _build = _build or _Build()
    (_build.done if wait else _build.settled).wait()
    return _build.kernels


def _compiled(on_compiling: Callable[[], None]) -> Path:
    """The compiled library, made now unless it is there; `on_compiling` is told before that."""
    compiler = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        raise RuntimeError("no C compiler was found")
    folder = _cache_folder()
    if folder.exists():
        _check_owner(folder)
    library = folder / f"kernels-{_key(compiler)}.so"
    if not library.exists():
        on_compiling()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / library.name
            subprocess.run(
                [compiler, *_FLAGS, str(_SOURCE), "-o", str(made), "-lm"], check=True, timeout=_SECONDS,
                stdin=subprocess.DEVNULL, capture_output=True, text=True,
            )  # fmt: skip
            os.replace(made, library)  # another process may be doing the same
    return library


def _check_owner(folder: Path) -> None:
    """Raise RuntimeError where somebody else could have put a library into the cache."""
    found = folder.stat()
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
        raise RuntimeError(f"others may write to {folder}; set SIGHTLINE_CACHE to a folder of your own")


def _cache_folder() -> Path:
    given = os.environ.get("SIGHTLINE_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sightline"


def _key(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
    parts = (_SOURCE.read_text(), " ".join(_FLAGS), version, _cpu(), platform.platform())
    return blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()


@cache
def _cpu() -> str:
    """What `-march=native` looks at: a home folder may be shared by machines with different CPUs."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    wanted = ("model name", "cpu family", "model\t", "flags")
    return "\n".join(line for line in dict.fromkeys(lines) if line.startswith(wanted)) or platform.processor()


def _check(kernels: Kernels) -> None:
    """Raise RuntimeError unless each kernel gives what torch gives, to bfloat16's rounding."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(torch.bfloat16)

    starts = torch.tensor([0, 37, 38, 60], dtype=torch.int32)
    for width in WIDTHS:
        query, key, value = random(60, 4, width), random(60, 2, width), random(60, 2, width)
        found = kernels.attend(query, key, value, starts, scale=width**-0.5, causal=True)
        expected = torch.cat([_expected(query[a:b], key[a:b], value[a:b]) for a, b in ((0, 37), (37, 38), (38, 60))])
        _agree("attend", found, expected)
    rows, more, weight, bias = random(5, 64), random(5, 64), random(64), random(64)
    total = rows.float() + more.float()
    normed, _ = kernels.add_and_rms_norm(rows, more, weight, 1e-6)
    _agree("add_and_rms_norm", normed, torch.nn.functional.rms_norm(total, (64,), weight.float(), 1e-6))
    normed = kernels.add_and_layer_norm(rows, more, weight, bias, 1e-6)
    _agree("add_and_layer_norm", normed, torch.nn.functional.layer_norm(total, (64,), weight.float(), bias.float(), 1e-6))
    gated = torch.nn.functional.silu(rows[:, :32].float()) * rows[:, 32:].float()
    _agree("silu_and_multiply", kernels.silu_and_multiply(rows), gated)


def _expected(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = (tensor.float().transpose(0, 1) for tensor in (query, key, value))
    attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return attended.transpose(0, 1)


def _agree(name: str, found: Tensor, expected: Tensor) -> None:
    distance = float((found.float() - expected).abs().max() / expected.abs().max())
    if not distance <= 2**-6:  # bfloat16 has eight bits
        raise RuntimeError(f"{name} is {distance:.2g} off what torch gives")


def _first_line(error: Exception) -> str:
    told = getattr(error, "stderr", None) or str(error)
    return next(iter(told.strip().splitlines()), type(error).__name__)
