"""Videos of every form, whole, hostile or damaged, and what is no video."""

import itertools
import os
import random
import struct
import zlib
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np

LEVELS = np.arange(12) * 16 + 24  # of grey, frame by frame: a swap or a lost frame would show
PATTERN = np.array([[1, 0, 0], [0.5, 0.2, 0.8]])  # unlike itself turned or mirrored


def grey(level, width=64, height=48):
    return np.full((height, width, 3), level, np.uint8)


def turned(level):
    blocks = np.kron(PATTERN, np.ones((24, 24))) * level
    return np.repeat(blocks.astype(np.uint8)[..., None], 3, axis=-1)


def encode(path, encoder="mpeg4", images=None, pixels="yuv420p", **more):
    """Writes images with a codec; `more` are options, stamps, metadata, sound, a display matrix."""
    images = [grey(level) for level in LEVELS] if images is None else images
    height, width = images[0].shape[:2]
    with av.open(str(path), "w", options=more.get("format", {})) as container:
        container.metadata.update(more.get("metadata", {}))
        stream: Any = container.add_stream(encoder, rate=25, width=width, height=height)
        stream.pix_fmt = pixels
        stream.codec_context.options = {"g": "4", **more.get("codec", {})}
        if "matrix" in more:
            stream.set_display_matrix(more["matrix"])
        sound = add_silence(container) if more.get("sound") else None
        for image, stamp in zip(images, more.get("stamps", itertools.count()), strict=False):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            container.mux(sound.encode())


def add_silence(container):
    """Adds a stream of sound and its first samples; the caller muxes the rest."""
    sound = container.add_stream("mp2", rate=44100, layout="mono")
    silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16", "mono")
    silence.sample_rate = 44100
    container.mux(sound.encode(silence))
    return sound


def mux(path, codec, packets):
    """Writes packets that are encoded already, under a header of 64x48 pixels."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, width=64, height=48)
        stream.pix_fmt = {"png": "gray"}.get(codec, "yuvj420p")
        container.start_encoding()
        for number, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base, packet.is_keyframe = Fraction(1, 25), True
            container.mux(packet)


def cut(source, path, number):
    """Copies an MP4 without its first frames, by an edit list as phones and ffmpeg -ss write it."""
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets: Any = old.demux(video=0)
        for packet in packets:
            if packet.dts is not None:
                shift = int(number / 25 / packet.time_base)
                packet.pts, packet.dts, packet.stream = (
                    packet.pts - shift,
                    packet.dts - shift,
                    stream,
                )
                new.mux(packet)


def jpeg(level, width=64, height=48):
    return cv2.imencode(".jpg", grey(level, width, height))[1].tobytes()


def png(width, height, rows=None):
    """A black PNG of any size, made without its memory; `rows` fewer than its header says."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    deflate = zlib.compressobj(9)
    row = bytes(1 + width)
    first = deflate.compress(row) + deflate.flush(zlib.Z_FULL_FLUSH)
    again = deflate.compress(row) + deflate.flush(zlib.Z_FULL_FLUSH)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", first + again * ((rows or height) - 1) + b"\x03\x00")
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


# Whole clips, whatever their form: all twelve frames come out, in order.
WHOLE = {
    "xvid.avi": {"codec": {"bf": "2"}},
    "sound.avi": {"sound": True},
    "mjpeg.avi": {"encoder": "mjpeg", "pixels": "yuvj420p"},
    "h264.mp4": {"encoder": "libx264"},
    "matroska.mkv": {"encoder": "libx264"},
    "first.mp4": {"encoder": "libx264", "format": {"movflags": "faststart"}},
    "pieces.mp4": {"encoder": "libx264", "format": {"movflags": "frag_keyframe+empty_moov"}},
    "vp8.webm": {"encoder": "libvpx"},
    "vp9.webm": {"encoder": "libvpx-vp9", "codec": {"cpu-used": "8"}},
    "program.mpg": {"encoder": "mpeg2video"},
    "wmv.wmv": {"encoder": "wmv2"},
    "flash.flv": {"encoder": "flv"},
    "interlaced.avi": {"encoder": "mpeg2video", "codec": {"flags": "+ildct+ilme"}},
    "444.mp4": {"encoder": "libx264", "pixels": "yuv444p"},
    "10 bit.mkv": {"encoder": "ffv1", "pixels": "yuv420p10le"},
    "grey.mkv": {"encoder": "ffv1", "pixels": "gray"},
    "grey16.mkv": {"encoder": "ffv1", "pixels": "gray16le"},
    "alpha.mov": {"encoder": "qtrle", "pixels": "argb"},
    "alpha planar.mkv": {"encoder": "ffv1", "pixels": "yuva420p"},
    "odd.avi": {"images": [grey(level, 33, 17) for level in LEVELS]},
    "dot.mkv": {"encoder": "ffv1", "images": [grey(level, 1, 1) for level in LEVELS]},
    "tall.avi": {"images": [grey(level, 16, 2000) for level in LEVELS]},
    "uneven.mkv": {"encoder": "libx264", "stamps": [n * n for n in range(12)]},
    "uneven too.mp4": {"encoder": "libx264", "stamps": [n * n for n in range(12)]},
    "not UTF-8.avi": {"metadata": {"title": "TITLE" * 4}},
    "not UTF-8 too.mp4": {"encoder": "libx264", "metadata": {"title": "TITLE" * 4}},
    "upper case.AVI": {},
}

