"""The Python of a page in Markdown: `python tests/pages.py docs/library.md` prints it as one program."""

import re
import sys
from pathlib import Path


def blocks(page: Path) -> list[str]:
    """Returns the content of every Python block, in order."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


if __name__ == "__main__":
    print("\n\n".join(blocks(Path(sys.argv[1]))))
