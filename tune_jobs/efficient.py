"""An update that is not the study's: credit to-go, exact KL and a rate that falls, at beta 100 over 14,400 texts."""

from rl_alliteration.cli.main import run_preset

if __name__ == "__main__":
    run_preset("efficient")
