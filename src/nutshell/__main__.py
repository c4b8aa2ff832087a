"""`python -m nutshell`: the same command as `nutshell`, for fresh processes that the pipeline starts."""

from nutshell.cli import main

if __name__ == "__main__":
    main()
