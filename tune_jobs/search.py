"""Search for the beta, learning rate, group size and algorithm that buy most: takes the flags of `search`.

python -m tune_jobs.search --preset frontier --storage results
"""

import sys

from rl_alliteration.cli.main import main

if __name__ == "__main__":
    main(["search", *sys.argv[1:]])
