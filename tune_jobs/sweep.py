"""Any sweep: the flags of `rl-alliteration sweep`."""

from rl_alliteration.cli.main import run_preset

if __name__ == "__main__":
    run_preset()
