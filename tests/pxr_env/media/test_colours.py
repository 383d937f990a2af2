"""Every mode that a file or a picture in memory can have, as 8-bit RGB; expected values by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pxr_env.errors import MediaError
from pxr_env.media import ImageSource, VideoSource
from pxr_env.media.images import decode, probe

WHITE = (255, 255, 255)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth, colour, rows, *extra):
    """A PNG from its rows of bytes, with further chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    body = b"".join(chunk(kind, content) for kind, content in extra)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def first_row(picture):
    return [tuple(pixel) for pixel in np.asarray(picture)[0].tolist()]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # One transparent colour, by depth.
        (png(2, 1, 8, 2, [bytes((9, 8, 7, 7, 8, 9))], (b"tRNS", struct.pack(">HHH", 9, 8, 7))), [WHITE, (7, 8, 9)]),
        (
            png(2, 1, 16, 2, [struct.pack(">6H", 0x0900, 0x0800, 0x0700, 0x0A00, 0, 0)],
                (b"tRNS", struct.pack(">HHH", 0x0900, 0x0800, 0x0700))),
            [WHITE, (10, 0, 0)],
        ),
        (
            # 16 bits: 255 is nearly black, not white.
            png(2, 1, 16, 2, [struct.pack(">6H", 0xFFFF, 0xFFFF, 0xFFFF, 255, 255, 255)],
                (b"tRNS", struct.pack(">HHH", 255, 255, 255))),
            [WHITE, WHITE],
        ),
        (png(2, 1, 8, 0, [bytes((7, 9))], (b"tRNS", b"\0\7")), [WHITE, (9, 9, 9)]),
        (png(2, 1, 4, 0, [b"\x37"], (b"tRNS", b"\0\3")), [WHITE, (119, 119, 119)]),
        (png(2, 1, 2, 0, [b"\x60"], (b"tRNS", b"\0\1")), [WHITE, (170, 170, 170)]),
        (png(2, 1, 1, 0, [b"\x40"], (b"tRNS", b"\0\0")), [WHITE, WHITE]),
        (png(2, 1, 1, 0, [b"\x40"], (b"tRNS", b"\0\1")), [(0, 0, 0), WHITE]),
        (png(2, 1, 16, 0, [struct.pack(">HH", 0x0102, 0x0103)], (b"tRNS", b"\1\2")), [WHITE, (1, 1, 1)]),
        # A palette with one transparent colour, and with half of one.
        (png(2, 1, 8, 3, [b"\0\1"], (b"PLTE", bytes(6)), (b"tRNS", b"\0")), [WHITE, (0, 0, 0)]),
        (png(2, 1, 8, 3, [b"\0\1"], (b"PLTE", bytes(6)), (b"tRNS", b"\xff\x80")), [(0, 0, 0), (127, 127, 127)]),
        # A channel, of 8 and 16 bits.
        (png(2, 1, 8, 4, [bytes((0, 0, 5, 255))]), [WHITE, (5, 5, 5)]),
        (png(2, 1, 16, 4, [struct.pack(">4H", 0, 0, 0x0500, 65535)]), [WHITE, (5, 5, 5)]),
        (png(2, 1, 8, 6, [bytes((0, 0, 0, 0, 1, 2, 3, 255))]), [WHITE, (1, 2, 3)]),
        (png(2, 1, 16, 6, [struct.pack(">8H", 0, 0, 0, 0, 256, 512, 768, 65535)]), [WHITE, (1, 2, 3)]),
        # A colour that its depth does not have.
        (png(2, 1, 8, 2, [bytes(6)], (b"tRNS", struct.pack(">HHH", 256, 0, 0))), [(0, 0, 0)] * 2),
        (png(2, 1, 8, 0, [bytes(2)], (b"tRNS", b"\1\0")), [(0, 0, 0)] * 2),
    ],
)  # fmt: skip
def test_transparency_of_pngs_is_white(data, expected):
    assert first_row(decode(data)) == expected
    assert first_row(ImageSource(image=Image.open(io.BytesIO(data))).image) == expected


