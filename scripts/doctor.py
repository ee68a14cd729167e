"""What is installed, which GPU, what is missing and how to mend it: `python -m scripts.doctor`.

Exit status 0 if the demo could run, 1 otherwise.
"""

import argparse

from memtrans.doctor import main

if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m scripts.doctor",
        description="What is installed, which GPU, what is missing and how to mend it; status 0 if the demo could run.",
    ).parse_args()
    main()
