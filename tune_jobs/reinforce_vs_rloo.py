"""The study, "REINFORCE vs RLOO": words that begin with a, two seeds of each algorithm."""

from rl_alliteration.cli.main import run_preset

if __name__ == "__main__":
    run_preset("reinforce_vs_rloo")
