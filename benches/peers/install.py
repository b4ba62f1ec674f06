"""Installs what our kernels are compared with, by pip, into a virtual environment of its own: the folder that is named.

PyTorch's wheel brings its CUDA libraries, and does not start without them: about six gigabytes. vLLM's wheel for processors asks
for an older PyTorch and for a whole server; one operator of it is timed, which runs without either, so it comes alone.
"""

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    folder = Path(sys.argv[1])
    stamp, python = folder / "installed.txt", folder / "bin" / "python"
    wanted = "".join((HERE / name).read_text() for name in ("requirements.txt", "alone.txt"))
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing peers into {folder} (about 6 GB, some minutes)", file=sys.stderr)
    venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(HERE / "requirements.txt")], check=True)
    alone = subprocess.run([*pip, "--no-deps", "-r", str(HERE / "alone.txt")])
    if alone.returncode != 0:
        print("vLLM cannot be installed here: see above; it is reported as unavailable", file=sys.stderr)
        return
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
