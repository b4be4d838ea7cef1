"""Kinds of image files: which are read, by what, and what to do about the others.

A kind is recognised by its first bytes; folders are searched by suffix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

HEAD = 64  # bytes by which a kind is recognised


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    name: as Pillow names the format, or as people do. module: that registers it with Pillow. extra: of this
    package, that brings `package`, which reads it. advice: for a kind that is never read.
    """

    name: str
    suffixes: tuple[str, ...]  # lower case
    module: str | None = None
    extra: str | None = None
    package: str | None = None
    advice: str = ""

    @property
    def is_readable(self) -> bool:
        """Whether this kind can be read here: the package of its extra is installed."""
        return not self.advice and (self.package is None or _is_installed(self.package))

    @property
    def way_out(self) -> str:
        """What to do about a file of this kind that cannot be read."""
        if self.advice:
            return self.advice
        if self.extra is not None:
            return f"install what reads it: pip install 'dinodeploy[{self.extra}]'"
        return "convert to JPEG or PNG first"


# Kinds that are read, in the order in which they are tried. No other decoder is exposed to untrusted files.
# JPEG covers MPO, the stereo pairs of phones; AVIF needs Pillow 11.3.
READ = (
    Kind("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "PIL.JpegImagePlugin"),
    Kind("PNG", (".png", ".apng"), "PIL.PngImagePlugin"),
    Kind("WEBP", (".webp",), "PIL.WebPImagePlugin"),
    Kind("GIF", (".gif",), "PIL.GifImagePlugin"),
    Kind("BMP", (".bmp", ".dib"), "PIL.BmpImagePlugin"),
    Kind("TIFF", (".tif", ".tiff"), "PIL.TiffImagePlugin"),
    Kind("PPM", (".ppm", ".pgm", ".pbm", ".pnm"), "PIL.PpmImagePlugin"),
    Kind("JPEG2000", (".jp2", ".j2k", ".jpx"), "PIL.Jpeg2KImagePlugin"),
    Kind("AVIF", (".avif",), "PIL.AvifImagePlugin"),
    Kind("HEIF", (".heic", ".heif", ".hif"), "pillow_heif", "heif", "pillow_heif"),
    Kind("JPEG XL", (".jxl",), None, "tiff", "imagecodecs"),
)
FORMATS = {kind.name: kind for kind in READ}

_CONVERT = "convert to JPEG or PNG first"
CAMERA_RAW = Kind(
    "camera raw",
    (
        ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf",
        ".pef", ".srw", ".x3f", ".raw", ".rwl", ".3fr", ".fff", ".iiq", ".mrw", ".dcr", ".kdc", ".erf",
        ".mef", ".mos", ".gpr",
    ),
    advice="convert to JPEG or TIFF first",
)  # fmt: skip
# Kinds that are never read, with what to do instead.
REFUSED = (
    CAMERA_RAW,
    Kind("Photoshop document", (".psd", ".psb"), advice="export as PNG or JPEG first"),
    Kind("GIMP document", (".xcf",), advice="export as PNG or JPEG first"),
    Kind("icon", (".ico", ".cur", ".icns"), advice=_CONVERT),
    Kind("Targa image", (".tga",), advice=_CONVERT),
    Kind("DirectDraw surface", (".dds",), advice=_CONVERT),
    Kind("OpenEXR image", (".exr",), advice="convert to 8 or 16 bits first: floats have no white level"),
    Kind("Radiance HDR image", (".hdr",), advice="convert to 8 or 16 bits first: floats have no white level"),
    Kind("PFM image", (".pfm",), advice="convert to 8 or 16 bits first: floats have no white level"),
    Kind("SVG drawing", (".svg", ".svgz"), advice="render as PNG first"),
    Kind("PDF document", (".pdf",), advice="render its pages as PNG first"),
    Kind("PostScript document", (".eps", ".ps", ".ai"), advice="render as PNG first"),
    Kind("DICOM image", (".dcm", ".dicom"), advice="choose a window and convert to PNG first"),
    Kind("FITS image", (".fits", ".fit"), advice="choose a scale and convert to PNG first"),
    Kind("QOI image", (".qoi",), advice=_CONVERT),
    Kind("PCX image", (".pcx",), advice=_CONVERT),
    Kind("JPEG XR image", (".jxr", ".wdp", ".hdp"), advice=_CONVERT),
    Kind("video", (".mp4", ".mov"), advice="name it as a source of its own: its frames are then read"),
)
_BY_SUFFIX = {suffix: kind for kind in (*READ, *REFUSED) for suffix in kind.suffixes}


def kind_by_suffix(name: str) -> Kind | None:
    """The kind that a file's name promises, or None."""
    dot = name.rfind(".")
    return _BY_SUFFIX.get(name[dot:].lower()) if dot >= 0 else None


def has_image_suffix(name: str) -> bool:
    """Whether folders and archives take a file: its suffix is of a kind that can be read here."""
    kind = kind_by_suffix(name)
    return kind is not None and kind.is_readable


def read_suffixes() -> tuple[str, ...]:
    """The suffixes of all kinds that can be read here."""
    return tuple(suffix for kind in READ if kind.is_readable for suffix in kind.suffixes)


def kind_by_content(head: bytes) -> Kind | None:
    """The kind of a file that Pillow's recognisers may miss or take for another, by its first HEAD bytes."""
    if head[4:8] == b"ftyp":
        return _by_brand(head)
    found = _BEGINNING.match(head)
    if found is None or found.lastindex is None:
        return None
    name = _MAGIC[found.lastindex - 1][1]
    return next(kind for kind in (*READ, *REFUSED) if kind.name == name)


_HEVC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}


def _by_brand(head: bytes) -> Kind:
    """Of a file in ISO's base media format (ISO/IEC 23008-12, annex B): brands say what it holds."""
    end = max(16, min(int.from_bytes(head[:4], "big"), len(head)))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    if b"crx " in brands:
        return CAMERA_RAW
    if brands & {b"avif", b"avis"}:
        return FORMATS["AVIF"]
    if brands & _HEVC or brands & {b"mif1", b"msf1"}:
        return FORMATS["HEIF"]
    return REFUSED[-1]


# The beginning of a file -> the name of its kind. One expression of all is tried against every image.
_MAGIC = (
    # Canon CR2, CRW, then Olympus, Panasonic, Fujifilm, Sigma, Minolta: an order of bytes, then their number
    (rb"II\*\0.{4}CR|.{6}HEAPCCDR|IIRO|IIRS|MMOR|IIU\0|FUJIFILMCCD-RAW|FOVb|\0MRM", "camera raw"),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (rb"8BPS", "Photoshop document"),
    (rb"gimp xcf", "GIMP document"),
    (rb"\0\0[\1\2]\0(?!\0\0)|icns", "icon"),
    (rb"DDS ", "DirectDraw surface"),
    (rb"v/1\x01", "OpenEXR image"),
    (rb"#\?RADIANCE|#\?RGBE", "Radiance HDR image"),
    (rb"P[Ff][\n\r ]", "PFM image"),
    (rb"(?:\xef\xbb\xbf)?<svg|<\?xml.*<svg", "SVG drawing"),
    (rb"%PDF", "PDF document"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript document"),
    (rb"SIMPLE  =", "FITS image"),
    (rb"qoif", "QOI image"),
    (rb"II\xbc", "JPEG XR image"),
)
_BEGINNING = re.compile(b"|".join(b"(%s)" % pattern for pattern, _ in _MAGIC), re.DOTALL)


@lru_cache
def _is_installed(package: str) -> bool:
    return find_spec(package) is not None
