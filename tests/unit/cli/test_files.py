"""Files are read in small pieces, even if they are packed."""

import tracemalloc
from pathlib import Path

import zstandard

from pipeline.cli.files import read_lines

MIB = 1024 * 1024


def test_small_file_that_unpacks_to_600_mib_does_not_fill_memory(tmp_path: Path) -> None:
    packer = zstandard.ZstdCompressor().compressobj()
    path = tmp_path / "bomb.zst"
    with path.open("wb") as out:
        for _ in range(600):
            out.write(packer.compress(bytes([97]) * MIB))
        out.write(packer.flush())
    assert path.stat().st_size < MIB

    tracemalloc.start()
    unpacked = sum(len(line) for _, _, line in read_lines((str(path),)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert unpacked == 600 * MIB
    assert peak < 350 * MIB
