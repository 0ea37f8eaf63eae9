"""`make reference`: keep the report's tables under outputs/reference and in the README."""

import shutil

from funn.config import ROOT
from funn.files import replace_file

_BEGIN, _END = "<!-- results: written by make reference -->", "<!-- /results -->"


def main() -> None:
    """Copy the tables of outputs/report, and the short one into README.md."""
    report, reference = ROOT / "outputs" / "report", ROOT / "outputs" / "reference"
    reference.mkdir(exist_ok=True)
    for path in (*report.glob("*.md"), *report.glob("*.csv"), report / "origin.txt"):
        shutil.copyfile(path, reference / path.name)
    readme = (ROOT / "README.md").read_text()
    before, _, rest = readme.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    table, origin = (reference / "overview.md").read_text(), (reference / "origin.txt").read_text()
    block = f"{_BEGIN}\n\n{table}\n{origin}\n{_END}"
    replace_file(ROOT / "README.md", f"{before}{block}{after}".encode())
    print(reference)


if __name__ == "__main__":
    main()
