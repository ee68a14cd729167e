"""Write the report from the records: `python -m scripts.report`; open results/report/index.html in any browser."""

import argparse

from memtrans.errors import main_guard
from memtrans.files import existing_folder


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.report", description="Write results/report/: index.html, REPORT.md and tables.tex."
    )
    parser.add_argument("--results", type=existing_folder, default="results", help="folder of records/ and paper.csv")
    parser.add_argument("--configs", type=existing_folder, default="configs", help="folder of sweep/ and variant/")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the report is stale")
    arguments = parser.parse_args()
    from memtrans.report.write import check, write  # here: scipy and matplotlib are slow to import

    if arguments.check:
        check(arguments.results, arguments.configs)
        print(f"{arguments.results / 'report'} is up to date")
        return
    print(write(arguments.results, arguments.configs))


if __name__ == "__main__":
    main()
