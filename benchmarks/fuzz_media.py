"""Thousands of damaged images and videos: each is shown or is a `MediaError`, and nothing hangs or ends the process.

    python benchmarks/fuzz_media.py --images 50000 --videos 5000
    python benchmarks/fuzz_media.py --only image:1234 --keep broken.png     # one of them again

Small valid files of every format are damaged (bytes changed, cut, doubled, spliced with others, numbers made extreme;
checksums of PNGs are made right again for most of them) and opened as data sets open them. Processes of their own do
that, a few hundred files each, so that a codec that crashes costs one file and is named. The same seed makes the same
files. The status is 1 if anything went wrong.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import io
import json
import resource
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from pxr_env.errors import MediaError
from pxr_env.media import ImageSource, VideoSource
from pxr_env.media.images import decode, probe

KINDS = ("image", "video")
#: Files of one process.
CHUNK = 500
#: Bytes of address space of a process: what asks for more gets a MemoryError.
MEMORY = 16 * 2**30
EXTREME = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def images() -> dict[str, bytes]:
    """Valid images of every format that is opened, by name."""
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8))
    rgba = rgb.convert("RGBA")
    rgba.putalpha(rgb.convert("L"))
    grey = Image.fromarray(np.arange(24 * 36, dtype=np.uint16).reshape(24, 36) * 70)
    frames = [rgb, rgb.rotate(180)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "camera", 72.5
    animated = {"save_all": True, "append_images": frames[1:], "duration": 50}
    xmp = b'<x:xmpmeta tiff:Orientation="6"/>'
    files: list[tuple[str, Image.Image, dict[str, object]]] = [
        ("PNG", rgb, {"exif": exif}),
        ("PNG", rgba, {}),
        ("PNG", rgb.quantize(16), {"transparency": bytes(8), "bits": 4}),
        ("PNG", grey, {}),
        ("PNG", rgb, {"transparency": (1, 2, 3), "icc_profile": bytes(500)}),
        ("PNG", frames[0], animated),
        ("JPEG", rgb, {"exif": exif}),
        ("JPEG", rgb, {"progressive": True, "xmp": xmp, "comment": "hi"}),
        ("JPEG", rgb.convert("CMYK"), {}),
        ("MPO", rgb, {"save_all": True, "append_images": frames[1:], "exif": exif}),
        ("WEBP", rgb, {"exif": exif}),
        ("WEBP", rgba, {"lossless": True, "xmp": xmp}),
        ("WEBP", rgb, animated),
        ("GIF", rgb, {}),
        ("GIF", rgb.quantize(16), animated | {"transparency": 3, "disposal": 2, "comment": b"hi"}),
        ("BMP", rgb, {}),
        ("BMP", rgb.quantize(16), {}),
        ("TIFF", rgb, {"exif": exif}),
        ("TIFF", rgb, {"compression": "tiff_lzw", "exif": exif}),
        ("TIFF", rgb, {"compression": "jpeg"}),
        ("TIFF", rgba, {"compression": "tiff_adobe_deflate"}),
        ("TIFF", grey, {}),
        ("TIFF", grey.convert("I"), {}),
        ("TIFF", rgb.convert("F"), {"compression": "packbits"}),
        ("PPM", rgb, {}),
        ("PPM", grey, {}),
        ("AVIF", rgb, {"exif": exif, "speed": 9}),
        ("AVIF", rgba, {"speed": 9}),
        ("JPEG2000", rgb, {}),
        ("JPEG2000", grey, {"irreversible": False}),
    ]
    made = {}
    for number, (kind, picture, options) in enumerate(files):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        made[f"{kind.lower()} {number}"] = buffer.getvalue()
    return made


def videos() -> dict[str, bytes]:
    """Valid videos of the usual containers and codecs, and animations, by name."""
    import av

    made = {name: data for name, data in images().items() if name in ("gif 14", "webp 12")}
    kinds = [
        ("mp4", "libx264", {"g": "5", "bf": "2"}),
        ("mov", "mpeg4", {"bf": "2"}),
        ("mkv", "libx264", {"g": "5", "bf": "0"}),
        ("webm", "libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}),
        ("webm", "libvpx", {"cpu-used": "8", "deadline": "realtime"}),
        ("avi", "mpeg4", {}),
        ("avi", "mjpeg", {}),
        ("ts", "mpeg2video", {"bf": "2"}),
        ("flv", "flv", {}),
        ("mp4", "libx265", {"x265-params": "log-level=none"}),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for suffix, codec, options in kinds:
            path = Path(folder) / f"a.{suffix}"
            with av.open(str(path), "w") as container:
                stream = container.add_stream(codec, rate=10)
                stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
                stream.options, stream.codec_context.time_base = options, Fraction(1, 10)
                for number in range(12):
                    pixels = np.roll(np.add.outer(np.arange(48), np.arange(64)) * 2, 5 * number, 1)
                    frame = av.VideoFrame.from_ndarray(np.repeat(pixels[..., None], 3, 2).astype(np.uint8), "rgb24")
                    frame.pts = number
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
            made[f"{suffix} {codec}"] = path.read_bytes()
    return made


def damaged(kind: str, number: int, seed: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """File `number` of a seed: the name of what it was made of, and its bytes."""
    rng = np.random.default_rng([seed, KINDS.index(kind), number])
    name = list(files)[number % len(files)]
    data = bytearray(files[name])
    for _ in range(int(rng.integers(1, 3))):
        _DAMAGES[int(rng.integers(len(_DAMAGES)))](data, rng, list(files.values()))
    if data.startswith(PNG_MAGIC) and rng.random() < 0.8:
        data = _with_checksums(data)
    return name, bytes(data)


Damage = Callable[[bytearray, np.random.Generator, list[bytes]], None]


def _place(data: bytearray, rng: np.random.Generator) -> int:
    """A place in the file, in a quarter of all cases in its header."""
    return int(rng.integers(min(len(data), 256) if rng.random() < 0.25 else len(data))) if data else 0


def _change(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> None:
    for _ in range(int(rng.integers(1, 6))):
        data[place : place + 1] = bytes([int(rng.integers(256))]) if (place := _place(data, rng)) < len(data) else b""


def _flip(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> None:
    if data:
        data[_place(data, rng)] ^= 1 << int(rng.integers(8))


def _extreme(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> None:
    value, form = EXTREME[int(rng.integers(len(EXTREME)))], ("<I", ">I", "<H", ">H")[int(rng.integers(4))]
    packed = struct.pack(form, value & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
    place = _place(data, rng)
    data[place : place + len(packed)] = packed


def _cut(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> None:
    del data[int(rng.integers(len(data) + 1)) :]


def _leave_out(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> None:
    place = _place(data, rng)
    del data[place : place + int(rng.integers(1, 200))]


def _double(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> None:
    place, length = _place(data, rng), int(rng.integers(1, 400))
    data[place:place] = data[place : place + length]


def _splice(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> None:
    other = others[int(rng.integers(len(others)))]
    start, length, place = int(rng.integers(len(other))), int(rng.integers(1, 2000)), _place(data, rng)
    data[place : place + length * int(rng.integers(2))] = other[start : start + length]


_DAMAGES: tuple[Damage, ...] = (_change, _flip, _extreme, _cut, _leave_out, _double, _splice)


def _with_checksums(data: bytearray) -> bytearray:
    place = len(PNG_MAGIC)
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return data


def look(kind: str, path: Path) -> str:
    """Opens a file as data sets do: "shown", "refused", or what is wrong."""
    try:
        if kind == "video":
            video = VideoSource(path=path)
            for index in {0, video.n_frames // 2, video.n_frames - 1}:
                if video.frame(index).size != video.size:
                    return "wrong: a frame is not of the size of the video"
            return "shown"
        told: object = None
        with contextlib.suppress(MediaError):
            told = probe(path)
        image = ImageSource(path=path).image
        if told is not None and told != image.size:
            return f"wrong: the header says {told} and the picture is {image.size}"
        return "shown" if decode(path.read_bytes()).size == image.size else "wrong: bytes and file differ"
    except MediaError:
        return "refused"
    except Exception as error:
        return f"wrong: {type(error).__name__}: {error}"[:300]


def work(kind: str, seed: int, first: int, count: int, limit: float) -> None:
    """Looks at some files, in a process of its own; says of each what came of it on a line."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    files = images() if kind == "image" else videos()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            name, data = damaged(kind, number, seed, files)
            path = Path(folder) / f"{number}"
            path.write_bytes(data)
            faulthandler.dump_traceback_later(limit, exit=True)
            result = look(kind, path)
            faulthandler.cancel_dump_traceback_later()
            path.unlink()
            print(json.dumps([number, name, result]), flush=True)


