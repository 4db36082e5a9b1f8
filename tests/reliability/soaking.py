"""One process that indexes, updates, rebuilds, searches and embeds without an end: `python soaking.py WORK MODEL SERVER MINUTES`.

After each cycle it notes what it holds: memory, open files, threads, child processes.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import samples
import sightline
from sightline import EmbeddingEngine
from sightline.testing import HashEmbedder

WORDS = "lamp fog bell horn rope anchor tide keeper stair window glass brass clock ledger storm gull oil wick".split()  # noqa: SIM905
FILES = 30


@dataclass(frozen=True)
class Sample:
    """What the process held after a cycle; memory in MB, without the files that it maps."""

    seconds: float
    memory_mb: float
    files: int
    threads: int
    children: int


def sample(began: float) -> Sample:
    """What it holds now."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    children = [
        one for task in Path("/proc/self/task").iterdir() for one in (task / "children").read_text(encoding="ascii").split()
    ]
    return Sample(
        round(time.monotonic() - began, 1), round(int(status["RssAnon"].split()[0]) / 1024, 1), len(os.listdir("/proc/self/fd")),
        threading.active_count(), len(children),
    )  # fmt: skip


class Folder:
    """Files that change from cycle to cycle: some edited, some new, some gone, and one that is parsed in a child process."""

    def __init__(self, path: Path) -> None:
        self.path, self._random = path, random.Random(3)
        path.mkdir()
        (path / "book.docx").write_bytes(samples.docx())
        for number in range(FILES):
            self._write(number)

    def change(self) -> None:
        """The next version."""
        for number in self._random.sample(range(FILES), 6):
            self._write(number)
        gone = self.path / f"note{self._random.randrange(FILES)}.md"
        gone.unlink(missing_ok=True)

    def _write(self, number: int) -> None:
        sections = [f"# Part {part}\n\n{' '.join(self._random.choices(WORDS, k=25))}" for part in range(6)]
        (self.path / f"note{number}.md").write_text("\n\n".join(sections), encoding="utf-8")


def cycle(number: int, folder: Folder, urls: list[str], engine: EmbeddingEngine) -> None:
    """One round over all stores."""
    hashing = HashEmbedder(native_dimensions=32)
    folder.change()
    for url in urls:
        rebuild = number % 5 == 4
        sightline.index([folder.path], into=url, model=hashing, prune=not rebuild, rebuild=rebuild, force=True)
        with sightline.open_collection(url, model=hashing) as collection:
            for word in WORDS:
                assert collection.search(word, k=5)
            ids = collection.add([f"row {number} {word}" for word in WORDS])
            collection.delete(ids)
    texts = [" ".join(WORDS[: 1 + (number + row) % len(WORDS)]) for row in range(200)]
    engine.embed_documents(texts)
    pool = [threading.Thread(target=engine.embed_queries, args=(texts[:3],)) for _ in range(8)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()


def main(work: Path, model: str, server: str, minutes: float) -> None:
    """Cycle until the time is over, and print the samples."""
    folder = Folder(work / "notes")
    urls = [f"edge:{work / 'edge'}", "memory:soak", *([server] if server else [])]
    began, samples_, number = time.monotonic(), [], 0
    engine = EmbeddingEngine(model, device="cpu", threads=1)
    while not samples_ or time.monotonic() - began < 60 * minutes:
        cycle(number, folder, urls, engine)
        if number % 10 == 9:  # a model that is loaded and let go again and again
            engine.close()
            engine = EmbeddingEngine(model, device="cpu", threads=1)
        number += 1
        samples_.append(sample(began))
    engine.close()
    print(json.dumps([asdict(one) for one in samples_]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
