"""The study, "First sweep": beta 0 to 100."""

from rl_alliteration.cli.main import run_preset

if __name__ == "__main__":
    run_preset("beta_coarse")
