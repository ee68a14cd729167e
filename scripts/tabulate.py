"""Write results/TABLES.md from the records, and show it: `python -m scripts.tabulate`."""

import argparse

from memtrans.errors import UserError, main_guard
from memtrans.files import existing_folder
from memtrans.tables import tables_text
from memtrans.tables.show import write_and_show


@main_guard
def main() -> None:
    """Parse the command line, write or check TABLES.md, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.tabulate", description="Write results/TABLES.md and show it."
    )
    parser.add_argument("--results", type=existing_folder, default="results", help="folder of records/ and paper.csv")
    parser.add_argument("--configs", type=existing_folder, default="configs", help="folder of sweep/ and variant/")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if TABLES.md is stale")
    arguments = parser.parse_args()
    text, path = tables_text(arguments.results, arguments.configs), arguments.results / "TABLES.md"
    if arguments.check:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise UserError(f"{path} is stale: it does not follow from the records; run `python -m scripts.tabulate`")
        print(f"{path} is up to date")
        return
    write_and_show(arguments.results, arguments.configs)


if __name__ == "__main__":
    main()
