"""`python -m loratools`: the command line."""

from loratools.cli.process import main

if __name__ == "__main__":
    main()
