"""Compare translations sentence by sentence: `python -m scripts.significance`. Needs the prepared corpora, once.

Every row with its baseline, and the rows that results/claims.yaml compares: paired bootstrap and approximate
randomisation of each seed, a bootstrap of the mean. Kept in results/significance/, where the report reads it; what is
there already is not computed again.
"""

import argparse
from pathlib import Path

from memtrans.errors import main_guard
from memtrans.files import existing_folder
from memtrans.records import load_all
from memtrans.sweeps_spec import load_sweeps
from memtrans.tables import build_tables


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.significance", description="Compare kept translations sentence by sentence."
    )
    parser.add_argument("--results", type=existing_folder, default="results", help="folder of records/ and hypotheses/")
    parser.add_argument("--configs", type=existing_folder, default="configs", help="folder of sweep/ and variant/")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of prepared corpora")
    arguments = parser.parse_args()
    from memtrans.claims import load_claims  # here: scipy is slow to import
    from memtrans.significance.compute import compute

    sweeps = load_sweeps(arguments.configs)
    claims = load_claims(arguments.results / "claims.yaml", sweeps)
    wanted = {(test.row, test.than) for claim in claims for test in claim.tests}
    tables = build_tables(load_all(arguments.results / "records"), sweeps, {})
    written = compute(arguments.results, arguments.data, tables, wanted)
    print(f"{len(written)} comparisons written to {arguments.results / 'significance'}")


if __name__ == "__main__":
    main()