TRAPS = """ '"`;&|<>()[]{}%*?$\\!#~^=,+@:"""
NAMES = [
    *(f"a{trap}b.avi" for trap in TRAPS),
    "-n.avi",
    "--out=x.avi",
    "%03d.avi",
    "file:http:x.avi",
    "concat:a|b.avi",
    "a..avi",
    "\N{CLAPPER BOARD}.avi",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}.avi",
    "re\N{COMBINING ACUTE ACCENT}al.avi",
    "\N{RIGHT-TO-LEFT OVERRIDE}iva.avi",
    "x" * 251 + ".avi",
    "NUL.avi",
]

# What is no video, and a sign of the reason that is given for it.
NAMED = {
    "empty.avi": "Invalid data",
    "zeros.avi": "Invalid data",
    "text.avi": "Invalid data",
    "program.mp4": "Invalid data",
    "unknown.avi": "no decoder for its codec",
    "header.avi": "holds no frame",
    "sound.mkv": "no video stream",
    "short.avi": "has 10 frames, fewer than the 11",
    "jpeg.mp4": "has 1 frames",
    "png.avi": "has 1 frames",
    "16000.avi": "frames of 16000x16000 pixels, too large",
    "60000.avi": "Invalid data",
    "folder.avi": "not a regular file",
    "pipe.avi": "not a regular file",
    "device.avi": "not a regular file",
    "dangling.avi": "No such file",
    "loop.avi": "Too many levels of symbolic links",
    "list.avi": "does not decode",
    "list of addresses.avi": "does not decode",
    "playlist.avi": "does not decode",
    "manifest.mp4": "does not decode",
    "session.avi": "does not decode",
}


def write_named(folder, clip, port):
    """The files of `NAMED`; lists lead to a whole clip, and to `port` of this machine."""
    address = f"http://127.0.0.1:{port}/a.avi"
    data = clip.read_bytes()
    contents = {
        "empty.avi": b"",
        "zeros.avi": bytes(10000),
        "text.avi": b"\x1b[31mno video\x1b[0m\r\n" * 500,
        "program.mp4": b"\x7fELF" + random.Random(0).randbytes(5000),
        "unknown.avi": data.replace(b"FMP4", b"ZZZZ"),
        "jpeg.mp4": jpeg(9),
        "png.avi": png(64, 48),
        "list.avi": f"ffconcat version 1.0\nfile '{clip.name}'\n".encode(),
        "list of addresses.avi": f"ffconcat version 1.0\nfile '{address}'\n".encode(),
        "playlist.avi": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n"
        f"#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n".encode(),
        "manifest.mp4": '<?xml version="1.0"?><MPD type="static" profiles="urn:mpeg:dash:profile:'
        'isoff-main:2011" mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType='
        f'"video/mp4"><Representation id="1" bandwidth="9"><BaseURL>{address}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>".encode(),
        "session.avi": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\n"
        b"m=video %d RTP/AVP 96\na=rtpmap:96 H264/90000\n" % port,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    mux(folder / "header.avi", "mjpeg", [])
    mux(folder / "16000.avi", "png", [png(16000, 16000)] * 12)
    mux(folder / "60000.avi", "png", [png(60000, 60000, rows=9)] * 12)
    encode(folder / "short.avi", images=[grey(9)] * 10)
    with av.open(str(folder / "sound.mkv"), "w") as container:
        container.mux(add_silence(container).encode())
    (folder / "folder.avi").mkdir()
    os.mkfifo(folder / "pipe.avi")
    (folder / "device.avi").symlink_to("/dev/zero")
    (folder / "dangling.avi").symlink_to("nothing")
    (folder / "loop.avi").symlink_to("loop.avi")


def truncate(data, rng):
    return data[: len(data) * rng.randrange(1, 10) // 10]


def flip(data, rng):
    return flip_head(data, rng, len(data))


def flip_head(data, rng, length=600):
    data = bytearray(data)
    for _ in range(rng.choice([1, 4, 16, 64])):
        data[rng.randrange(min(length, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(data)


def blank(data, rng):
    start = rng.randrange(len(data))
    return data[:start] + bytes(len(data[start : start + 512])) + data[start + 512 :]


def lose(data, rng):
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 200) :]


def behead(data, rng):
    return data[rng.randrange(1, 200) :]


def tail(data, rng):
    return data + rng.randbytes(3000)


def double(data, rng):
    return data + data


DAMAGES = (truncate, flip, flip_head, blank, lose, behead, tail, double)


def write_damaged(folder, clips, count):
    """Clip after clip, each damaged in its way; the same ones every time."""
    ways = random.Random(1).sample([*itertools.product(DAMAGES, clips)], len(DAMAGES) * len(clips))
    for number, (damage, clip) in zip(range(count), itertools.cycle(ways), strict=False):
        data = damage(clip.read_bytes(), random.Random(number))
        (folder / f"{number:03d} {damage.__name__} {clip.stem}{clip.suffix}").write_bytes(data)
