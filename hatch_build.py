"""The page of the package on an index: README.md with absolute links and the index's installation.

The environment variable TSSLBP_REPOSITORY is the address of the repository. The workflow `release`
sets it. Without it, as in a local build, the text stays that of a clone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# [text](path), but neither an address nor an anchor; an exclamation mark before it is a picture.
_LINK = re.compile(r"(?P<mark>!?)\[(?P<text>[^\]]*)\]\((?![a-z]+:|#)(?P<path>[^)]+)\)")
_IN_CLONE = "pip install '.[figures]'     # in a clone; Python 3.11 or newer"
_FROM_INDEX = "pip install 'tsslbp[figures]'     # Python 3.11 or newer"


class IndexPage(MetadataHookInterface):
    """Add the description and the addresses to the metadata of the package."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        if address := os.environ.get("TSSLBP_REPOSITORY", "").rstrip("/"):
            text = with_absolute_links(text, address).replace(_IN_CLONE, _FROM_INDEX)
            metadata["urls"] = {
                "Repository": address,
                "Documentation": f"{address}/blob/HEAD/docs/guide.md",
                "Changelog": f"{address}/blob/HEAD/CHANGELOG.md",
                "Issues": f"{address}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def with_absolute_links(text: str, address: str) -> str:
    """Return a Markdown text whose links to files of the repository begin with its address."""

    def link(found: re.Match[str]) -> str:
        kind = "raw" if found["mark"] else "blob"
        return f"{found['mark']}[{found['text']}]({address}/{kind}/HEAD/{found['path']})"

    return _LINK.sub(link, text)