def in_mode(mode):
    """A red pixel, seen through fully and not at all where the mode knows that."""
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    picture.putpixel((1, 0), (255, 0, 0, 0))
    if mode in ("RGBa", "PA"):
        return picture.convert(mode) if mode == "RGBa" else picture.convert("P").convert("PA")
    if mode in ("LA", "La"):
        return picture.convert("LA").convert(mode)
    if mode in ("LAB", "HSV", "CMYK", "YCbCr", "RGBX", "L", "P"):
        return picture.convert("RGB").convert(mode)
    return picture


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA", "LAB", "HSV", "CMYK", "YCbCr", "RGBX", "L", "P"])
def test_modes_of_pictures_in_memory(mode):
    shown = ImageSource(image=in_mode(mode)).image
    assert shown.mode == "RGB"
    solid, clear = first_row(shown)
    expected = (76, 76, 76) if mode in ("L", "LA", "La") else (255, 0, 0)  # 76 = 0.299 * 255
    assert np.abs(np.subtract(solid, expected)).max() <= 5
    if mode in ("RGBA", "RGBa", "LA", "La"):
        assert clear == WHITE


def test_a_colour_of_a_loaded_picture_is_transparent_and_the_picture_is_not_changed():
    picture = Image.new("RGB", (2, 1), (9, 8, 7))
    picture.putpixel((1, 0), (0, 0, 0))
    picture.info["transparency"] = (9, 8, 7)
    assert first_row(ImageSource(image=picture).image) == [WHITE, (0, 0, 0)]
    assert (picture.mode, picture.info) == ("RGB", {"transparency": (9, 8, 7)})
    plain = Image.new("RGB", (2, 1))
    assert ImageSource(image=plain).image is plain


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 256, 65535]], np.int32), [0, 1, 255]),
        (np.array([[0, 50_000, 100_000]], np.int32), [0, 127, 255]),
        (np.array([[-(2**31), 2**30, 2**31 - 1]], np.int32), [0, 127, 255]),
        (np.array([[-5, -1, 0]], np.int32), [0, 0, 0]),
        (np.array([[0, 256, 65535]], np.uint16), [0, 1, 255]),
        (np.array([[0, 100, 255]], np.uint16), [0, 0, 0]),  # 16 bits are 16 bits
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 1.5, 255]], np.float32), [0, 2, 255]),
        (np.array([[0, 256, 65535]], np.float32), [0, 1, 255]),
        (np.array([[0, 6e5, 1e6]], np.float32), [0, 153, 255]),
        (np.array([[np.nan, np.inf, -np.inf]], np.float32), [0, 255, 0]),
        (np.array([[np.nan, np.inf, 0.2]], np.float32), [0, 255, 51]),
        (np.array([[-1, 3.4e38, 0]], np.float32), [0, 255, 0]),
    ],
)
def test_greys_of_more_than_eight_bits(tmp_path, values, expected):
    picture = Image.fromarray(values)
    picture.save(tmp_path / "a.tif")
    for source in (ImageSource(image=picture), ImageSource(path=tmp_path / "a.tif")):
        assert first_row(source.image) == [(grey, grey, grey) for grey in expected]


def test_dark_greys_of_sixteen_bits_stay_dark():
    """Pillow reads a PGM of 16 bits into 32."""
    dark = struct.pack(">3H", 0, 128, 255)
    assert first_row(decode(b"P5 3 1 65535\n" + dark)) == [(0, 0, 0)] * 3
    assert first_row(decode(png(3, 1, 16, 0, [dark]))) == [(0, 0, 0)] * 3


def tiff(bits, photometric, pixels, width):
    """A grey TIFF of one row."""
    entries = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 1)]
    entries.append((279, len(pixels)))
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + table + bytes(4)


def test_tiffs_of_twelve_bits_and_those_whose_zero_is_white():
    assert first_row(decode(tiff(12, 1, b"\xff\xf8\x00", 2))) == [WHITE, (128, 128, 128)]
    assert first_row(decode(tiff(16, 1, struct.pack("<2H", 0, 65535), 2))) == [(0, 0, 0), WHITE]
    assert first_row(decode(tiff(16, 0, struct.pack("<2H", 0, 65535), 2))) == [WHITE, (0, 0, 0)]
    assert first_row(decode(tiff(8, 0, b"\0\xff", 2))) == [WHITE, (0, 0, 0)]


