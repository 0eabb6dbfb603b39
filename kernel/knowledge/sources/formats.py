"""Which files a parser takes, told by name and media type before anything is read."""

from pathlib import PurePosixPath

_OPAQUE = frozenset(
    {"7z", "apk", "bz2", "cab", "deb", "dmg", "gz", "img", "iso", "jar", "lz4", "msi", "rar", "rpm"}
    | {"tar", "tgz", "whl", "xz", "zip", "zst", "a", "app", "bin", "class", "dll", "dylib", "exe"}
    | {"lib", "o", "obj", "pyc", "pyd", "pyo", "so", "wasm", "aac", "avi", "avif", "bmp", "cur", "dds"}
    | {"flac", "gif", "heic", "heif", "ico", "jpeg", "jpg", "m4a", "m4v", "mid", "mkv", "mov", "mp3"}
    | {"mp4", "mpeg", "mpg", "ogg", "ogv", "opus", "png", "psd", "svg", "swf", "tif", "tiff", "wav"}
    | {"webm", "webp", "wmv", "blend", "eot", "glb", "otf", "stl", "ttf", "woff", "woff2", "dat", "db"}
    | {"gguf", "keystore", "npy", "npz", "onnx", "parquet", "pb", "pkl", "pt", "pth", "safetensors"}
    | {"sqlite", "tflite"}
)
"""Endings of files without text that a parser could find."""

_READABLE = frozenset(
    {"application/epub+zip", "application/javascript", "application/json", "application/jsonl"}
    | {
        "application/ndjson",
        "application/pdf",
        "application/toml",
        "application/x-ndjson",
        "application/x-sh",
    }
    | {"application/x-yaml", "application/xml", "application/yaml"}
)
_OFFICE = "application/vnd.openxmlformats-officedocument."
_UNTOLD = frozenset({"application/octet-stream", "binary/octet-stream", "application/x-download"})
"""What servers say that do not know; the name decides."""

_TEXT_ENDINGS = {".html": "text/html", ".htm": "text/html", ".md": "text/markdown", ".csv": "text/csv"}


def readable_name(name: str) -> bool:
    """Whether the file of this name can be a document."""
    return PurePosixPath(name).suffix[1:].lower() not in _OPAQUE


def readable(media_type: str | None, name: str) -> bool:
    if media_type is None or media_type in _UNTOLD:
        return readable_name(name)
    if media_type.startswith(("text/", _OFFICE)):
        return True
    return media_type in _READABLE or media_type.endswith(("+xml", "+json"))


def text_type(name: str) -> str:
    """The media type of what is text for sure, by its name."""
    return _TEXT_ENDINGS.get(PurePosixPath(name).suffix.lower(), "text/plain")
