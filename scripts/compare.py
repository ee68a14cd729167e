"""Compare two folders of results: `python -m scripts.compare results ../theirs/results`. Prints Markdown."""

import argparse

from memtrans.errors import main_guard
from memtrans.files import existing_folder


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.compare", description="Compare two folders of results, row by row."
    )
    parser.add_argument("one", metavar="A", type=existing_folder, help="folder of results, with records/ in it")
    parser.add_argument("other", metavar="B", type=existing_folder, help="another one")
    parser.add_argument("--configs", type=existing_folder, default="configs", help="folder of sweep/ and variant/")
    arguments = parser.parse_args()
    from memtrans.comparing import Folder, compare_folders, only_in  # here: scipy is slow to import
    from memtrans.report.texts import markdown

    one, other = (Folder.load(path, arguments.configs) for path in (arguments.one, arguments.other))
    print(f"# A: {one.name}, B: {other.name}\n")
    print("\n".join(markdown(grid) for grid in compare_folders(one, other)), end="")
    for letter, rows in (("A", only_in(one, other)), ("B", only_in(other, one))):
        if rows:
            print(f"\nOnly in {letter}: {', '.join(rows)}.")


if __name__ == "__main__":
    main()