@pytest.mark.parametrize(
    ("milliseconds", "shown"), [(0, 100), (10, 100), (11, 11), (15, 15), (20, 20), (50, 50), (65_000, 65_000)]
)
def test_short_delays_of_animations_are_those_of_browsers(tmp_path, milliseconds, shown):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for suffix in ("gif", "webp"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
        # A GIF counts in hundredths of a second; WebP has its own idea of a 0.
        expected = 100 if suffix == "gif" and milliseconds < 20 else shown
        assert VideoSource(path=path).times == pytest.approx([0, expected / 1000, 2 * expected / 1000])


def test_frames_beyond_the_canvas_are_cut(tmp_path):
    """A frame of a GIF may be larger than the first one; all of a video have one size."""
    first, second = (Image.new("P", (8, 8), colour) for colour in (0, 1))
    second.paste(2, (4, 4, 8, 8))
    for picture in (first, second):
        picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    path = tmp_path / "a.gif"
    first.save(path, save_all=True, append_images=[second], duration=50, loop=0)
    data = bytearray(path.read_bytes())
    place = data.rindex(b"\x2c\0\0\0\0\x08\0\x08\0")
    data[place + 1 : place + 5] = struct.pack("<HH", 4, 4)  # the second frame begins at 4, 4
    path.write_bytes(data)
    video = VideoSource(path=path)
    assert video.size == video.frame(0).size == video.frame(1).size == (8, 8)
    assert video.frame(1).getpixel((7, 7)) == (0, 255, 0)


BIG = PngImagePlugin.MAX_TEXT_CHUNK + 1000
METADATA = {
    "a colour profile": (b"iCCP", b"profile\0\0" + zlib.compress(bytes(BIG))),
    "a packed text": (b"zTXt", b"workflow\0\0" + zlib.compress(bytes(BIG))),
    "a packed international text": (b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(bytes(BIG))),
    "an unknown method": (b"zTXt", b"workflow\0\7" + zlib.compress(b"{}")),
}


@pytest.mark.parametrize("extra", METADATA.values(), ids=METADATA)
def test_pngs_with_large_metadata_are_shown(tmp_path, extra):
    data = png(2, 1, 8, 2, [bytes((1, 2, 3, 4, 5, 6))], extra)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    assert first_row(ImageSource(path=path).image) == [(1, 2, 3), (4, 5, 6)]
    assert probe(path) == probe(data) == (2, 1)
    # Behind the pixels it is found only when they are decoded.
    end = data.index(b"IEND") - 4
    behind = png(2, 1, 8, 2, [bytes(6)])[:-12] + chunk(*extra) + data[end:]
    assert decode(behind).size == (2, 1)


def test_many_texts_are_shown_and_the_orientation_survives():
    texts = [(b"tEXt", b"k%d\0" % n + bytes(BIG)) for n in range(PngImagePlugin.MAX_TEXT_MEMORY // BIG + 1)]
    xmp = (b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>')
    packed = (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b'<x tiff:Orientation="6"/>'))
    for oriented in (xmp, packed):
        data = png(2, 1, 8, 2, [bytes(6)], *texts, oriented)
        assert probe(data) == decode(data).size == (1, 2)


def test_bombs_are_refused_and_called_what_they_are(tmp_path):
    """A header of very many pixels with nothing behind it, and a text that unpacks to a thousand times its size."""
    for side in (10_000, 40_000):
        data = png(1, 1, 8, 2, [bytes(3)]).replace(struct.pack(">II", 1, 1), struct.pack(">II", side, side))
        header = data[12:29]
        data = data.replace(data[29:33], struct.pack(">I", zlib.crc32(header)), 1)
        path = tmp_path / f"{side}.png"
        path.write_bytes(data)
        for read in (probe, decode, lambda file: ImageSource(path=file).image):
            with pytest.raises(MediaError, match=r"too large to be decoded|expected at most .*MAX_IMAGE_PIXELS"):
                read(path)
    bomb = (b"zTXt", b"k\0\0" + zlib.compress(bytes(64 * 1024 * 1024), 9))
    assert decode(png(2, 1, 8, 2, [bytes(6)], bomb)).size == (2, 1)  # never unpacked
