"""`python -m rl_alliteration.cli`."""

from rl_alliteration.cli.main import main

if __name__ == "__main__":
    main()
