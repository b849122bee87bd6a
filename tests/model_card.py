"""The code of an export's model card, run as a user runs it."""

import os
import re
import runpy


def printed(folder, capsys):
    """Yields what each Python block of README.md prints when it runs in the folder, in order."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    here = os.getcwd()
    for number, block in enumerate(blocks):
        (folder / f"{number}.py").write_text(block)
        try:
            os.chdir(folder)
            runpy.run_path(f"{number}.py")
        finally:
            os.chdir(here)
        yield capsys.readouterr().out
