"""A sweep in minutes on a laptop: with beta 0 the model collapses, with beta 100 it goes on telling stories; and one
trial of `efficient`, whose update is not the study's."""

from rl_alliteration.cli.main import run_preset

if __name__ == "__main__":
    run_preset("quickstart")
