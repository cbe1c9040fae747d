"""Commands → a picture of a terminal that ran them, with their real output.

    python -m tools.terminal tools/pictures/fill.svg "jaxlm fill runs/austen …" …

Long lines are wrapped. Only standard output is shown. `report.png` beside it is the
page of `jaxlm report runs/austen`, by `chromium --headless --screenshot`.
"""

import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text


def main() -> None:
    out, *commands = sys.argv[1:]
    console = Console(record=True, width=96, file=open("/dev/null", "w"))  # noqa: SIM115
    for command in commands:
        real = re.sub(r"^jaxlm", f"{sys.executable} -m jaxlm", command)
        ran = subprocess.run(real, shell=True, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        console.print(Text(f"$ {command}", style="bold bright_green"))
        console.print(Text(ran.stdout))
    svg = console.export_svg(title="jaxlm")
    # No font is fetched when the picture is shown.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "ui-monospace")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(svg, "utf-8")


if __name__ == "__main__":
    main()