def run(kind: str, seed: int, n_files: int, limit: float) -> dict[str, collections.Counter[str]]:
    """What came of all files of a kind, by what they were made of."""
    results: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    done = 0
    while done < n_files:
        work_on = [kind, str(seed), str(done), str(min(CHUNK, n_files - done)), str(limit)]
        command = [sys.executable, "-W", "ignore", __file__, "--work", *work_on]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("[")]
        for number, name, result in lines:
            results[name.split()[0]][result.split(":")[0]] += 1
            if result.startswith("wrong"):
                print(f"{kind}:{number} made of {name}: {result}", flush=True)
        done += len(lines)
        if process.returncode:
            how = f"a limit of {limit:g} s" if "Timeout" in process.stderr else f"status {process.returncode}"
            print(f"{kind}:{done} ended its process ({how}):\n{process.stderr[-1500:]}", flush=True)
            results["(processes)"]["wrong"] += 1
            done += 1
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=0, metavar="N")
    parser.add_argument("--videos", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=60.0, metavar="SECONDS", help="what one file may take")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="look at one file, in this process")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="with --only: write it there")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        kind, seed, first, count, limit = args.work
        work(kind, int(seed), int(first), int(count), float(limit))
        return 0
    if args.only:
        kind, _, number = args.only.partition(":")
        name, data = damaged(kind, int(number), args.seed, images() if kind == "image" else videos())
        with tempfile.TemporaryDirectory() as folder:
            path = args.keep or Path(folder) / "damaged"
            path.write_bytes(data)
            print(f"{args.only} made of {name}, {len(data)} bytes: {look(kind, path)}")
        return 0
    n_wrong = 0
    for kind, n_files in zip(KINDS, (args.images, args.videos), strict=True):
        results = run(kind, args.seed, n_files, args.limit)
        for name, counts in sorted(results.items()):
            print(f"{kind} {name}: " + ", ".join(f"{counts[what]} {what}" for what in sorted(counts)))
        total: collections.Counter[str] = sum(results.values(), collections.Counter())
        print(f"{n_files} {kind}s: {total['shown']} shown, {total['refused']} refused, {total['wrong']} wrong")
        n_wrong += total["wrong"]
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
